"""Writes voc.json: python -m tests.data.golden.run_voc MMDETECTION, a folder with `mmdet/`.

The three files of MMDetection 3.3.0 are run alone, with numpy's stable sorting in place of its
default one (so that equal scores have one order on every machine) and without processes.
"""
import json
import sys
import types
from importlib import util
from itertools import product
from pathlib import Path

import numpy as np

from tests.data.golden.tide_sets import drawn_sets

IOU_THRS = (0.3, 0.5, 0.7)
SCALES = ((0, 48), (48, 96), (96, 1000))
NUMS = (1, 3, 10)


class _Numpy:
    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def argsort(values):
        return np.argsort(values, kind='stable')

    @staticmethod
    def array(values, *args, **kwargs):
        ragged = isinstance(values, list) and len({np.shape(value) for value in values}) > 1
        return np.array(values, object) if ragged else np.array(values, *args, **kwargs)


class _Pool:
    def __init__(self, processes):
        pass

    def starmap(self, function, arguments):
        return [function(*each) for each in arguments]

    def close(self):
        pass


def load(folder):
    """Return its modules `mean_ap` and `recall`."""
    sys.modules['terminaltables'] = types.SimpleNamespace(AsciiTable=None)
    package = sys.modules['functional'] = types.ModuleType('functional')
    package.__path__ = []
    names = sys.modules['functional.class_names'] = types.ModuleType('class_names')
    names.get_classes = None
    modules = []
    for name in ('bbox_overlaps', 'mean_ap', 'recall'):
        file = Path(folder) / 'mmdet' / 'evaluation' / 'functional' / f'{name}.py'
        spec = util.spec_from_file_location(f'functional.{name}', file)
        module = sys.modules[spec.name] = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.np = _Numpy()
        modules.append(module)
    modules[1].Pool, modules[2].print_recall_summary = _Pool, lambda *args, **kwargs: None
    return modules[1:]


def arrays(truth, results):
    """Return annotations and detections per image and class, as eval_map takes them."""
    count, annotations, detections = len(truth['categories']), [], []
    for image in truth['images']:
        mine = [a for a in truth['annotations'] if a['image_id'] == image['id']]
        found = [r for r in results if r['image_id'] == image['id']]
        ann = {}
        for ending, crowd in (('', 0), ('_ignore', 1)):
            part = [a for a in mine if a['iscrowd'] == crowd]
            ann[f'bboxes{ending}'] = corners(part)
            ann[f'labels{ending}'] = np.array([a['category_id'] - 1 for a in part], int)
        scores = np.array([r['score'] for r in found], np.float32)[:, None]
        labels = np.array([r['category_id'] for r in found], int)
        rows = np.hstack([corners(found), scores])
        annotations.append(ann)
        detections.append([rows[labels == label + 1] for label in range(count)])
    return annotations, detections


def corners(entries):
    boxes = np.array([each['bbox'] for each in entries], np.float32).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def main():
    mean_ap, recall = load(sys.argv[1])
    figures = {}
    for name, (truth, results) in drawn_sets().items():
        annotations, detections = arrays(truth, results)
        figures[name] = {}
        for mode, thr in product(('11points', 'area'), IOU_THRS):
            kwargs = dict(iou_thr=thr, eval_mode=mode, use_legacy_coordinate=True, logger='silent')
            overall, classes = mean_ap.eval_map(detections, annotations, **kwargs)
            scales, _ = mean_ap.eval_map(detections, annotations, scale_ranges=SCALES, **kwargs)
            figures[name][f'{mode} {thr}'] = {
                'mean': float(overall),
                'scales': [float(each) for each in scales],
                'classes': [float(each['ap']) for each in classes],
                'objects': [int(each['num_gts']) for each in classes],
            }
        if name not in ('ties', 'equal scores', 'perfect'):  # its order of equal scores is reversed
            every = [np.vstack(image) for image in detections]
            bboxes = [each['bboxes'] for each in annotations]
            values = recall.eval_recalls(bboxes, every, NUMS, list(IOU_THRS), 'silent', True)
            figures[name]['recall'] = values.tolist()
    file = Path(__file__).with_name('voc.json')
    file.write_text(json.dumps(figures) + '\n')


if __name__ == '__main__':
    main()

import json

import numpy as np
import pytest
import torch

from ghmdet.evaluation import VOCMetric, voc_metric
from tests.data.golden.run_voc import IOU_THRS, NUMS
from tests.data.golden.tide_sets import drawn_sets
from tests.golden import FOLDER

GOLDEN = json.loads((FOLDER / 'voc.json').read_text())
SETS = drawn_sets()


@pytest.fixture
def logged(monkeypatch):
    messages = []
    monkeypatch.setattr(
        voc_metric, 'print_log', lambda text, *args, **kwargs: messages.append(text)
    )
    return messages


def sample(img_id, objects, found):
    """`objects` are (x1, y1, x2, y2, label, difficult), `found` (x1, y1, x2, y2, label, score)."""
    rows = torch.tensor(objects, dtype=torch.float32).reshape(-1, 6)
    gone = rows[:, 5] > 0
    truth, ignored = (
        {'bboxes': part[:, :4], 'labels': part[:, 4].long()} for part in (rows[~gone], rows[gone])
    )
    boxes = torch.tensor(found, dtype=torch.float32).reshape(-1, 6)
    instances = {'bboxes': boxes[:, :4], 'labels': boxes[:, 4].long(), 'scores': boxes[:, 5]}
    return {
        'img_id': img_id,
        'img_path': f'{img_id}.jpg',
        'gt_instances': truth,
        'ignored_instances': ignored,
        'pred_instances': instances,
    }


def evaluate(samples, classes=('cat', 'dog'), dataset_type=None, **kwargs):
    metric = VOCMetric(**kwargs)
    metric.dataset_meta = {'classes': classes, 'dataset_type': dataset_type}
    metric.process(None, samples)
    return metric.evaluate(len({each['img_id'] for each in samples}))


def from_coco(truth, results):
    samples = []
    for image in truth['images']:
        parts = []
        for entries, last in ((truth['annotations'], 'iscrowd'), (results, 'score')):
            mine = [each for each in entries if each['image_id'] == image['id']]
            boxes = ((*each['bbox'], each['category_id'] - 1, each[last]) for each in mine)
            parts.append([(x, y, x + w, y + h, *rest) for x, y, w, h, *rest in boxes])
        samples.append(sample(image['id'], *parts))
    return samples


# 10 pixels wide by VOC's rule; the second is taken twice, the last is difficult.
TABLE = [
    sample('a', [(0, 0, 9, 9, 0, 0), (20, 0, 29, 9, 0, 0)], [
        (0, 0, 9, 9, 0, 0.9),  # true
        (20, 0, 29, 9, 0, 0.8),  # true
        (20, 0, 29, 8, 0, 0.7),  # false: taken already
    ]),
    sample('b', [(0, 0, 9, 9, 0, 0), (40, 0, 49, 9, 0, 1)], [
        (40, 0, 49, 9, 0, 0.95),  # difficult: does not count
        (40, 0, 49, 8, 0, 0.94),  # neither
        (0, 0, 9, 4, 0, 0.6),  # true: an IoU of 0.5
        (60, 0, 69, 9, 0, 0.5),  # false
        (0, 0, 9, 9, 1, 0.5),  # of a class without objects
    ]),
    sample('c', [(0, 0, 9, 9, 0, 0)], []),
]  # fmt: skip


def test_a_table_worked_by_hand():
    # By score: 1/1, 2/2, 2/3, 3/4, 3/5 at recalls 1/4, 1/2, 1/2, 3/4, 3/4 of 4 objects.
    values = evaluate(TABLE)
    assert values['pascal_voc/AP50'] == pytest.approx((6 * 1 + 2 * 0.75) / 11, abs=1e-12)
    assert values['pascal_voc/mAP'] == values['pascal_voc/AP50']  # the class dog is left out
    values = evaluate(TABLE, eval_mode='area')
    assert values['pascal_voc/AP50'] == pytest.approx(0.5 * 1 + 0.25 * 0.75, abs=1e-12)
    values = evaluate(TABLE, iou_thrs=[0.5, 0.51], eval_mode='area', prefix='voc')
    # The box with an IoU of 0.5 is now false.
    assert values == pytest.approx(
        {'voc/mAP': (0.6875 + 0.5) / 2, 'voc/AP50': 0.6875, 'voc/AP51': 0.5}
    )


def test_recall_worked_by_hand():
    values = evaluate(TABLE, metric='recall', proposal_nums=(1, 3), iou_thrs=[0.5, 0.95])
    assert values == pytest.approx(
        {
            'pascal_voc/recall@1@0.5': 1 / 4,  # in b it is on the difficult object
            'pascal_voc/recall@1@0.95': 1 / 4,
            'pascal_voc/recall@3@0.5': 3 / 4,
            'pascal_voc/recall@3@0.95': 2 / 4,
            'pascal_voc/AR@1': 1 / 4,
            'pascal_voc/AR@3': 5 / 8,
        }
    )


@pytest.mark.parametrize('mode', ['11points', 'area'])
@pytest.mark.parametrize('name', GOLDEN)
def test_it_equals_mmdetections(name, mode):
    truth, results = SETS[name]
    classes = [category['name'] for category in truth['categories']]
    settings = dict(eval_mode=mode, iou_thrs=IOU_THRS)
    values = evaluate(from_coco(truth, results), classes, **settings)
    wanted = {thr: GOLDEN[name][f'{mode} {thr}'] for thr in IOU_THRS}
    expected = {f'pascal_voc/AP{100 * thr:g}': wanted[thr]['mean'] for thr in IOU_THRS}
    expected |= {'pascal_voc/mAP': np.mean([wanted[thr]['mean'] for thr in IOU_THRS])}
    assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('name', [name for name in GOLDEN if 'recall' in GOLDEN[name]])
def test_recalls_equal_mmdetections(name):
    settings = dict(metric='recall', iou_thrs=IOU_THRS, proposal_nums=NUMS)
    truth, results = SETS[name]
    classes = [category['name'] for category in truth['categories']]
    values = evaluate(from_coco(truth, results), classes, **settings)
    wanted = np.array(GOLDEN[name]['recall'])
    for i, n in enumerate(NUMS):
        assert values[f'pascal_voc/AR@{n}'] == pytest.approx(wanted[i].mean(), abs=1e-6)
        for j, thr in enumerate(IOU_THRS):
            assert values[f'pascal_voc/recall@{n}@{thr}'] == pytest.approx(wanted[i, j], abs=1e-6)


def test_each_class_equals_mmdetections(logged):
    truth, results = SETS['mixed']
    evaluate(from_coco(truth, results), ['c1', 'c2', 'c3', 'c4'], iou_thrs=0.5)
    wanted = GOLDEN['mixed']['11points 0.5']
    rows = [line.split() for line in logged[0].splitlines() if line.startswith('c')]
    assert rows[0] == ['class', 'objects', 'detections', 'AP50']
    assert [row[0] for row in rows[1:]] == ['c1', 'c2', 'c3', 'c4']
    assert [int(row[1]) for row in rows[1:]] == wanted['objects']
    assert [row[3] for row in rows[1:]] == [f'{ap:.3f}' for ap in wanted['classes']]


def test_nothing_found_and_nothing_to_find(logged):
    empty = [{**each, 'pred_instances': sample('x', [], [])['pred_instances']} for each in TABLE]
    assert evaluate(empty) == {'pascal_voc/mAP': 0, 'pascal_voc/AP50': 0}
    assert evaluate(empty, metric='recall', proposal_nums=1) == {'pascal_voc/recall@1@0.5': 0}
    difficult = [sample('a', [(0, 0, 9, 9, 0, 1)], [(0, 0, 9, 9, 0, 0.5)])]
    logged.clear()
    assert np.isnan(list(evaluate(difficult).values())).all()
    assert logged == ['VOCMetric: there is no object to find, so all metrics are n/a (nan)']


def test_repeated_images_count_once():
    assert evaluate([*TABLE, *TABLE[:2]]) == evaluate(TABLE)


def test_keys_are_known_before():
    for kwargs in (
        {},
        {'iou_thrs': [0.05, 0.575]},
        {'metric': ['recall'], 'iou_thrs': [0.5, 0.75]},
    ):
        keys = VOCMetric(**kwargs).result_keys()
        assert keys == list(evaluate(TABLE, **kwargs))
    assert VOCMetric(iou_thrs=[0.05, 0.575]).result_keys()[1:] == [
        'pascal_voc/AP05',
        'pascal_voc/AP57.5',
    ]


@pytest.mark.follows('VOCMetric: {} must be one of')
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'metric': 'map'}, r"metric must be one of \('mAP', 'recall'\), got 'map'"),
        ({'metric': ['mAP', 'recall']}, 'metric must be one of'),
        ({'eval_mode': '11point'}, r"eval_mode must be one of \('11points', 'area'\)"),
        ({'iou_thrs': 50}, r'VOCMetric: iou_thrs must be within \(0, 1\], got 50'),
        ({'scale_ranges': [(0, 32)]}, r'scale_ranges must be one of \(None,\), got \[\(0, 32\)\]'),
        ({'proposal_nums': 0}, 'VOCMetric: proposal_nums must be positive integers'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VOCMetric(**kwargs)
    right = dict(eval_mode='area', metric='mAP', scale_ranges=None, iou_thrs=0.5)
    assert evaluate(TABLE, **right)['pascal_voc/AP50'] == 0.6875


def test_a_label_without_class_and_no_ground_truth():
    with pytest.raises(ValueError, match=r"image 'a' has label 0, but .* has 0 names"):
        evaluate(TABLE, classes=())
    bare = {key: value for key, value in TABLE[0].items() if 'instances' not in key[2:]}
    bare['pred_instances'] = TABLE[0]['pred_instances']
    with pytest.raises(
        ValueError, match="VOCMetric: no ground truth for image 'a': without ann_file the samples"
    ):
        evaluate([bare])


def test_an_unusual_mode_is_a_warning(logged):
    text = "VOC2012 is usually measured by eval_mode='area', not '11points'"
    evaluate(TABLE, dataset_type='VOC2012')
    assert text in logged[0]
    logged.clear()
    evaluate(TABLE, dataset_type='VOC2007')
    evaluate(TABLE, dataset_type='VOC2012', eval_mode='area')
    assert 'usually' not in ''.join(logged)

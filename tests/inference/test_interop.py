"""docs/use/interop.md: its blocks where their tools are installed; files for labelling tools."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ghmdet import Detector, DetInferencer, get_model, predict
from ghmdet.engine import inference_detector
from tests.detectors import randomize

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/use/interop.md').read_text()
PARTS = re.split(r'^#+ (.+)\n', PAGE, flags=re.MULTILINE)
BLOCKS = {
    heading: code
    for heading, text in zip(PARTS[1::2], PARTS[2::2], strict=True)
    for code in re.findall(r'```\w*\n(.*?)```', text, re.DOTALL)
}
CLASSES = ('circle', 'square', 'triangle')


@pytest.fixture(scope='module')
def weights(shapes, tmp_path_factory):
    """Random ones with high scores, few of them equal."""
    model, file = get_model(shapes / 'config.py'), tmp_path_factory.mktemp('w') / 'model.pth'
    randomize(model)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), file)
    return file


@pytest.fixture
def folder(shapes, weights, tmp_path, monkeypatch):
    """The files that the page names: config.py, model.pth, photo.jpg and photos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'model.pth').symlink_to(weights)
    for name in ('config.py', 'photos'):
        (tmp_path / name).symlink_to(shapes / name)
    cv2.imwrite('photo.jpg', cv2.imread('photos/a/0.png'))
    return tmp_path


def run(heading):
    """Return the names that the first block of the page and that of a section define."""
    names = {}
    for each in ('Other tools', heading):
        exec(compile(BLOCKS[each], f'{heading} of interop.md', 'exec'), names)
    return names


def test_each_block_is_run_here():
    tested = ['supervision', 'sahi', 'torchmetrics', 'Labelling tools']
    assert [*BLOCKS] == ['Other tools', *tested]
    assert PAGE.count('```') == 2 * len(BLOCKS)


def test_supervision(folder):
    sv = pytest.importorskip('supervision')
    names = run('supervision')
    found = names['detector']('photo.jpg')
    assert len(found) > 10
    model, image = names['detector'].model, names['image']
    inferencer = DetInferencer(model, show_progress=False)
    samples = inferencer(image, return_datasamples=True)['predictions']
    samples += [inference_detector(model, image)]
    for each in (names['detections'], *map(sv.Detections.from_mmdetection, samples)):
        assert np.array_equal(each.xyxy, names['detector'](image).boxes)
        assert np.array_equal(each.class_id, names['detector'](image).labels)
    assert names['detections'].data['class_name'].tolist() == names['detector'](image).names
    assert (names['drawn'] != image).any()
    assert len(names['sliced']) > 0


def test_sahi(folder):
    sahi = pytest.importorskip('sahi.predict')
    names = run('sahi')
    assert len(names['results']) > 0
    assert {each['category_name'] for each in names['results']} <= set(CLASSES)
    assert all(CLASSES[each['category_id']] == each['category_name'] for each in names['results'])
    result = sahi.get_prediction('photo.jpg', names['sliceable'])  # without slices
    expected = names['detector']('photo.jpg').above(0.3).boxes
    found = [each.bbox.to_xyxy() for each in result.object_prediction_list]
    assert len(found) == len(expected) > 10
    np.testing.assert_allclose(sorted(found), sorted(expected.tolist()), atol=1e-3)


def test_torchmetrics(folder):
    pytest.importorskip('torchmetrics')
    names = run('torchmetrics')
    assert 0 <= names['average_precision'] <= 1
    truth = names['model']([names['photo']])
    metric = names['MeanAveragePrecision'](backend='faster_coco_eval')
    metric.update(names['model']([names['photo']]), truth)
    assert metric.compute()['map'].item() == pytest.approx(1)


@pytest.fixture
def coco(folder, monkeypatch):
    """What the command of the page writes, and the detections."""
    python, tool, *words = shlex.split(BLOCKS['Labelling tools'])
    assert python == 'python'
    assert (ROOT / tool).is_file()
    files = dict(CONFIG='config.py', CHECKPOINT='model.pth')
    monkeypatch.setattr(sys, 'argv', [tool, *[files.get(word, word) for word in words]])
    predict.main()
    detector = Detector('config.py', 'model.pth', device='cpu')
    found = [each.above(0.3) for each in detector.stream('photos')]
    return json.loads(Path('found.json').read_text()), found


def test_fields_that_the_readers_of_cvat_and_fiftyone_demand(coco):
    """CVAT: datumaro's coco_format/extractor.py; fiftyone: utils/coco.py."""
    data, found = coco
    types = dict(
        categories=dict(id=int, name=str),
        images=dict(id=int, file_name=str, width=int, height=int),
        annotations=dict(
            id=int, image_id=int, category_id=int, bbox=list, area=float, iscrowd=int,
            score=float, segmentation=list,
        ),
    )  # fmt: skip
    for key, fields in types.items():
        assert [each['id'] for each in data[key]] == [*range(1, len(data[key]) + 1)]
        for each in data[key]:
            assert {name: type(value) for name, value in each.items()} == fields
    assert [each['name'] for each in data['categories']] == [*CLASSES]
    assert all((Path('photos') / each['file_name']).is_file() for each in data['images'])
    assert [(x['height'], x['width']) for x in data['images']] == [each.shape for each in found]
    boxes = [box for each in found for box in each.boxes.tolist()]
    for annotation, (x1, y1, x2, y2) in zip(data['annotations'], boxes, strict=True):
        assert annotation['bbox'] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
        assert annotation['segmentation'] == []  # then CVAT reads the box
        assert annotation['iscrowd'] == 0


def test_the_converter_of_label_studio(coco):
    pytest.importorskip('label_studio_sdk')
    (words,) = re.findall(r'`label-(studio-converter import coco [^`]+)`', PAGE)
    words = words.replace('URL', 'http://127.0.0.1/photos').split()[1:]
    module = [sys.executable, '-m', 'label_studio_sdk.converter.main']
    subprocess.run([*module, *words], check=True, timeout=100)
    tasks, (_, found) = json.loads(Path('tasks.json').read_text()), coco
    for task, expected in zip(tasks, found, strict=True):
        assert task['data'] == dict(image=f'http://127.0.0.1/photos/{expected.name}')
        (prediction,) = task['predictions']
        scale = np.tile(expected.shape[::-1], 2) / 100
        values = [each['value'] for each in prediction['result']]
        assert [value['rectanglelabels'] for value in values] == [[x] for x in expected.names]
        xywh = [[value[key] for key in ('x', 'y', 'width', 'height')] for value in values]
        x, y, w, h = (np.reshape(xywh, (-1, 4)) * scale).T
        np.testing.assert_allclose(np.stack([x, y, x + w, y + h], 1), expected.boxes, atol=1e-3)

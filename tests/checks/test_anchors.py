"""The warning about boxes that no anchor fits, and when there is none."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import Compose, RandomChoiceResize, Resize
from mmengine.dataset import ConcatDataset

from ghmdet.checks import anchors as anchor_check
from ghmdet.checks.anchors import (
    SeenBoxes,
    UnknownTransformError,
    read_boxes,
    resize_boxes,
    warn_of_unmatched_boxes,
)
from ghmdet.registry import DATASETS, MODELS
from tests.detectors import detector_cfg


@pytest.fixture
def messages(monkeypatch):
    """What is logged, with its level."""
    said = []
    monkeypatch.setattr(
        anchor_check,
        'print_log',
        lambda text, logger=None, level=20: said.append((level, text)),
    )
    return said


def make_dataset(folder, sides, pipeline=(), name='train.json', crowd=()):
    """One 320 x 320 image with a square of each side."""
    (folder / 'img').mkdir(exist_ok=True)
    annotations = [
        dict(id=i + 1, image_id=1, category_id=1, bbox=[20, 20, side, side], area=side**2)
        | dict(iscrowd=int(i in crowd))
        for i, side in enumerate(sides)
    ]
    content = dict(
        images=[dict(id=1, file_name='a.png', width=320, height=320)],
        categories=[dict(id=1, name='cat')],
        annotations=annotations,
    )
    (folder / name).write_text(json.dumps(content))
    cfg = dict(type='CocoDataset', data_root=str(folder), ann_file=name, pipeline=list(pipeline))
    return DATASETS.build(cfg | dict(metainfo=dict(classes=('cat',)), data_prefix=dict(img='img')))


@pytest.fixture(scope='module')
def detector():
    return MODELS.build(detector_cfg(num_classes=1))


@pytest.fixture
def check(detector, messages):
    """Return what is logged."""

    def check(dataset, model=detector, **limits):
        messages.clear()
        limits = dict(max_share=0.1, max_images=1000, max_boxes=5000) | limits
        warn_of_unmatched_boxes(model, dataset, **limits)
        return messages

    return check


def test_one_warning_if_boxes_are_unmatched(tmp_path, check):
    # The smallest anchor is 32 x 32: an 8 x 8 box covers a sixteenth of it.
    ((level, text),) = check(make_dataset(tmp_path, [8, 32, 40, 64, 128]))
    assert level == 30
    assert text.startswith(
        '20% of 5 boxes looked at in the training set have no anchor of IoU >= 0.5 '
        '(train_cfg.assigner.pos_iou_thr) and will hardly be learnt: '
        'tools/analysis_tools/anchor_report.py CONFIG'
    )


def test_none_if_they_fit_or_are_few(tmp_path, check):
    for sides in ([], [32, 40, 64], [8, *[64] * 9]):  # exactly 10 %
        assert check(make_dataset(tmp_path, sides)) == []
    assert check(make_dataset(tmp_path, [8, 32, 64], crowd=[0])) == []
    assert check(make_dataset(tmp_path, [8, 32]), max_share=0.5) == []


def test_boxes_are_scaled_as_by_the_pipeline(tmp_path, check):
    larger = [dict(type='Resize', scale=(1280, 1280), keep_ratio=True)]
    # The smallest becomes 32.
    assert check(make_dataset(tmp_path, [8, 32, 40, 64, 128], larger)) == []
    smaller = [dict(type='Resize', scale=(80, 80), keep_ratio=True)]
    ((_, text),) = check(make_dataset(tmp_path, [32, 40, 200], smaller))
    assert '67% of 3 boxes' in text


def test_concatenated_datasets_and_samples(tmp_path, check):
    parts = [
        make_dataset(tmp_path, [8] * 50, name='a.json'),
        make_dataset(tmp_path, [64] * 50, name='b.json'),
    ]
    ((_, text),) = check(ConcatDataset(parts), max_boxes=20)
    assert text.startswith('50% of 20 boxes looked at')


def test_custom_parts_are_skipped(tmp_path, check):
    odd = make_dataset(tmp_path, [8])

    class Mosaic:
        pass

    odd.pipeline.transforms.append(Mosaic())
    ((level, text),) = check(odd)
    assert level == 10
    assert 'it is not known how Mosaic' in text
    plain = make_dataset(tmp_path, [8])
    other_head = torch.nn.Module()
    other_head.bbox_head = SimpleNamespace(prior_generator=None, assigner=None)
    for model, dataset in ((torch.nn.Module(), plain), (other_head, plain)):
        assert [level for level, _ in check(dataset, model)] == [10]
    assert [level for level, _ in check([1, 2, 3])] == [10]


def test_reading(tmp_path):
    found = read_boxes(make_dataset(tmp_path, [8, 32, 50], crowd=[1]), [0, 0])
    assert found.bboxes.tolist() == [[20, 20, 28, 28], [20, 20, 70, 70]] * 2
    assert found.image_wh.tolist() == [[320, 320]] * 4
    assert found.image_inds.tolist() == [0, 0, 1, 1]


def boxes_of(*sizes_wh):
    """In each image a box from its middle to its end."""
    ends = torch.tensor(sizes_wh).float()
    return SeenBoxes(torch.cat([ends / 2, ends], 1), ends, torch.arange(len(ends)))


def test_resizing_worked_by_hand():
    seen = boxes_of((640, 480), (500, 333))
    bboxes, input_wh = resize_boxes(seen, [Resize((1333, 800), keep_ratio=True)], divisor=32)
    # 640 x 480 by 5/3 is 1067 x 800; 500 x 333 by 800/333 is 1201 x 800.
    assert input_wh.tolist() == [[1088, 800], [1216, 800]]
    assert bboxes[:, 2:].tolist() == [[1067, 800], [1201, 800]]
    assert bboxes[:, :2].tolist() == [[533.5, 400], [600.5, 400]]
    bboxes, input_wh = resize_boxes(seen, [Resize((100, 50), keep_ratio=False)])
    assert input_wh.tolist() == [[100, 50], [100, 50]]
    bboxes, input_wh = resize_boxes(seen, Compose([]).transforms)
    assert bboxes.equal(seen.bboxes)


def test_images_take_turns_with_the_scales():
    seen = boxes_of((100, 100), (100, 100), (100, 100))
    step = RandomChoiceResize(scales=[(200, 200), (50, 50)], keep_ratio=True)
    assert resize_boxes(seen, [step])[1].tolist() == [[200, 200], [50, 50], [200, 200]]


@pytest.mark.parametrize('step', [Resize(scale_factor=2.0), object()], ids=['factor', 'foreign'])
def test_unknown_steps(step):
    name = type(step).__name__
    with pytest.raises(
        UnknownTransformError, match=f'not known how {name}, a step of the training'
    ):
        resize_boxes(boxes_of((10, 10)), [step])

"""The warning about boxes that no anchor fits, and when there is none."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import RandomChoiceResize, RandomResize, Resize
from mmengine.dataset import ConcatDataset

from ghmdet.checks import anchors as anchor_check
from ghmdet.checks.anchors import SeenBoxes, read_boxes, resize_boxes, warn_of_unmatched_boxes
from ghmdet.registry import DATASETS
from tests.checks.conftest import write_squares
from tests.detectors import detector


@pytest.fixture
def make(tmp_path):
    """Build a dataset of one image of 320 x 320 pixels with a square of each side."""

    def make(sides, pipeline=(), name='train.json', crowd=()):
        write_squares(tmp_path / name, 320, sides, crowd)
        cfg = dict(type='CocoDataset', data_root=str(tmp_path), ann_file=name, pipeline=pipeline)
        return DATASETS.build(cfg | dict(metainfo=dict(classes=('cat',))))

    return make


build_once = cache(detector)


@pytest.fixture
def check(monkeypatch):
    """Return what is logged, with its level."""

    def check(dataset, model=None, **limits):
        messages = []
        monkeypatch.setattr(
            anchor_check, 'print_log', lambda text, logger, level: messages.append((level, text))
        )
        limits = dict(max_share=0.1, max_images=1000, max_boxes=5000) | limits
        warn_of_unmatched_boxes(model or build_once(num_classes=1), dataset, **limits)
        return messages

    return check


def test_one_warning_if_boxes_are_unmatched(make, check):
    # The smallest anchor is 32 x 32: an 8 x 8 box covers a sixteenth of it.
    ((level, text),) = check(make([8, 32, 40, 64, 128]))
    assert level == 30
    assert text.startswith(
        '20% of 5 boxes looked at in the training set have no anchor of IoU >= 0.5 '
        '(train_cfg.assigner.pos_iou_thr) and will hardly be learnt: '
        'tools/analysis_tools/anchor_report.py CONFIG'
    )
    smaller = [dict(type='Resize', scale=(80, 80), keep_ratio=True)]
    ((_, text),) = check(make([32, 40, 200], smaller))
    assert '67% of 3 boxes' in text


@pytest.mark.parametrize(
    ('sides', 'options', 'limits'),
    [
        ([], {}, {}),
        ([32, 40, 64], {}, {}),
        ([8, *[64] * 9], {}, {}),  # exactly 10 %
        ([8, 32, 64], dict(crowd=[0]), {}),
        ([8, 32], {}, dict(max_share=0.5)),
        # The smallest becomes 32.
        ([8, 32], dict(pipeline=[dict(type='Resize', scale=(1280, 1280), keep_ratio=True)]), {}),
    ],
)
def test_none_if_they_fit_or_are_few(make, check, sides, options, limits):
    assert check(make(sides, **options), **limits) == []


def test_concatenated_datasets_and_samples(make, check):
    parts = [make([side] * 50, name=f'{side}.json') for side in (8, 64)]
    ((_, text),) = check(ConcatDataset(parts), max_boxes=20)
    assert text.startswith('50% of 20 boxes looked at')


def test_custom_parts_are_skipped(make, check):
    odd, plain, other_head = make([8]), make([8]), torch.nn.Module()
    odd.pipeline.transforms.append(torch.nn.ReLU())
    ((level, text),) = check(odd)
    assert level == 10
    assert 'it is not known how ReLU' in text
    other_head.bbox_head = SimpleNamespace(prior_generator=None, assigner=None)
    for found in (check(plain, torch.nn.Module()), check(plain, other_head), check([1, 2, 3])):
        assert [level for level, _ in found] == [10]


def test_reading(make):
    found = read_boxes(make([8, 32, 50], crowd=[1]), [0, 0])
    assert found.bboxes.tolist() == [[40, 40, 48, 48], [40, 40, 90, 90]] * 2
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
    _, input_wh = resize_boxes(seen, [Resize((100, 50), keep_ratio=False)])
    assert input_wh.tolist() == [[100, 50], [100, 50]]
    assert resize_boxes(seen, [])[0].equal(seen.bboxes)


def test_images_use_the_scales_in_turn():
    step = RandomChoiceResize(scales=[(200, 200), (50, 50)], keep_ratio=True)
    _, input_wh = resize_boxes(boxes_of(*[(100, 100)] * 3), [step])
    assert input_wh.tolist() == [[200, 200], [50, 50], [200, 200]]


@pytest.mark.parametrize(
    'step',
    [
        RandomResize((40, 40), ratio_range=(0.5, 2), keep_ratio=True),  # 20 to 80, mean 50
        RandomResize([(40, 20), (60, 80)], keep_ratio=True),
    ],
)
def test_of_random_sizes_the_mean_is_taken(step):
    _, input_wh = resize_boxes(boxes_of((100, 100), (100, 50)), [step])
    assert input_wh.tolist() == [[50, 50], [50, 25]]


@pytest.mark.parametrize('step', [Resize(scale_factor=2.0), object()])
def test_unknown_steps(step):
    with pytest.raises(ValueError, match=f'not known how {type(step).__name__}, a step of the'):
        resize_boxes(boxes_of((10, 10)), [step])

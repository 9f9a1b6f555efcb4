"""Pipelines are applied to the first image before a run."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import RepeatDataset

from ghmdet.checks.pipelines import try_pipeline
from ghmdet.config.errors import ConfigError
from ghmdet.datasets import CocoDataset, draw_shapes
from ghmdet.engine import StartCheckHook

LOAD = dict(type='LoadImageFromFile')
BOXES = dict(type='LoadAnnotations', with_bbox=True)
RESIZE = dict(type='Resize', scale=(96, 96), keep_ratio=True)
FLIP = dict(type='RandomFlip', prob=0.5)
PACK = dict(type='PackDetInputs')
KEYS = ('img_id', 'ori_shape', 'img_shape')


class NeedsBoxes:
    def __call__(self, results):
        results['gt_bboxes'] += 1


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    draw_shapes(root, dict(train=2), seed=0)
    return root


@pytest.fixture
def make(shapes):
    def make(pipeline, split='train'):
        return CocoDataset(
            ann_file='annotations/train.json',
            data_root=str(shapes),
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=('circle', 'square', 'triangle')),
            pipeline=pipeline,
            test_mode=split != 'train',
        )

    return make


@pytest.fixture
def check(make):
    def check(pipeline, split='train'):
        try_pipeline(f'{split}_dataloader.dataset.pipeline', make(pipeline, split), split)

    return check


TRAIN = 'train_dataloader.dataset.pipeline'
VAL = 'val_dataloader.dataset.pipeline'


@pytest.mark.parametrize(
    ('pipeline', 'text'),
    [
        (
            [],
            f'{TRAIN} must end with PackDetInputs, which packs the image and its boxes; got empty',
        ),
        ([LOAD, BOXES, RESIZE], 'got LoadImageFromFile, LoadAnnotations, Resize'),
        (
            [LOAD, BOXES, PACK, RESIZE],
            f'{TRAIN}.3 (Resize) comes after PackDetInputs, which must be the last step',
        ),
        ([LOAD, RESIZE, PACK], f'{TRAIN} returns no bboxes and no labels to train on: Load'),
        (
            [LOAD, dict(BOXES, with_label=False), PACK],
            f'{TRAIN} returns no labels to train on: LoadAnnotations',
        ),
        (
            [LOAD, RESIZE, BOXES, PACK],
            f'{TRAIN}.2 (LoadAnnotations) must come before the steps that resize or flip the image',
        ),
        ([BOXES, RESIZE, PACK], f'{TRAIN}.1 (Resize) needs an image: LoadImageFromFile is missing'),
        ([BOXES, PACK], f'{TRAIN} returns no image: LoadImageFromFile is missing'),
    ],
)
def test_pipelines_that_cannot_train(check, pipeline, text):
    with pytest.raises(ConfigError) as caught:
        check(pipeline)
    assert text in str(caught.value)


def test_a_step_that_fails_or_lacks_the_boxes(check, shapes):
    with pytest.raises(ConfigError) as caught:
        check([LOAD, BOXES, dict(RESIZE, scale=(0, 0)), PACK])
    message = str(caught.value)
    assert message.startswith(f'{TRAIN}.2 (Resize) fails at {shapes}/train/')
    assert '(the step is Resize(scale=(0, 0), scale_factor=None, keep_ratio=True' in message
    with pytest.raises(ConfigError) as caught:
        check([LOAD, NeedsBoxes(), PACK])
    assert str(caught.value) == (
        f"{TRAIN}.1 (NeedsBoxes) needs 'gt_bboxes' from LoadAnnotations: that step is missing "
        'before it'
    )


@pytest.mark.parametrize(
    ('pipeline', 'text'),
    [
        ([LOAD, RESIZE, dict(PACK, meta_keys=('img_id',))], 'ori_shape, img_shape of the image is'),
        ([LOAD, RESIZE, dict(PACK, meta_keys=KEYS)], 'scale_factor of the image is missing in'),
        ([LOAD, RESIZE], f'{VAL} must end with PackDetInputs'),
    ],
)
def test_pipelines_that_cannot_be_evaluated(check, pipeline, text):
    with pytest.raises(ConfigError) as caught:
        check(pipeline, 'val')
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ('pipeline', 'split'),
    [
        ([LOAD, BOXES, RESIZE, FLIP, PACK], 'train'),
        ([LOAD, BOXES, PACK], 'train'),
        ([LOAD, RESIZE, BOXES, PACK], 'val'),  # detections are compared in the original frame
        ([LOAD, dict(PACK, meta_keys=KEYS)], 'val'),
        ([LOAD, RESIZE, PACK], 'test'),
    ],
)
def test_pipelines_that_are_fine(check, pipeline, split):
    check(pipeline, split)


def test_the_hook_tries_datasets_inside_of_others(make):
    dataset = RepeatDataset(make([LOAD]), times=2)
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    runner = SimpleNamespace(model=None, hooks=(), _train_loop=loop)
    with pytest.raises(ConfigError, match=f'{TRAIN} must end with PackDetInputs'):
        StartCheckHook().before_run(runner)


def test_random_numbers_stay_as_they_are(check):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    seed()
    expected = draw()
    seed()
    check([LOAD, BOXES, dict(type='RandomResize', scale=(9, 9), ratio_range=(1, 2)), FLIP, PACK])
    assert draw() == expected

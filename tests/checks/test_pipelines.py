"""Pipelines are tried out before a run."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import RepeatDataset
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ghmdet.checks.pipelines import FirstSampleHook
from ghmdet.config.errors import ConfigError
from ghmdet.datasets import CocoDataset, draw_shapes

LOAD = dict(type='LoadImageFromFile')
BOXES = dict(type='LoadAnnotations', with_bbox=True)
RESIZE = dict(type='Resize', scale=(96, 96), keep_ratio=True)
FLIP = dict(type='RandomFlip', prob=0.5)
PACK = dict(type='PackDetInputs')
KEYS = ('img_id', 'ori_shape', 'img_shape')


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    draw_shapes(root, dict(train=2), seed=0)
    return root


@pytest.fixture
def check(shapes):
    def run(pipeline, split='train', wrap=lambda dataset: dataset, hooks=()):
        dataset = CocoDataset(
            ann_file='annotations/train.json',
            data_root=str(shapes),
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=('circle', 'square', 'triangle')),
            pipeline=pipeline,
            test_mode=split != 'train',
        )
        loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=wrap(dataset)))
        runner = SimpleNamespace(hooks=hooks, save_checkpoint=Runner.save_checkpoint)
        setattr(runner, f'_{split}_loop', loop)
        FirstSampleHook().before_run(runner)

    return run


TRAIN = 'train_dataloader.dataset.pipeline'
VAL = 'val_dataloader.dataset.pipeline'


@pytest.mark.parametrize(
    ('pipeline', 'told'),
    [
        ([], f'{TRAIN} must end with PackDetInputs, which packs the image and its boxes; it is'),
        ([LOAD, BOXES, RESIZE], 'it is LoadImageFromFile, LoadAnnotations, Resize'),
        (
            [LOAD, BOXES, PACK, RESIZE],
            f'{TRAIN}.3 (Resize) comes after PackDetInputs, which must be the last step',
        ),
        ([LOAD, RESIZE, PACK], f'{TRAIN} gives no bboxes and no labels to learn from: Load'),
        (
            [LOAD, dict(BOXES, with_label=False), PACK],
            f'{TRAIN} gives no labels to learn from: LoadAnnotations',
        ),
        (
            [LOAD, RESIZE, BOXES, PACK],
            f'{TRAIN}.2 (LoadAnnotations) comes after a step that resizes or flips the image',
        ),
        ([BOXES, RESIZE, PACK], f'{TRAIN}.1 (Resize) needs an image: LoadImageFromFile is missing'),
        ([BOXES, PACK], f'{TRAIN} gives no image: LoadImageFromFile is missing'),
        (
            [LOAD, BOXES, dict(RESIZE, scale=(0, 0)), PACK],
            f'{TRAIN}.2 (Resize) fails at ',
        ),
    ],
)
def test_pipelines_that_cannot_train(check, pipeline, told):
    with pytest.raises(ConfigError) as caught:
        check(pipeline)
    assert told in str(caught.value)


def test_a_failing_step_tells_the_image_and_its_settings(check, shapes):
    with pytest.raises(ConfigError) as caught:
        check([LOAD, BOXES, dict(RESIZE, scale=(0, 0)), PACK])
    message = str(caught.value)
    assert f'{shapes}/train/' in message
    assert '(the step is Resize(scale=(0, 0), scale_factor=None, keep_ratio=True' in message


@pytest.mark.parametrize(
    ('pipeline', 'told'),
    [
        ([LOAD, RESIZE, dict(PACK, meta_keys=('img_id',))], 'ori_shape, img_shape of the image is'),
        ([LOAD, RESIZE, dict(PACK, meta_keys=KEYS)], 'scale_factor of the image is missing in'),
        ([LOAD, RESIZE], f'{VAL} must end with PackDetInputs'),
    ],
)
def test_pipelines_that_cannot_be_evaluated(check, pipeline, told):
    with pytest.raises(ConfigError) as caught:
        check(pipeline, 'val')
    assert told in str(caught.value)


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


def test_data_sets_inside_of_others_are_tried_too(check):
    with pytest.raises(ConfigError, match='must end with PackDetInputs'):
        check([LOAD], wrap=lambda dataset: RepeatDataset(dataset, times=2))


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


def test_what_the_checkpoint_hook_would_hand_on(check):
    good, bad = CheckpointHook(save_optimizer=False), CheckpointHook(intervall=3)
    check([LOAD, BOXES, PACK], hooks=[good])
    with pytest.raises(ConfigError) as caught:
        check([LOAD, BOXES, PACK], hooks=[bad])
    assert str(caught.value) == (
        "default_hooks.checkpoint (CheckpointHook): unexpected keyword argument 'intervall'; "
        'nearest: interval'
    )

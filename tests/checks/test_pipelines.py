"""Pipelines are applied to the first image before a run."""

import json
import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import RepeatDataset

from ghmdet.checks.pipelines import try_pipeline
from ghmdet.checks.start_check import StartCheckHook
from ghmdet.config.errors import ConfigError
from ghmdet.datasets import CocoDataset, draw_shapes
from tests.checks.conftest import message_of

LOAD = dict(type='LoadImageFromFile')
BOXES = dict(type='LoadAnnotations', with_bbox=True)
RESIZE = dict(type='Resize', scale=(96, 96), keep_ratio=True)
FLIP = dict(type='RandomFlip', prob=0.5)
PACK = dict(type='PackDetInputs')
CROP = dict(type='RandomCrop', crop_size=(80, 80), allow_negative_crop=True)
COLORS = dict(type='TorchvisionTransform', name='ColorJitter', brightness=0.5)
NO_LABELS = dict(BOXES, with_label=False)
TO_NOTHING = dict(RESIZE, scale=(0, 0))
ONLY_ID = dict(PACK, meta_keys=('img_id',))
NO_FACTOR = dict(PACK, meta_keys=('img_id', 'ori_shape', 'img_shape'))


class NeedsBoxes:
    def __call__(self, results):
        results['gt_bboxes'] += 1


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    draw_shapes(root, dict(train=2), seed=0)
    return root


def make(shapes, pipeline, split='train', **settings):
    return CocoDataset(
        ann_file='annotations/train.json',
        data_root=str(shapes),
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('circle', 'square', 'triangle')),
        pipeline=pipeline,
        test_mode=split != 'train',
        **settings,
    )


@pytest.fixture
def check(shapes):
    def check(pipeline, split='train'):
        try_pipeline(f'{split}_dataloader.dataset.pipeline', make(shapes, pipeline, split), split)

    return check


TRAIN = 'train_dataloader.dataset.pipeline'
VAL = 'val_dataloader.dataset.pipeline'


@pytest.mark.parametrize(
    ('split', 'pipeline', 'text'),
    [
        ('train', [], f'{TRAIN} must end with PackDetInputs, which packs the image and its boxes'),
        ('train', [LOAD, BOXES, RESIZE], 'got LoadImageFromFile, LoadAnnotations, Resize'),
        ('train', [LOAD, BOXES, PACK, RESIZE], f'{TRAIN}.3 (Resize) comes after PackDetInputs'),
        ('train', [LOAD, RESIZE, PACK], f'{TRAIN} returns no bboxes and no labels to train on:'),
        ('train', [LOAD, NO_LABELS, PACK], f'{TRAIN} returns no labels to train on: LoadAnnota'),
        ('train', [LOAD, RESIZE, BOXES, PACK], f'{TRAIN}.2 (LoadAnnotations) must come before'),
        ('train', [LOAD, CROP, BOXES, PACK], f'{TRAIN}.2 (LoadAnnotations) must come before'),
        ('train', [BOXES, CROP, PACK], "1 (RandomCrop) needs 'img' from LoadImageFromFile"),
        ('val', [LOAD, COLORS, CROP, PACK], f'{VAL}.2 (RandomCrop) is for training: it moves'),
        ('train', [BOXES, RESIZE, PACK], f'{TRAIN}.1 (Resize) needs an image: LoadImageFromFile'),
        ('train', [BOXES, PACK], f'{TRAIN} returns no image: LoadImageFromFile is missing'),
        ('train', [LOAD, NeedsBoxes()], "1 (NeedsBoxes) needs 'gt_bboxes' from LoadAnnotations"),
        ('train', [LOAD, TO_NOTHING], f'{TRAIN}.1 (Resize) fails at {{}}'),
        ('train', [LOAD, TO_NOTHING], '(the step is Resize(scale=(0, 0), scale_factor=None, keep'),
        ('val', [LOAD, RESIZE, ONLY_ID], f'{VAL}: ori_shape, img_shape of the image is missing'),
        ('val', [LOAD, RESIZE, NO_FACTOR], 'scale_factor of the image is missing in the result'),
        ('val', [LOAD, RESIZE], f'{VAL} must end with PackDetInputs'),
    ],
)
def test_pipelines_that_fail(check, shapes, split, pipeline, text):
    message = message_of(ConfigError, check, pipeline, split)
    assert text.replace('{}', f'{shapes}/train/') in message


@pytest.mark.parametrize(
    ('split', 'pipeline'),
    [
        ('train', [LOAD, BOXES, RESIZE, FLIP, PACK]),
        ('train', [LOAD, BOXES, PACK]),
        ('train', [LOAD, COLORS, BOXES, RESIZE, CROP, FLIP, PACK]),
        ('val', [LOAD, COLORS, PACK]),
        ('val', [LOAD, RESIZE, BOXES, PACK]),  # detections are compared in the original frame
        ('val', [LOAD, NO_FACTOR]),
        ('test', [LOAD, RESIZE, PACK]),
    ],
)
def test_pipelines_that_are_fine(check, split, pipeline):
    check(pipeline, split)


def test_the_hook_tries_datasets_inside_of_others(shapes):
    dataset = RepeatDataset(make(shapes, [LOAD]), times=2)
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    runner = SimpleNamespace(model=None, hooks=(), _train_loop=loop)
    with pytest.raises(ConfigError, match=f'{TRAIN} must end with PackDetInputs'):
        StartCheckHook().before_run(runner)


def test_random_numbers_stay_as_they_are(check):
    def state():
        return random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist()

    expected = state()
    check([LOAD, BOXES, dict(type='RandomResize', scale=(9, 9), ratio_range=(1, 2)), FLIP, PACK])
    assert state() == expected


@pytest.mark.parametrize(
    ('on_error', 'spoil', 'number', 'message'),
    [
        ('raise', 'thin', 0, '{0}: image {1} is 3000x1 .* of which {0}.2 .Resize. leaves no'),
        ('raise', 'thin', 1, '{0}: image {1} is 3000x1 .* of which {0}.2 .Resize. leaves no'),
        ('skip', 'thin', 0, '{0} must end with PackDetInputs'),  # found with the second image
        ('skip', 'gone', 0, '{0} must end with PackDetInputs'),
    ],
)
def test_an_image_that_is_skipped_is_replaced(tmp_path, on_error, spoil, number, message):
    """The thinnest image is tried first, wherever it is."""
    draw_shapes(tmp_path, dict(train=2), seed=0)
    data = json.loads((tmp_path / 'annotations/train.json').read_text())
    first = data['images'][number]
    path = tmp_path / 'train' / first['file_name']
    path.unlink()
    if spoil == 'thin':
        first |= dict(width=3000, height=1)
        cv2.imwrite(str(path), np.zeros((1, 3000, 3), np.uint8))
        (tmp_path / 'annotations/train.json').write_text(json.dumps(data))
    dataset = make(tmp_path, [LOAD, BOXES, RESIZE], on_error=on_error)
    with pytest.raises(
        ConfigError, match=message.format(TRAIN, f'{path} .id {first["id"]}.', TRAIN)
    ):
        try_pipeline(TRAIN, dataset, 'train')


def skip_some(*ids):
    return lambda results: None if results['img_id'] in ids else results


def test_a_step_may_skip_an_image_in_training_but_not_all(check, shapes):
    check([LOAD, BOXES, skip_some(1), PACK])
    words = r'00002.jpg \(id 2\) is skipped: .*pipeline.2 \(function\) returns None'
    with pytest.raises(ConfigError, match=words):
        check([LOAD, BOXES, skip_some(1, 2), PACK])
    with pytest.raises(ConfigError, match=r'00001.jpg \(id 1\) is skipped: val_dataloader'):
        check([LOAD, BOXES, skip_some(1), PACK], 'val')

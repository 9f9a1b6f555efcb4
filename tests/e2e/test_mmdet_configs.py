"""A config in MMDetection's words through both tools, on a machine without MMDetection."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghmdet import get_config
from ghmdet.coco.classes import COCO_CLASSES
from tests import mmdet_layout
from tests.e2e.conftest import run, scalars
from tests.fork_server import ROOT
from tests.voc_tree import draw_voc0712

SAID = 'is written for MMDetection, which is not installed: it runs under ghmdet'
SPLITS = ('train', 'val', 'test')
CLASSES = '(circle,square,triangle)'
SMALL = [
    *('model.backbone.depth=18', 'model.backbone.init_cfg=None', 'model.backbone.frozen_stages=-1'),
    *('model.neck.in_channels=[64,128,256,512]', 'model.neck.out_channels=16'),
    *('model.bbox_head.in_channels=16', 'model.bbox_head.feat_channels=16'),
    'model.bbox_head.num_classes=3',
    'model.test_cfg.score_thr=0.001',  # untrained scores are about .01
    'train_cfg.max_epochs=1',
    *(f'{split}_dataloader.dataset.metainfo.classes={CLASSES}' for split in SPLITS),
]


def test_a_config_laid_out_as_theirs(shapes, tmp_path):
    config = mmdet_layout.write(tmp_path / 'configs')
    options = ['--cfg-options', *SMALL]
    options += [f'{split}_dataloader.dataset.data_root={shapes}/' for split in SPLITS]
    ann_file = shapes / 'annotations' / 'val.json'
    options += [f'{split}_evaluator.ann_file={ann_file}' for split in ('val', 'test')]
    done = run('train.py', config, '--work-dir', tmp_path / 'train', *options)
    assert done.stdout.count(SAID) == 1
    args = ('--work-dir', tmp_path / 'test', '--tta', '--show-dir', 'pictures', *options)
    done = run('test.py', config, tmp_path / 'train' / 'epoch_1.pth', *args)
    assert done.stdout.count(SAID) == 1
    assert f'{config} {SAID}' in done.stdout
    assert len(scalars(tmp_path / 'train', 'loss')) > 0
    assert len(scalars(tmp_path / 'train', 'coco/bbox_mAP')) == 1
    assert 'coco/bbox_mAP_50' in done.stdout
    assert len(list((tmp_path / 'test').glob('*/pictures/*'))) == 5


def test_old_keys_on_the_command_line(shapes, tmp_path):
    config = mmdet_layout.write(tmp_path)
    bad = ['data.samples_per_gpu=4', 'runner.max_epochs=3']
    done = run('train.py', config, '--cfg-options', *SMALL, *bad, check=False)
    assert done.returncode != 0
    assert done.stderr.endswith(
        f'error: {config} has keys of MMDetection 2.x, which are not used. The new keys are:\n'
        '  data.samples_per_gpu=4 -> train_dataloader.batch_size=4\n'
        '  runner.max_epochs=3 -> train_cfg.max_epochs=3\n'
        'See docs/from_mmdet.md for the whole table.\n'
        '(--debug shows where in the code)\n'
    )
    assert scalars(tmp_path, 'loss') == []


def test_large_scale_jitter_laid_out_as_theirs(shapes, tmp_path):
    config = mmdet_layout.write(tmp_path / 'configs').parents[1] / 'retinanet' / 'r50_lsj.py'
    options = [option for option in SMALL if not option.startswith('train_dataloader')]
    options += [f'train_dataloader.dataset.dataset.metainfo.classes={CLASSES}', 'val_cfg=None']
    options += ['val_dataloader=None', 'val_evaluator=None']
    args = '--data-root', shapes, '--work-dir', tmp_path / 'train', '--cfg-options', *options
    run('train.py', config, *args)
    losses = scalars(tmp_path / 'train', 'loss')
    assert len(losses) == 11  # 2 x 11 images with objects by 2
    assert np.isfinite(losses).all()


NINE = 'model.bbox_head.num_classes=9'
VOC_IDS = {f'2007_{number:06}' for number in range(3)}
VOC = [
    *(option for option in SMALL if 'classes' not in option),
    *(f'{part}.pipeline.2.scale=(96,96)' for part in (
        'train_dataloader.dataset.dataset.datasets.0',
        'train_dataloader.dataset.dataset.datasets.1',
    )),
    *(f'{split}_dataloader.dataset.pipeline.1.scale=(96,96)' for split in ('val', 'test')),
]  # fmt: skip


def test_pascal_voc_laid_out_as_theirs(tmp_path):
    config = mmdet_layout.write(tmp_path / 'configs').parents[1] / 'pascal_voc' / 'r50.py'
    draw_voc0712(tmp_path / 'VOCdevkit')
    data = '--data-root', tmp_path / 'VOCdevkit'
    best = 'default_hooks.checkpoint.save_best=auto'
    run('train.py', config, *data, '--work-dir', tmp_path / 'train', '--cfg-options', *VOC, best)
    assert len(scalars(tmp_path / 'train', 'loss')) == 9  # 3 x (3 + 3) images by 2
    (ap,) = scalars(tmp_path / 'train', 'pascal_voc/mAP')
    checkpoint = tmp_path / 'train' / 'best_pascal_voc_mAP_epoch_1.pth'
    args = '--work-dir', tmp_path / 'test', '--show-dir', 'pictures', '--cfg-options', *VOC
    done = run('test.py', config, checkpoint, *data, *args)
    assert f'pascal_voc/mAP: {ap:.4f}  pascal_voc/AP50: {ap:.4f}' in done.stdout
    assert len(list((tmp_path / 'test').glob('*/pictures/*'))) == 3
    options = [option for option in VOC if 'num_classes' not in option]
    wrong = run('train.py', config, *data, '--cfg-options', *options, NINE, check=False)
    assert 'Set model.bbox_head.num_classes=20' in wrong.stderr
    only = '--format-only', '--work-dir', tmp_path / 'only'
    run('test.py', config, checkpoint, *data, *only, '--cfg-options', *VOC)
    (file,) = (tmp_path / 'only').glob('*.bbox.json')
    assert {each['image_id'] for each in json.loads(file.read_text())} <= VOC_IDS


def configs_of_mmdetection():
    """Its recipes of RetinaNet, if its folder `configs` is beside the project or named."""
    given = os.environ.get('GHMDET_MMDET_CONFIGS', ROOT.parent / 'mmdetection' / 'configs')
    names = 'retinanet/*.py', 'ghm/*.py', 'pascal_voc/retinanet_*.py'
    files = sorted(file for name in names for file in Path(given).glob(name))
    return [file for file in files if file.stem != 'retinanet_tta']


@pytest.fixture(scope='session')
def coco_and_voc(tmp_path_factory):
    """Two images of COCO's 80 classes under its names, and VOC2007 and VOC2012."""
    root = tmp_path_factory.mktemp('coco_and_voc')
    draw_voc0712(root)
    names = [{'id': i, 'name': name} for i, name in enumerate(COCO_CLASSES, 1)]
    box = dict(image_id=1, category_id=1, bbox=[9, 9, 50, 40], area=2000, iscrowd=0)
    content = dict(images=[dict(id=1, file_name='1.jpg', width=80, height=60)], categories=names)
    content['annotations'] = [box | {'id': 1}, box | {'id': 2, 'category_id': 80}]
    (root / 'annotations').mkdir()
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        cv2.imwrite(str(root / split / '1.jpg'), np.full((60, 80, 3), 90, np.uint8))
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    return root


def small_sizes(node, key=''):
    """Options that make each scale of a config small, as a user finds them with print_config.py."""
    sizes = {'scale': '(64,64)', 'scales': '[(64,64)]', 'crop_size': '(64,64)', 'size': '(64,64)'}
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        inner = f'{key}.{name}'.removeprefix('.')
        if name in sizes and inner.startswith(('train_dataloader', 'val_dataloader', 'model.')):
            several = name == 'scale' and isinstance(value[0], list | tuple)
            yield f'{inner}={"[(64,64),(64,64)]" if several else sizes[name]}'
        elif isinstance(value, dict | list | tuple):
            yield from small_sizes(value, inner)


@pytest.mark.long
@pytest.mark.parametrize('config', configs_of_mmdetection(), ids=lambda file: file.stem)
def test_each_config_of_mmdetection_trains_a_step(config, coco_and_voc, tmp_path):
    settings = [
        'model.backbone.init_cfg=None',
        'train_cfg.max_iters=1'
        if (cfg := get_config(config)).train_cfg.get('max_iters')
        else 'train_cfg.max_epochs=1',
        *(f'{split}_dataloader.batch_size=1' for split in ('train', 'val')),
        *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
        *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
        'default_hooks.checkpoint.interval=-1',
        'default_hooks.logger.interval=1',
        *small_sizes(cfg.to_dict()),
    ]
    args = '--data-root', coco_and_voc, '--work-dir', tmp_path, '--cfg-options', *settings
    done = run('train.py', config, *args, seconds=300)
    assert SAID in done.stdout
    losses = scalars(tmp_path, 'loss')
    assert losses
    assert np.isfinite(losses).all()

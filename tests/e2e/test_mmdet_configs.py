"""A config in MMDetection's words through both tools, on a machine without MMDetection."""

import os
from pathlib import Path

import pytest

from tests import mmdet_layout
from tests.e2e.conftest import run, scalars

THEIRS = os.environ.get('GHMDET_MMDET_CONFIGS')  # MMDetection's folder of configs
SAID = 'is written for MMDetection, which is not installed: it runs under ghmdet'
SPLITS = ('train', 'val', 'test')
CLASSES = '(circle,square,triangle)'
SMALL = [
    'model.backbone.depth=18',
    'model.backbone.init_cfg=None',
    'model.backbone.frozen_stages=-1',
    'model.neck.in_channels=[64,128,256,512]',
    'model.neck.out_channels=16',
    'model.bbox_head.in_channels=16',
    'model.bbox_head.feat_channels=16',
    'model.bbox_head.num_classes=3',
    'model.test_cfg.score_thr=0.001',  # untrained scores are about .01
    'train_cfg.max_epochs=1',
    *(f'{split}_dataloader.dataset.metainfo.classes={CLASSES}' for split in SPLITS),
]


def train_and_test(config, folder, options):
    options = ['--cfg-options', *SMALL, *options]
    done = run('train.py', config, '--work-dir', folder / 'train', *options)
    assert done.stdout.count(SAID) == 1
    checkpoint = folder / 'train' / 'epoch_1.pth'
    done = run(
        *('test.py', config, checkpoint, '--work-dir', folder / 'test', '--tta'),
        *('--show-dir', 'pictures', *options),
    )
    assert done.stdout.count(SAID) == 1
    assert f'{config} {SAID}' in done.stdout
    assert len(scalars(folder / 'train', 'loss')) > 0
    assert len(scalars(folder / 'train', 'coco/bbox_mAP')) == 1
    assert 'coco/bbox_mAP_50' in done.stdout
    assert len(list((folder / 'test').glob('*/pictures/*'))) == 5


def options_for(root, names):
    files = [f'{split}_dataloader.dataset.data_root={root}/' for split in SPLITS]
    ann_file = f'{root}/annotations/{names[1]}.json'
    return [*files, f'val_evaluator.ann_file={ann_file}', f'test_evaluator.ann_file={ann_file}']


def test_a_config_laid_out_as_theirs(shapes, tmp_path):
    config = mmdet_layout.write(tmp_path / 'configs')
    train_and_test(config, tmp_path, options_for(shapes, ('train', 'val')))


def test_old_keys_on_the_command_line(shapes, tmp_path):
    config = mmdet_layout.write(tmp_path)
    bad = ['data.samples_per_gpu=4', 'runner.max_epochs=3']
    done = run('train.py', config, '--cfg-options', *SMALL, *bad, check=False)
    assert done.returncode != 0
    assert done.stderr.endswith(
        f'error: {config} has keys of MMDetection 2.x, which are not used. The new keys are:\n'
        '  data.samples_per_gpu=4 -> train_dataloader.batch_size\n'
        '  runner.max_epochs=3 -> train_cfg.max_epochs\n'
        'See docs/from_mmdet.md for the whole table.\n'
        '(--debug shows where in the code)\n'
    )
    assert scalars(tmp_path, 'loss') == []


@pytest.mark.skipif(THEIRS is None, reason='GHMDET_MMDET_CONFIGS does not name their configs')
@pytest.mark.parametrize(
    'name', ['ghm/retinanet_r50_fpn_ghm-1x_coco', 'retinanet/retinanet_r50_fpn_1x_coco']
)
def test_their_own_files(shapes, tmp_path, name):
    root = tmp_path / 'coco'
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / f'{split}2017').symlink_to(shapes / split)
        ann_file = root / 'annotations' / f'instances_{split}2017.json'
        ann_file.symlink_to(shapes / 'annotations' / f'{split}.json')
    scale = '(96,96)'
    options = [
        *options_for(root, ('instances_train2017', 'instances_val2017')),
        f'train_dataloader.dataset.pipeline.2.scale={scale}',
        f'val_dataloader.dataset.pipeline.1.scale={scale}',
        f'test_dataloader.dataset.pipeline.1.scale={scale}',
        *(f'tta_pipeline.1.transforms.0.{i}.scale={scale}' for i in range(3)),
        'param_scheduler.0.end=4',
        'default_hooks.logger.interval=1',
    ]
    train_and_test(Path(THEIRS) / f'{name}.py', tmp_path, options)

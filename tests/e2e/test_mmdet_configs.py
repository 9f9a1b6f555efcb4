"""A config in MMDetection's words through both tools, on a machine without MMDetection."""

from tests import mmdet_layout
from tests.e2e.conftest import run, scalars

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

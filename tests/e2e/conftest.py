import json

import pytest

from ghmdet import config_path
from ghmdet.datasets import draw_shapes

CONFIG = """
_base_ = {base!r}
data_root = {root!r}
model = dict(
    backbone=dict(num_stages=4),
    neck=dict(out_channels=16, norm_cfg=None),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg=None),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_pipeline = [pipeline[0], pipeline[2], pipeline[1], pipeline[3]]
loader = dict(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
# Untrained scores are about .01
model['test_cfg'] = dict(score_thr=0.001)
train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=3))
tta_pipeline = [
    pipeline[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [pipeline[1]],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=0.0)],
            [pipeline[3]],
        ],
    ),
]
"""


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    draw_shapes(root, dict(train=12, val=5), seed=0)
    return root


@pytest.fixture
def config(shapes, tmp_path):
    return write_config(tmp_path / 'tiny.py', shapes)


def write_config(path, root, extra=''):
    base = config_path('retinanet_ghm_r18_fpn_shapes')
    path.write_text(CONFIG.format(base=base, root=f'{root}/') + extra)
    return path


def scalars(work_dir, key):
    """All values of a key in a run's log, oldest first."""
    values = []
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        values += [line[key] for line in lines if key in line]
    return values

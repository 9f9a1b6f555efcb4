"""Every shipped config parses, builds, and says what the published recipes say."""

import pytest
import torch
from mmengine.config import Config

from ghmdet import CONFIG_ROOT, config_path
from ghmdet.checks.classes import complete_evaluators
from ghmdet.registry import METRICS, MODELS, TRANSFORMS

GHMC = dict(type='GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=1.0)
GHMR = dict(type='GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)
SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
NAMES = sorted(file.stem for file in CONFIG_ROOT.glob('*.py'))


@pytest.mark.parametrize('name', NAMES)
def test_model_and_pipelines_build(name):
    cfg = Config.fromfile(config_path(name))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    # 80 stands for the number in the data too, where a config is for any.
    assert model.bbox_head.num_classes == len(cfg.get('classes', range(80)))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for step in cfg[loader].dataset.pipeline:
            built = TRANSFORMS.build(step)
            assert type(built).__name__ == step.type
    assert cfg.default_scope == 'ghmdet'
    assert cfg.val_evaluator.type in METRICS
    complete_evaluators(cfg)
    dataset = cfg.val_dataloader.dataset
    assert cfg.val_evaluator.ann_file == dataset.data_root + dataset.ann_file
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file


@pytest.mark.parametrize(
    ('backbone', 'depth', 'groups'),
    [('r50', 50, None), ('r101', 101, None), ('x101_32x4d', 101, 32), ('x101_64x4d', 101, 64)],
)
def test_published_recipes(backbone, depth, groups):
    cfg = Config.fromfile(config_path(f'retinanet_ghm_{backbone}_fpn_1x_coco'))
    assert cfg.model.backbone.depth == depth
    assert cfg.model.backbone.get('groups') == groups
    assert cfg.model.bbox_head.loss_cls == GHMC
    assert cfg.model.bbox_head.loss_bbox == GHMR
    assert cfg.optim_wrapper.optimizer == SGD
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35, norm_type=2)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_cfg.max_epochs == 12
    assert [s.get('milestones') for s in cfg.param_scheduler] == [None, [8, 11]]


def test_readme_lists_every_config():
    text = (CONFIG_ROOT / 'README.md').read_text()
    assert [name for name in NAMES if f'{name}.py' not in text] == []

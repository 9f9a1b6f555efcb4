"""MMDetection's configs: 3.x is converted, 2.x refused with the new keys, ours are left alone."""

import copy
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ghmdet import config_path
from ghmdet.config import parts
from ghmdet.config.from_mmdet import REPLACED_ARGUMENTS, REPLACED_KEYS, convert_mmdet_config
from ghmdet.models import RetinaNet
from ghmdet.registry import MODELS, REPLACED_PARTS, TRANSFORMS
from ghmdet.structures import DetDataSample, InstanceData
from tests import golden, mmdet_layout

ROOT = Path(__file__).parents[2]
OURS = sorted((ROOT / 'configs').glob('**/retinanet*.py'))
THEIRS = os.environ.get('GHMDET_MMDET_CONFIGS')  # MMDetection's folder of configs
needs_theirs = pytest.mark.skipif(
    THEIRS is None, reason='GHMDET_MMDET_CONFIGS does not name the configs of MMDetection 3.3.0'
)
BASE = f'_base_ = {config_path("retinanet_ghm_r50_fpn_1x_coco")!r}\n'


@pytest.fixture
def told(monkeypatch):
    lines = []
    monkeypatch.setattr(parts, 'print_log', lambda line, **_: lines.append(line))
    return lines


@pytest.fixture
def with_mmdet(tmp_path, monkeypatch):
    """A package that bears the name."""
    (tmp_path / 'installed' / 'mmdet').mkdir(parents=True)
    (tmp_path / 'installed' / 'mmdet' / '__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path / 'installed')


def read(tmp_path, text, base=BASE):
    (tmp_path / 'mine.py').write_text(base + text)
    return Config.fromfile(tmp_path / 'mine.py')


def test_a_config_of_theirs_runs_here(tmp_path, told):
    path = mmdet_layout.write(tmp_path)
    cfg = Config.fromfile(path)
    convert_mmdet_config(cfg)
    assert cfg.default_scope == 'ghmdet'
    assert cfg.visualizer.type == 'DetLocalVisualizer'
    assert cfg.val_evaluator.type == 'CocoMetric'
    assert cfg.model.bbox_head.type == 'RetinaHead'
    assert cfg.model.bbox_head.bbox_coder._scope_ == 'ghmdet'
    assert cfg.tta_pipeline[1].transforms[0][1].type == 'Resize'
    assert cfg.pop('dataset_type') == 'mmdet.CocoDataset'  # a variable
    assert 'mmdet' not in cfg.pretty_text
    assert told == [
        f'{path} is written for MMDetection, which is not installed: it runs under ghmdet (scope '
        'mmdet -> ghmdet)'
    ]
    convert_mmdet_config(cfg)
    assert len(told) == 1
    # The losses of MMDetection 3.3.0 on the portable weights and the two golden images.
    model = MODELS.build(cfg.model)
    model.load_state_dict(golden.seeded_state_dict(model.state_dict(), golden.SEED))
    model.train()
    data = model.data_preprocessor(golden.model_batch(DetDataSample, InstanceData), True)
    figures = golden.load('model_r50')
    for name, levels in model.loss(data['inputs'], data['data_samples']).items():
        values = [level.item() for level in levels]
        np.testing.assert_allclose(values, figures[f'step0_{name}'], rtol=2e-4)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):  # TestTimeAug asks the root
        for step in [*cfg.train_dataloader.dataset.pipeline, *cfg.tta_pipeline]:
            assert type(TRANSFORMS.build(step)).__name__ == step.type


@pytest.mark.parametrize('path', [None, *OURS], ids=lambda path: path and path.stem)
def test_ours_and_all_where_mmdet_is_installed_stay_as_they_are(path, tmp_path, told, request):
    if path is None:
        request.getfixturevalue('with_mmdet')
        path = mmdet_layout.write(tmp_path)
    cfg = Config.fromfile(path)
    before = copy.deepcopy(cfg.to_dict())
    convert_mmdet_config(cfg)
    assert (cfg.to_dict(), told) == (before, [])


@pytest.mark.parametrize(
    'base', ['ghm/retinanet_r50_fpn_ghm-1x_coco.py', 'retinanet/retinanet_r50_fpn_1x_coco.py']
)
def test_their_recipes_and_base_files_by_name_are_ours(tmp_path, told, base):
    cfg = read(
        tmp_path, 'model = dict(bbox_head=dict(num_classes=3))', f"_base_ = 'mmdet::{base}'\n"
    )
    convert_mmdet_config(cfg)
    ours = Config.fromfile(config_path(base))
    assert cfg.model.bbox_head == dict(ours.model.bbox_head, num_classes=3)
    assert cfg.train_dataloader.dataset.type == 'CocoDataset'
    assert 'mmdet' not in cfg.pretty_text
    parts = ['models/retinanet_r50_fpn', 'datasets/coco_detection', 'schedules/schedule_1x']
    names = [f'mmdet::_base_/{part}.py' for part in [*parts, 'default_runtime']]
    assert read(tmp_path, '', f'_base_ = {names}\n').model.neck == ours.model.neck


def test_their_other_recipes_by_name_need_them(tmp_path, with_mmdet, monkeypatch):
    base = "_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'\n"
    with pytest.raises(FileNotFoundError, match='mmdet.*metafile|No such file.*mmdet'):
        read(tmp_path, '', base)
    monkeypatch.undo()
    sys.modules.pop('mmdet', None)
    with pytest.raises(
        FileNotFoundError, match=r"no config 'atss/atss_r50_fpn_1x_coco\.py' in ghmdet"
    ):
        read(tmp_path, '', base)


def test_a_folder_of_the_name_is_no_installation(tmp_path, told, monkeypatch):
    (tmp_path / 'mmdet').mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config(dict(default_scope='mmdet'))
    convert_mmdet_config(cfg)
    assert (cfg.default_scope, len(told)) == ('ghmdet', 1)


def test_their_parts_in_a_project_of_another_scope(told):
    cfg = Config(
        dict(
            default_scope='mydet',
            model=dict(type='mmdet.RetinaNet', backbone=dict(type='MyNet')),
            optim_wrapper=dict(constructor='mmdet.Mine'),
            steps=(dict(type='mmdet.Resize'),),
            load_from='mmdet.pth',
        )
    )
    convert_mmdet_config(cfg)
    assert cfg.default_scope == 'mydet'
    assert cfg.model.type == 'ghmdet.RetinaNet'
    assert cfg.model.backbone.type == 'MyNet'
    assert cfg.optim_wrapper.constructor == 'ghmdet.Mine'
    assert cfg.load_from == 'mmdet.pth'
    # In ghmdet as in mmdet the scope's name covers what it takes from mmcv.
    assert TRANSFORMS.get(cfg.steps[0].type).__module__ == 'mmcv.transforms.processing'


def test_lazily_named_parts(tmp_path, told):
    cfg = read(
        tmp_path,
        'import mmdet.models as models\n'
        'from mmdet.models import ResNet\n'
        'from ghmdet.models import FPN\n'
        "default_scope = 'mmdet'\n"
        'model = dict(type=models.RetinaNet, backbone=dict(type=ResNet), neck=dict(type=FPN))\n',
        base='',
    )
    convert_mmdet_config(cfg)
    assert (cfg.model.type, cfg.model.backbone.type) == ('RetinaNet', 'ResNet')
    assert cfg.model.neck.type.__module__ == 'ghmdet.models.fpn'
    assert len(told) == 1
    cfg = Config(dict(default_scope='ghmdet', model=dict(type=RetinaNet)))
    convert_mmdet_config(cfg)
    assert cfg.model.type is RetinaNet


OLD = """
model = dict(type='RetinaNet', pretrained='torchvision://resnet50')
img_norm_cfg = dict(mean=[1.0], std=[4.0], to_rgb=True)
train_pipeline = [
    dict(type='Resize', img_scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', **img_norm_cfg),
    dict(type='Collect', keys=['img']),
]
data = dict(
    samples_per_gpu=2,
    train=dict(type='CocoDataset', img_prefix='train/', pipeline=train_pipeline),
    val=dict(type='CocoDataset', img_prefix='val/'),
)
lr_config = dict(warmup='linear', warmup_iters=500, warmup_ratio=0.001, step=[8, 11])
runner = dict(type='EpochBasedRunner', max_epochs=12)
cudnn_benchmark = True
"""
OLD_TOLD = """\
  data.samples_per_gpu=2 -> train_dataloader.batch_size=2
  data.train={'type': 'CocoDataset', 'img_prefix': 'train/', 'pipeline': [{'type': 'Resize', \
'img_scale': (1333, 800), 'keep_ratio': ... -> train_dataloader.dataset
  data.val={'type': 'CocoDataset', 'img_prefix': 'val/'} -> val_dataloader.dataset
  lr_config={'warmup': 'linear', 'warmup_iters': 500, 'warmup_ratio': 0.001, 'step': [8, 11]} -> \
param_scheduler=[{'type': 'LinearLR', 'start_factor': 0.001, 'by_epoch': False, 'begin': 0, \
'end': 500}, {'type': 'MultiStepLR', 'milestones': [8, 11], 'gamma': 0.1}]
  runner.max_epochs=12 -> train_cfg.max_epochs=12
  cudnn_benchmark=True -> env_cfg.cudnn_benchmark=True
  model.pretrained='torchvision://resnet50' -> \
model.backbone.init_cfg={'type': 'Pretrained', 'checkpoint': 'torchvision://resnet50'}
  img_norm_cfg={'mean': [1.0], 'std': [4.0], 'to_rgb': True} -> \
model.data_preprocessor={'mean': [1.0], 'std': [4.0], 'bgr_to_rgb': True}
  img_scale=(1333, 800) -> scale
  flip_ratio=0.5 -> prob
  type='Normalize' -> mean, std and bgr_to_rgb of model.data_preprocessor
  type='Collect' -> PackDetInputs
  img_prefix='train/' -> data_prefix=dict(img=...)
  img_prefix='val/' -> data_prefix=dict(img=...)
  type='EpochBasedRunner' -> EpochBasedTrainLoop in train_cfg
"""


def test_an_old_config_is_told_all_at_once(tmp_path):
    cfg = read(tmp_path, OLD, base='')
    with pytest.raises(ValueError, match='keys of MMDetection 2.x') as caught:
        convert_mmdet_config(cfg)
    assert str(caught.value) == (
        f'{tmp_path}/mine.py has keys of MMDetection 2.x, which are not used. '
        f'The new keys are:\n{OLD_TOLD}See docs/from_mmdet.md for the whole table.'
    )


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        ('data = dict(samples_per_gpu=4)', 'train_dataloader.batch_size=4'),
        ('data = dict(imgs_per_gpu=4)', 'train_dataloader.batch_size=4'),
        ("data = dict(train=dict(ann_file='a.json'))", 'train_dataloader.dataset'),
        ('optimizer = dict(lr=0.02 / 8)', "optim_wrapper.optimizer={'lr': 0.0025}"),
        ('optimizer_config = dict(grad_clip=None)', 'optim_wrapper.clip_grad=None'),
        ("optimizer_config = dict(type='Mine')", 'optim_wrapper'),
        (
            'lr_config = dict(step=[6])',
            "[{'type': 'MultiStepLR', 'milestones': [6], 'gamma': 0.1}]",
        ),
        ("lr_config = dict(policy='poly')", 'param_scheduler=[dict(type=...)]'),
        ('runner = dict(max_epochs=3)', 'train_cfg.max_epochs=3'),
        ("runner = dict(type='EpochBasedRunner')", 'train_cfg'),
        ('total_epochs = 3', 'train_cfg.max_epochs=3'),
        ('evaluation = dict(interval=2)', 'train_cfg.val_interval=2'),
        ('evaluation = dict(start=9)', 'val_evaluator'),
        ("evaluation = dict(metric='bbox')", "val_evaluator.metric='bbox'"),
        ('log_config = dict(hooks=[])', 'default_hooks.logger and visualizer.vis_backends'),
        ("dist_params = dict(backend='nccl')", "env_cfg.dist_cfg.backend='nccl'"),
        ('checkpoint_config = dict(max_keep_ckpts=2)', 'checkpoint.max_keep_ckpts=2'),
        ('log_config = dict(interval=5)', 'default_hooks.logger.interval=5'),
        ("resume_from = 'a.pth'", '--resume CHECKPOINT, or load_from with resume=True'),
        ("workflow = [('train', 1), ('val', 1)]", 'val_dataloader configure validation'),
        ('fp16 = dict(loss_scale=512.0)', "--amp, or optim_wrapper.type='AmpOptimWrapper'"),
        ('model = dict(pretrained=None)', 'model.backbone.init_cfg=None'),
        ('test_cfg = dict(score_thr=0.1)', 'model.test_cfg.score_thr=0.1'),
        ('img_norm_cfg = dict(mean=[0], to_rgb=False)', "{'mean': [0], 'bgr_to_rgb': False}"),
    ],
)
def test_an_old_key_in_a_child_of_todays_config(tmp_path, text, line):
    with pytest.raises(ValueError, match=f'-> .*{re.escape(line)}\nSee docs'):
        convert_mmdet_config(read(tmp_path, text))


@pytest.mark.parametrize(
    'text',
    [
        "data = dict(data_root='a/')\ntrain_dataloader = dict(dataset=dict(**data))",
        "data = dict(train=dict(ann_file='a'))\ntrain_dataloader = dict(dataset=data['train'])",
        "data = dict(train='a.json', val='b.json')",
        "optimizer = dict(type='SGD', lr=1)\noptim_wrapper = dict(optimizer=optimizer)",
        'total_epochs = 3\ntrain_cfg = dict(max_epochs=total_epochs)',
        'evaluation = dict(interval=2)\ntrain_cfg = dict(val_interval=evaluation["interval"])',
        'img_norm_cfg = dict(mean=[0], std=[1])\nmodel = dict(data_preprocessor=img_norm_cfg)',
        'checkpoint_config = dict(interval=1)\ndefault_hooks = dict(checkpoint=checkpoint_config)',
        'resume_from = None\nauto_resume = False\ncudnn_benchmark = True',
        "workflow = 'my own word'\ndata = None\nevaluation = None",
        "model = dict(type='MyDetector', pretrained=True)",
        "train_pipeline = [dict(type='Normalize', mean=[0], std=[1], to_rgb=True)]",
    ],
)
def test_names_that_a_config_of_today_uses_itself(tmp_path, text):
    cfg = read(tmp_path, text)
    before = copy.deepcopy(cfg.to_dict())
    convert_mmdet_config(cfg)
    assert cfg.to_dict() == before


def test_variables_of_the_base(tmp_path):
    variable = "optimizer = dict(type='SGD', lr=1)\n"
    base = tmp_path / 'base.py'
    base.write_text(BASE + variable)
    use = 'optim_wrapper = dict(optimizer=_base_.optimizer)'
    convert_mmdet_config(read(tmp_path, use, "_base_='base.py'\n"))

    base.write_text(BASE + variable + 'optim_wrapper = dict(optimizer=optimizer)\n')
    cfg = read(tmp_path, 'optim_wrapper = dict(optimizer=dict(lr=2))', "_base_ = 'base.py'\n")
    cfg.merge_from_dict({'optim_wrapper.optimizer.lr': 3})
    convert_mmdet_config(cfg)
    # The dump of a run has the variable, too.
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    convert_mmdet_config(again)
    assert (again.optimizer.lr, again.optim_wrapper.optimizer.lr) == (1, 3)
    again.merge_from_dict({'data.samples_per_gpu': 4})
    with pytest.raises(ValueError, match=r'dumped\.py has.*\n  data\.samples_per_gpu=4 -> '):
        convert_mmdet_config(again)


def test_the_page_shows_the_tables_of_the_code():
    page = (ROOT / 'docs' / 'from_mmdet.md').read_text()
    shown = re.findall(r'^\| `([\w.]+)` \| ([^|]+) \|$', page, flags=re.MULTILINE)
    tables = [*REPLACED_KEYS.items(), *REPLACED_ARGUMENTS.items(), *REPLACED_PARTS.items()]
    assert shown == [(old, f'`{new}`' if ' ' not in new else new) for old, new in tables]


@needs_theirs
def test_their_retinanets_build(told):
    files = sorted([*Path(THEIRS).glob('retinanet/*.py'), *Path(THEIRS).glob('ghm/*.py')])
    built = []
    for file in files:
        cfg = Config.fromfile(file)
        convert_mmdet_config(cfg)
        if file.stem == 'retinanet_tta':
            continue
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        assert type(model) is RetinaNet
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            dataset = loader.dataset
            while 'dataset' in dataset:
                dataset = dataset.dataset
            for step in dataset.pipeline:
                assert type(TRANSFORMS.build(step)).__name__ == step.type
        built.append(file.stem)
    assert len(built) == 28
    assert len(told) == len(files) - 1  # retinanet_tta.py, a base, has no scope

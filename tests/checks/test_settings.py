"""Settings that are refused before a run because they would fail or do nothing later."""

import pytest
from mmengine.config import Config

from ghmdet import CONFIG_ROOT, get_config
from ghmdet.checks.settings import check_sections, check_settings
from ghmdet.config.errors import ConfigError
from tests.checks.conftest import message_of

RECIPES = sorted(file.stem for file in CONFIG_ROOT.glob('*.py'))
ONE = 'must be a whole number of at least 1'
NUMBER = 'must be a number of at least 0'
LIST = 'must be a list of whole numbers of at least 1, each larger than the one before'
LR, STEPS = 'optim_wrapper.optimizer.lr', 'param_scheduler.milestones'
INTERVAL = 'default_hooks.checkpoint.interval'
FSDP = 'MMFullyShardedDataParallel'


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_pass(name):
    cfg = get_config(name)
    check_settings(cfg)
    check_sections(cfg)


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        *(('train_cfg.max_epochs', value, ONE) for value in (0, 1.5, True)),
        ('train_cfg.val_interval', 0, ONE),
        ('train_dataloader.batch_size', 'two', ONE),
        ('val_dataloader.num_workers', -1, 'must be a whole number of at least 0'),
        ('optim_wrapper.accumulative_counts', 0, ONE),
        *((INTERVAL, value, f'{ONE}, or -1 for never') for value in (0, -2, None)),
        *((LR, value, NUMBER) for value in ('fast', float('nan'), None)),
        ('optim_wrapper.optimizer.weight_decay', -1, NUMBER),
        ('model', None, "must be a dict, e.g. dict(type='RetinaNet')"),
        ('load_from', 1, 'must be the path of a checkpoint or None'),
        ('custom_hooks', dict(type='EMAHook'), 'must be a list of dicts'),
        *((STEPS, value, LIST) for value in ([11, 8], [8, 8], [0, 8], 8, ['8'])),
    ],
)
def test_wrong_values(key, value, expected):
    cfg = Config()
    cfg.merge_from_dict({key: value})
    message = message_of(ConfigError, check_settings, cfg)
    assert message == f'{key} {expected}, got {value!r}'


def test_milestones_of_several_schedulers():
    with pytest.raises(ConfigError, match=r'^param_scheduler\.1\.milestones must be a list'):
        check_settings(Config(dict(param_scheduler=[dict(type='LinearLR'), dict(milestones=8)])))


@pytest.mark.parametrize(
    'cfg',
    [
        dict(model=dict(), param_scheduler=None, custom_hooks=None),
        dict(optim_wrapper=dict(accumulative_counts=4, optimizer=dict(type='SGD', lr=0))),
        dict(default_hooks=dict(checkpoint=dict(interval=-1)), train_cfg=dict(max_iters=9)),
        dict(model_wrapper_cfg=dict(find_unused_parameters=True)),
        dict(runner_type='OwnRunner'),
    ],
)
def test_accepted(cfg):
    check_settings(Config(cfg))


@pytest.mark.parametrize(
    ('key', 'value', 'name'),
    [
        ('runner_type', 'FlexibleRunner', 'FlexibleRunner'),
        ('runner_type', 'mmengine.FlexibleRunner', 'FlexibleRunner'),
        ('model_wrapper_cfg', dict(type=f'mmengine.{FSDP}'), FSDP),
    ],
)
def test_sharding_is_refused(key, value, name):
    message = message_of(ConfigError, check_settings, Config({key: value}))
    assert message.startswith(f'{key} ({name}) is not supported: leave it out;')


def test_sections_come_in_threes():
    cfg = get_config('retinanet_ghm_r18_fpn_shapes')
    cfg.val_dataloader = None
    assert message_of(ConfigError, check_sections, cfg) == (
        'val_dataloader missing or None, but val_cfg and val_evaluator set: set all three, or '
        'none of them: val_dataloader=None, val_cfg=None, val_evaluator=None'
    )
    cfg.val_cfg = cfg.val_evaluator = None
    check_sections(cfg)
    cfg.pop('optim_wrapper')
    with pytest.raises(ConfigError, match='optim_wrapper missing or None, but train_dataloader'):
        check_sections(cfg)


DICT, LIST_OF_DICTS = 'must be a dict', 'must be a list of dicts'
SEVERAL = "must be a dict; for several datasets dict(type='ConcatDataset', datasets=[...])"


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('train_dataloader', [], 'must be a dict or None'),
        ('val_dataloader.dataset', [dict(type='CocoDataset')], SEVERAL),
        ('train_dataloader.dataset.dataset', 'x', SEVERAL),
        ('train_dataloader.dataset.datasets', [dict(type='CocoDataset'), 3], None),
        ('test_dataloader.sampler', 'DefaultSampler', 'must be a dict or None'),
        ('train_dataloader.batch_sampler', 3, 'must be a dict or None'),
        ('train_cfg', 12, 'must be a dict or None'),
        ('default_hooks', [dict(type='EMAHook')], 'must be a dict or None'),
        ('default_hooks.logger', 50, 'must be a dict or None'),
        ('default_hooks.checkpoint', 1, 'must be a dict or None'),
        ('custom_hooks', 'EMAHook', LIST_OF_DICTS),
        ('optim_wrapper', 'SGD', 'must be a dict or None'),
        ('optim_wrapper.optimizer', 'SGD', DICT),
        ('optim_wrapper.clip_grad', 35, 'must be a dict or None'),
        ('optim_wrapper.clip_grad.max_norm', 'x', 'must be a number'),
        ('param_scheduler', 'CosineAnnealingLR', 'must be a dict or list of dicts'),
        ('val_evaluator', 'CocoMetric', 'must be a dict or list of dicts'),
        ('visualizer', None, DICT),
        ('visualizer.vis_backends', dict(type='LocalVisBackend'), LIST_OF_DICTS),
        ('env_cfg', None, DICT),
        ('env_cfg.mp_cfg', 'fork', DICT),
        ('env_cfg.mp_cfg.mp_start_method', 3, 'must be a text'),
        ('env_cfg.mp_cfg.opencv_num_threads', 'x', 'must be a whole number of at least 0'),
        ('randomness', 0, DICT),
        ('auto_scale_lr', True, 'must be a dict or None'),
        ('default_scope', 3, 'must be a text'),
        ('log_level', 20, 'must be a text'),
        ('work_dir', 3, 'must be a text'),
        ('log_processor.window_size', 'x', ONE),
        ('train_dataloader.batch_size', None, ONE),
        ('model.backbone', 'ResNet', 'must be a dict or None'),
        ('model.bbox_head', [], 'must be a dict or None'),
        ('model.backbone.init_cfg', 'x.pth', 'must be a dict or list of dicts'),
        ('model.data_preprocessor.pad_size_divisor', None, ONE),
    ],
)
def test_types(key, value, expected):
    cfg = Config()
    cfg.merge_from_dict({key: value})
    message = message_of(ConfigError, check_settings, cfg)
    if expected is None:
        key, value, expected = f'{key}.1', 3, SEVERAL
    assert message == f'{key} {expected}, got {value!r}'


@pytest.mark.parametrize(
    'key',
    [
        'train_dataloader.dataset',
        'train_dataloader.sampler',
        'val_evaluator',
        'visualizer',
        'default_hooks.timer',
        'optim_wrapper.optimizer',
        'param_scheduler',
        'model.backbone',
    ],
)
def test_types_that_have_no_default(key):
    cfg = Config()
    cfg.merge_from_dict({key: dict(x=1)})
    if 'sampler' in key:
        cfg.train_dataloader.dataset = dict(type='X')
    told = f"{key} needs a `type`, the name of what to build; it has {{'x': 1}}"
    assert message_of(ConfigError, check_settings, cfg) == told


def test_a_dataloader_needs_a_dataset():
    cfg = Config(dict(val_dataloader=dict(batch_size=2)))
    told = "val_dataloader needs a `dataset`; it has {'batch_size': 2}"
    assert message_of(ConfigError, check_settings, cfg) == told


@pytest.mark.parametrize('key', ['custom_hooks', 'val_evaluator', 'param_scheduler'])
def test_items_of_lists(key):
    for value, told in ((3, ' must be a dict, got 3'), ({}, ' needs a `type`, ')):
        cfg = Config({key: [dict(type='X'), value]})
        assert message_of(ConfigError, check_settings, cfg).startswith(f'{key}.1{told}')


DATASET = dict(type='CocoDataset', ann_file='a.json', data_prefix=dict(img='b/'))
REPEATED = dict(type='RepeatDataset', times=2)


@pytest.mark.parametrize(
    ('given', 'key', 'told'),
    [
        (
            dict(ann_file=['a', 'b']),
            'ann_file',
            'must be the path of one file; a ConcatDataset has',
        ),
        (dict(ann_file=None), 'ann_file', 'must be the path of one file'),
        (dict(data_prefix='train/'), 'data_prefix', "must be a dict, e.g. dict(img='train/'), got"),
        (dict(data_prefix=dict(img=3)), 'data_prefix.img', 'must be a folder, got 3'),
        (dict(data_root=3), 'data_root', 'must be a path, or None, got 3'),
        (
            dict(metainfo=('cat',)),
            'metainfo',
            "must be a dict, e.g. dict(classes=('cat', 'dog')), ",
        ),
        (dict(filter_cfg=32), 'filter_cfg', 'must be a dict of filter_empty_gt and min_size, or'),
        (dict(pipeline=dict()), 'pipeline', 'must be a list of transforms, got {}'),
        (dict(indices='x'), 'indices', 'must be a number of images or a list of their indices'),
        (dict(backend_args='x'), 'backend_args', 'must be a dict, or None'),
    ],
)
def test_arguments_of_a_dataset(given, key, told):
    wrong = {**DATASET, **given}
    for dataset, place in (
        (wrong, ''),
        ({**REPEATED, 'dataset': wrong}, '.dataset'),
        (dict(type='ConcatDataset', datasets=[DATASET, wrong]), '.datasets.1'),
        ({**REPEATED, 'dataset': dict(type='X', datasets=[wrong])}, '.dataset.datasets.0'),
    ):
        cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
        message = message_of(ValueError, check_settings, cfg)
        assert message.startswith(f'train_dataloader.dataset{place}.{key} {told}')


def test_arguments_of_datasets_of_other_types_are_not_checked():
    dataset = dict(type='ConcatDataset', ann_file=['a'], datasets=[])
    check_settings(Config(dict(train_dataloader=dict(dataset=dataset))))


def test_a_scope_that_is_no_package():
    message = message_of(ConfigError, check_settings, Config(dict(default_scope='mydet')))
    assert message == "default_scope='mydet': there is no such package; leave it out"
    for scope in ('ghmdet', 'mmengine', 'mmcv'):
        check_settings(Config(dict(default_scope=scope)))
    check_settings(Config())


def test_detections_for_a_validation_need_nms():
    cfg = get_config(RECIPES[0])
    cfg.model.test_cfg = dict(score_thr=0.1)
    told = "model.test_cfg needs nms, e.g. nms=dict(type='nms', iou_threshold=0.5)"
    assert message_of(ConfigError, check_settings, cfg) == told
    cfg.model.test_cfg.nms = dict(type='nms', iou_threshold=0.5)
    check_settings(cfg)

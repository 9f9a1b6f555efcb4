"""Settings that are refused before a run because they would fail or do nothing later."""

import pytest
from mmengine.config import Config

from ghmdet import CONFIG_ROOT, get_config
from ghmdet.checks.settings import check_sections, check_settings
from ghmdet.config.cfg_options import merge_options
from ghmdet.config.errors import ConfigError

SHAPES = 'retinanet_ghm_r18_fpn_shapes'
RECIPES = sorted(file.stem for file in CONFIG_ROOT.glob('*.py'))


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_pass(name):
    cfg = get_config(name)
    check_settings(cfg)
    check_sections(cfg)


@pytest.mark.parametrize(
    ('key', 'value', 'told'),
    [
        ('train_cfg.max_epochs', 0, 'must be a whole number of at least 1, got 0'),
        ('train_cfg.max_epochs', 1.5, 'must be a whole number of at least 1, got 1.5'),
        ('train_cfg.max_epochs', True, 'must be a whole number of at least 1, got True'),
        ('train_cfg.val_interval', 0, 'must be a whole number of at least 1, got 0'),
        ('train_dataloader.batch_size', 'two', "must be a whole number of at least 1, got 'two'"),
        ('val_dataloader.num_workers', -1, 'must be a whole number of at least 0, got -1'),
        ('optim_wrapper.accumulative_counts', 0, 'must be a whole number of at least 1, got 0'),
        (
            'default_hooks.checkpoint.interval',
            0,
            'must be a whole number of at least 1, or -1 for never, got 0',
        ),
        ('optim_wrapper.optimizer.lr', 'fast', "must be a number of at least 0, got 'fast'"),
        ('optim_wrapper.optimizer.lr', float('nan'), 'must be a number of at least 0, got nan'),
        ('optim_wrapper.optimizer.weight_decay', -1, 'must be a number of at least 0, got -1'),
    ],
)
def test_numbers(key, value, told):
    cfg = get_config(SHAPES)
    merge_options(cfg, {key: value})
    with pytest.raises(ConfigError) as caught:
        check_settings(cfg)
    assert str(caught.value) == f'{key} {told}'


@pytest.mark.parametrize('milestones', [[11, 8], [8, 8], [0, 8], 8, ['8']])
def test_milestones(milestones):
    scheduler = dict(type='MultiStepLR', milestones=milestones)
    with pytest.raises(ConfigError) as caught:
        check_settings(Config(dict(param_scheduler=[dict(type='LinearLR'), scheduler])))
    assert str(caught.value) == (
        'param_scheduler.1.milestones must be a list of whole numbers of at least 1, each larger '
        f'than the one before, got {milestones!r}'
    )


@pytest.mark.parametrize(
    ('values', 'told'),
    [
        (dict(model=None), "model must be a dict, e.g. dict(type='RetinaNet'), got None"),
        (dict(load_from=1), 'load_from must be the path of a checkpoint or None, got 1'),
        (
            dict(custom_hooks=dict(type='EMAHook')),
            "custom_hooks must be a list of dicts, got {'type': 'EMAHook'}",
        ),
    ],
)
def test_kinds(values, told):
    with pytest.raises(ConfigError) as caught:
        check_settings(Config(values))
    assert str(caught.value) == told


@pytest.mark.parametrize(
    'cfg',
    [
        dict(model=dict(), param_scheduler=None, custom_hooks=None),
        dict(optim_wrapper=dict(accumulative_counts=4, optimizer=dict(lr=0))),
        dict(default_hooks=dict(checkpoint=dict(interval=-1)), train_cfg=dict(max_iters=9)),
        dict(model_wrapper_cfg=dict(find_unused_parameters=True)),
        dict(runner_type='OwnRunner'),
    ],
)
def test_accepted(cfg):
    check_settings(Config(cfg))


@pytest.mark.parametrize(
    ('cfg', 'text'),
    [
        (dict(runner_type='FlexibleRunner'), 'runner_type (FlexibleRunner)'),
        (dict(runner_type='mmengine.FlexibleRunner'), 'runner_type (FlexibleRunner)'),
        (
            dict(model_wrapper_cfg=dict(type='mmengine.MMFullyShardedDataParallel')),
            'model_wrapper_cfg (MMFullyShardedDataParallel)',
        ),
    ],
)
def test_sharding_is_refused(cfg, text):
    with pytest.raises(ConfigError) as caught:
        check_settings(Config(cfg))
    assert str(caught.value).startswith(f'{text} is not supported: leave it out;')


def test_sections_come_in_threes():
    cfg = get_config(SHAPES)
    cfg.val_dataloader = None
    with pytest.raises(ConfigError) as caught:
        check_sections(cfg)
    assert str(caught.value) == (
        'val_dataloader missing or None, but val_cfg and val_evaluator set: set all three, or '
        'none of them: val_dataloader=None, val_cfg=None, val_evaluator=None'
    )
    cfg.val_cfg = cfg.val_evaluator = None
    check_sections(cfg)
    cfg.pop('optim_wrapper')
    with pytest.raises(
        ConfigError, match='optim_wrapper missing or None, but train_dataloader and'
    ):
        check_sections(cfg)

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

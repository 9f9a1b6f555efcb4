"""From a config, whose errors come first, to a Runner with its hooks in order."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, get_priority

from ghmdet.checks.start_check import StartCheckHook
from ghmdet.engine import apply_auto_scale_lr
from ghmdet.engine.console import LiveLineHook
from ghmdet.engine.hooks.fast_network import TestSpeedupHook as SpeedupHook
from ghmdet.engine.hooks.stop import StopHook
from ghmdet.engine.runner import HOOKS_IN_ORDER, build_runner
from tests.number_runs import number_cfg, own_scope


@RUNNERS.register_module(force=True)
class LoudRunner(Runner):
    pass


def test_mmengine_calls_the_hooks_in_the_order_of_the_list(tmp_path):
    cfg = number_cfg(tmp_path, [0, 1])
    cfg.custom_hooks = [dict(type='GHMStatsHook')]
    cfg.default_hooks = dict(
        runtime_info=dict(type='RuntimeInfoHook'),
        timer=dict(type='IterTimerHook'),
        sampler_seed=dict(type='DistSamplerSeedHook'),
        logger=dict(type='LoggerHook'),
        param_scheduler=dict(type='ParamSchedulerHook'),
        checkpoint=dict(type='CheckpointHook'),
    )
    with own_scope():
        runner = build_runner(cfg)
    assert type(runner) is Runner
    for hook in (SpeedupHook(), LiveLineHook(), StopHook()):
        runner.register_hook(hook)
    assert [type(hook) for hook in runner.hooks] == [kind for kind, _ in HOOKS_IN_ORDER]


def test_priorities_are_those_of_the_list():
    # mmengine takes the priority of the class where a config names the hook without one.
    for kind, priority in HOOKS_IN_ORDER:
        assert get_priority(kind.priority) == get_priority(priority), kind
        assert ROOT_HOOKS.get(f'ghmdet.{kind.__name__}') is not None


def test_runner_type_and_a_hook_of_the_config(tmp_path):
    cfg = number_cfg(tmp_path, [0], runner_type='LoudRunner')
    cfg.custom_hooks = [dict(type=StartCheckHook, image_limit=5)]
    with own_scope():
        runner = build_runner(cfg)
    assert type(runner) is LoudRunner
    assert [h.image_limit for h in runner.hooks if type(h) is StartCheckHook] == [5]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(train_cfg=dict(by_epoch=True, max_epochs=0)), 'train_cfg.max_epochs'),
        (dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=-1.0))), 'optim_wrapper.optimizer'),
        (dict(runner_type='FlexibleRunner'), 'FlexibleRunner'),
        (dict(evaluation=dict(interval=1)), 'train_cfg.val_interval'),
        (
            dict(
                train_dataloader=dict(dataset=dict(type='CocoDataset', metainfo=dict(classes='a')))
            ),
            'train_dataloader.dataset.metainfo.classes',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_an_error_of_the_config_comes_before_the_work_dir_is_touched(tmp_path, settings, message):
    cfg = number_cfg(tmp_path / 'work', [1.0], **settings)
    with own_scope(), pytest.raises(ValueError, match=message):
        build_runner(cfg)
    assert not list(tmp_path.iterdir())


def test_auto_scale_lr():
    cfg = Config(dict(auto_scale_lr=dict(enable=False, base_batch_size=16)))
    apply_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({}, 'auto_scale_lr.enable and auto_scale_lr.base_batch_size in'),
        (dict(auto_scale_lr=None), 'auto_scale_lr.enable and'),
        (dict(auto_scale_lr=dict(enable=False)), 'auto_scale_lr.base_batch_size in'),
        (dict(auto_scale_lr=dict(base_batch_size=16)), 'auto_scale_lr.enable in'),
        (
            dict(auto_scale_lr=dict(enable=False, base_batch_size=0)),
            'a positive number .*base_batch_size, got 0',
        ),
    ],
)
def test_auto_scale_lr_needs_both_keys(given, message):
    with pytest.raises(ValueError, match=f'--auto-scale-lr needs {message}'):
        apply_auto_scale_lr(Config(given))

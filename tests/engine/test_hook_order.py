"""The hooks of a run, mmengine's own included, in the order in which they act."""

from __future__ import annotations

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.runner import get_priority

from ghmdet.engine.hooks import fast_network
from ghmdet.engine.hooks.stop import StopHook
from ghmdet.engine.runner import HOOKS_IN_ORDER, build_runner
from tests.number_runs import number_cfg, own_scope


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
    for hook in (fast_network.TestSpeedupHook(), StopHook()):
        runner.register_hook(hook)
    assert [type(hook) for hook in runner.hooks] == [kind for kind, _ in HOOKS_IN_ORDER]


def test_priorities_are_those_of_the_list():
    # mmengine takes the priority of the class where a config names the hook without one.
    for kind, priority in HOOKS_IN_ORDER:
        assert get_priority(kind.priority) == get_priority(priority), kind
        assert ROOT_HOOKS.get(f'ghmdet.{kind.__name__}') is not None

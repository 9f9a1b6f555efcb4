"""From a config to a Runner.

These functions change the config they are given, as the command line does: what they set is what
the log and the dumped config show.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from mmengine.config import Config
from mmengine.hooks import (
    DistSamplerSeedHook,
    Hook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    RuntimeInfoHook,
)
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from ghmdet.checkpoint.load_hook import LoadWeightsHook
from ghmdet.checkpoint.resume import confirm_start, plan_start
from ghmdet.checkpoint.save_hook import CheckpointHook
from ghmdet.checks.classes import complete_evaluators, resolve_classes
from ghmdet.checks.learning_rate import check_auto_scale_lr, step_batch, wrappers_of
from ghmdet.checks.network import check_network
from ghmdet.checks.settings import check_sections, check_settings
from ghmdet.checks.start_check import StartCheckHook
from ghmdet.checks.start_report import StartReportHook, log_package_path
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.config.parts import make_plain
from ghmdet.engine.console import LiveLineHook, filter_console
from ghmdet.engine.hooks import log_values
from ghmdet.engine.hooks.fast_network import TestSpeedupHook
from ghmdet.engine.hooks.ghm_stats import GHMStatsHook
from ghmdet.engine.hooks.non_finite_steps import SkipNonFiniteStepsHook
from ghmdet.engine.hooks.non_finite_weights import NonFiniteWeightsHook
from ghmdet.engine.hooks.skipped_images import SkippedImagesHook
from ghmdet.engine.hooks.stop import StopHook
from ghmdet.engine.launcher import is_first_process, prepare_cpu, set_up_launcher
from ghmdet.messages import type_name
from ghmdet.registry import RUNNERS
from ghmdet.visualization.trackers import protect_trackers

HOOKS_IN_ORDER: tuple[tuple[type[Hook], str], ...] = (
    (RuntimeInfoHook, 'VERY_HIGH'),  # mmengine's: notes losses and learning rates of the iteration
    (StartCheckHook, 'VERY_HIGH'),  # before weights are initialised or loaded
    (LoadWeightsHook, 'HIGH'),  # before EMAHook (NORMAL) copies the weights
    (SkipNonFiniteStepsHook, 'HIGH'),  # after the losses are noted, before they are averaged
    (IterTimerHook, 'NORMAL'),
    (DistSamplerSeedHook, 'NORMAL'),
    (GHMStatsHook, 'NORMAL'),  # if the config has it
    (log_values.PeakMemoryHook, 'NORMAL'),
    (log_values.SlowStepsHook, 'NORMAL'),  # after IterTimerHook
    (SkippedImagesHook, 'NORMAL'),
    (log_values.MeanLossesHook, 'NORMAL'),  # without skipped steps, before LoggerHook
    (TestSpeedupHook, 'NORMAL'),  # added by tools/test.py
    (LoggerHook, 'BELOW_NORMAL'),
    (ParamSchedulerHook, 'LOW'),
    (NonFiniteWeightsHook, 'LOW'),  # after EMAHook has swapped weights back, before CheckpointHook
    (CheckpointHook, 'VERY_LOW'),
    (log_values.LogHistoryHook, 'VERY_LOW'),  # after the other hooks have logged their values
    (StartReportHook, 'LOWEST'),  # after CheckpointHook has chosen its folder
    (LiveLineHook, 'LOWEST'),  # added by tools/train.py and tools/test.py on a terminal
    (StopHook, 'LOWEST'),  # added by tools/train.py; after the checkpoints that are due
)
"""The hooks of a run with their priorities, in the order in which mmengine calls them."""

# Other callers register these, or the config does.
_NOT_ADDED = (CheckpointHook, GHMStatsHook, LiveLineHook, StopHook, TestSpeedupHook)


def build_runner(
    cfg: Config, splits: Sequence[str] = ('train', 'val'), verbose: bool = False
) -> Runner:
    """Build the Runner (of class `runner_type` if set) in three phases; `cfg` is changed in place.

    1. The config is completed and checked, without touching a work dir.
    2. The processes are joined. A training locks its work dir and chooses the checkpoint that it
       resumes from.
    3. The Runner is built, its network is checked, and the hooks of `HOOKS_IN_ORDER` that the
       config does not name are added.

    `splits` is the data that will be read: ('train', 'val') to train, ('val',) or ('test',) else.
    `verbose` shows the whole log on the console, not only what `console.is_shown` chooses.
    """
    prepare_cpu()  # before anything large is allocated
    trains = 'train' in splits and cfg.get('train_cfg') is not None
    # 1. Config
    make_plain(cfg._cfg_dict)
    convert_mmdet_config(cfg)
    check_settings(cfg)
    _choose_own_parts(cfg)
    protect_trackers(cfg)
    complete_evaluators(cfg)
    check_sections(cfg)
    classes = resolve_classes(cfg, splits)
    # 2. Processes and work dir
    set_up_launcher(cfg)
    notes = plan_start(cfg, is_first_process(cfg)) if trains else []
    # 3. Runner
    with nullcontext() if verbose else filter_console():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for level, text in notes:
        runner.logger.log(level, text)
    if trains:
        confirm_start(cfg)
    check_network(cfg, runner.model)
    log_package_path()
    if classes:
        runner.logger.info(classes)
    _add_hooks(runner)
    if hasattr(runner, 'scale_lr'):
        runner.scale_lr = partial(scale_lr, runner)
    return runner


def _choose_own_parts(cfg: Config) -> None:
    """Let mmengine's names mean our loops and CheckpointHook without a type, and in other scopes.

    They take the arguments of mmengine's. Our validation loop is chosen for `compute_loss` only.
    LoggerHook writes metrics at the iteration, unless `log_metric_by_epoch` is set.
    """
    hooks = cfg.get('default_hooks') or {}
    hook = hooks.get('logger', {})
    if hook is not None and type_name(hook, 'LoggerHook') == 'LoggerHook':
        # By default mmengine writes metrics at the epoch, in iteration-based runs all at 0.
        hook = {'type': 'LoggerHook', 'log_metric_by_epoch': False, **hook}
        cfg.default_hooks = hooks = {**hooks, 'logger': hook}
    loop = cfg.get('train_cfg')
    if loop is not None:
        if 'type' not in loop:
            by_epoch = loop.pop('by_epoch', True)
            loop.type = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
        if (name := type_name(loop)) in ('EpochBasedTrainLoop', 'IterBasedTrainLoop'):
            loop.type = f'ghmdet.{name}'
        hook = hooks.get('checkpoint', {})
        if hook is not None and type_name(hook, 'CheckpointHook') == 'CheckpointHook':
            hook = {'interval': 1, **hook, 'type': 'ghmdet.CheckpointHook'}
            cfg.default_hooks = {**hooks, 'checkpoint': hook}
    loop = cfg.get('val_cfg')
    if loop is not None and 'compute_loss' in loop and type_name(loop, 'ValLoop') == 'ValLoop':
        loop.type = 'ghmdet.ValLoop'


def _add_hooks(runner: Runner) -> None:
    for kind, _ in HOOKS_IN_ORDER:
        is_ours = kind.__module__.startswith('ghmdet.') and kind not in _NOT_ADDED
        if is_ours and not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())


def apply_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by total batch size / `base_batch_size`.

    Raises:
        ValueError: the config does not say for which batch size its learning rate was chosen.
    """
    check_auto_scale_lr(cfg.get('auto_scale_lr'), '--auto-scale-lr')
    cfg.auto_scale_lr.enable = True


def apply_deterministic(cfg: Config) -> None:
    """Use only deterministic algorithms; see docs/train/resume.md."""
    # cuBLAS reads it when CUDA is first used; without it torch refuses to run deterministically.
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    cfg.randomness = dict(cfg.get('randomness') or {}, deterministic=True)


def scale_lr(
    runner: Runner, wrapper: OptimWrapper | OptimWrapperDict, auto_scale_lr: Any = None
) -> None:
    """Scale the learning rates by total batch size / `base_batch_size`, if `enable` is set.

    Replaces mmengine's `Runner.scale_lr`, which does not count accumulated batches. It runs before
    a checkpoint is resumed, whose rates are scaled already. Errors as in `check_auto_scale_lr`.
    """
    if not (auto_scale_lr or {}).get('enable', False):
        return
    check_auto_scale_lr(auto_scale_lr, 'auto_scale_lr.enable=True')
    base = auto_scale_lr['base_batch_size']
    for name, each in wrappers_of(runner):
        batch = step_batch(runner, each)
        for group in each.param_groups:
            group['lr'] = group['lr'] * (batch.total / base)
        runner.logger.info(
            f'auto_scale_lr: {f"{name}: " if name else ""}learning rate x {batch.total / base:g} '
            f'for a total batch size of {batch.total} instead of {base}'
        )

"""From a config to a Runner: processes, mixed precision, learning rate, the check at the door.

These functions change the config they are given, as the command line does: what they set is what
the log and the dumped config show.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from ghmdet.checkpoint.load_hook import LoadWeightsHook
from ghmdet.checkpoint.resume import confirm_start, plan_start
from ghmdet.checks.classes import complete_evaluators, resolve_classes
from ghmdet.checks.learning_rate import check_auto_scale_lr, step_batch, wrappers_of
from ghmdet.checks.network import check_network
from ghmdet.checks.settings import check_sections, check_settings
from ghmdet.checks.start_check import StartCheckHook
from ghmdet.checks.start_report import StartReportHook, log_package_path
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.engine.hooks.log_values import LogHistoryHook, MeanLossesHook
from ghmdet.engine.hooks.memory import PeakMemoryHook, keep_freed_memory
from ghmdet.engine.hooks.non_finite_steps import SkipNonFiniteStepsHook
from ghmdet.engine.hooks.non_finite_weights import NonFiniteWeightsHook
from ghmdet.engine.hooks.reserve_memory_hook import ReserveMemoryHook
from ghmdet.engine.hooks.skipped_images import SkippedImagesHook
from ghmdet.engine.launcher import is_first_process, set_up_launcher
from ghmdet.messages import type_name
from ghmdet.registry import RUNNERS

_HOOKS: tuple[type[Hook], ...] = (
    *(StartCheckHook, PeakMemoryHook, LoadWeightsHook, SkippedImagesHook),
    *(
        SkipNonFiniteStepsHook,
        NonFiniteWeightsHook,
        StartReportHook,
        LogHistoryHook,
    ),
    *(MeanLossesHook, ReserveMemoryHook),
)


def build_runner(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> Runner:
    """Join the processes and build the Runner (of class `runner_type` if set).

    It gets the hooks in `_HOOKS`, unless the config names them itself, and a learning rate that is
    scaled for accumulated batches too (see `scale_lr`). A config of MMDetection comes out as one of
    ghmdet's (see `convert_mmdet_config`). Classes and annotation files that it leaves out are
    filled in (see `resolve_classes` and `complete_evaluators`). A training takes its work dir for
    itself alone, and where it begins is settled here (see `plan_start`).

    Args:
        cfg: changed in place.
        splits: the data that will be read: ('train', 'val') to train, ('val',) or ('test',) else.
    """
    convert_mmdet_config(cfg)
    _choose_own_parts(cfg)
    set_up_launcher(cfg)
    keep_freed_memory()
    check_settings(cfg)
    trains = 'train' in splits and cfg.get('train_cfg') is not None
    notes = plan_start(cfg, is_first_process(cfg)) if trains else []
    complete_evaluators(cfg)
    check_sections(cfg)
    taken = resolve_classes(cfg, splits)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for level, text in notes:
        runner.logger.log(level, text)
    if trains:
        confirm_start(cfg)
    check_network(cfg, runner.model)
    log_package_path()
    if taken:
        runner.logger.info(taken)
    for kind in _HOOKS:
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    if hasattr(runner, 'scale_lr'):
        runner.scale_lr = partial(scale_lr, runner)
    return runner


def apply_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the images of a step / `base_batch_size`.

    Raises:
        ValueError: the config does not say which batch its learning rate was meant for.
    """
    check_auto_scale_lr(cfg.get('auto_scale_lr'), '--auto-scale-lr')
    cfg.auto_scale_lr.enable = True


def apply_deterministic(cfg: Config) -> None:
    """Use only algorithms that give the same bits each time; see docs/resume.md."""
    # cuBLAS reads it when CUDA is first used; without it torch refuses to run deterministically.
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    cfg.randomness = dict(cfg.get('randomness') or {}, deterministic=True)


def _choose_own_parts(cfg: Config) -> None:
    """Let mmengine's names mean our loops and CheckpointHook without a type, and in other scopes.

    They take the arguments of mmengine's. Of the validation loop only `compute_loss` is our own.
    """
    loop = cfg.get('train_cfg')
    if loop is not None:
        if 'type' not in loop:
            by_epoch = loop.pop('by_epoch', True)
            loop.type = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
        if (name := type_name(loop, '')) in ('EpochBasedTrainLoop', 'IterBasedTrainLoop'):
            loop.type = f'ghmdet.{name}'
        hooks = cfg.get('default_hooks') or {}
        hook = hooks.get('checkpoint', {})
        if hook is not None and type_name(hook, 'CheckpointHook') == 'CheckpointHook':
            hook = {'interval': 1, **hook, 'type': 'ghmdet.CheckpointHook'}
            cfg.default_hooks = {**hooks, 'checkpoint': hook}
    loop = cfg.get('val_cfg')
    if loop is not None and 'compute_loss' in loop and type_name(loop, 'ValLoop') == 'ValLoop':
        loop.type = 'ghmdet.ValLoop'


def scale_lr(
    runner: Runner, wrapper: OptimWrapper | OptimWrapperDict, auto_scale_lr: Any = None
) -> None:
    """Scale the learning rates by images a step / `base_batch_size`, if `enable` says so.

    In place of mmengine's `Runner.scale_lr`, which does not count accumulated batches. Like it, it
    comes before the schedulers and before a checkpoint is resumed: this brings scaled rates along,
    and they are not scaled again.

    Raises:
        ValueError: see `check_auto_scale_lr`.
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
            f'for {batch.total} images a step instead of {base}'
        )

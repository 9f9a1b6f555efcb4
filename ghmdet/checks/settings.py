"""Checks settings that mmengine accepts as they are, and that would fail later or do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ghmdet.config.errors import ConfigError
from ghmdet.messages import type_name

_SECTIONS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}

# Settings that must be whole numbers, with their smallest value; None is -1 (never) or at least 1.
_LEAST = {
    'train_cfg.max_epochs': 1,
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.val_begin': 0,
    'default_hooks.checkpoint.interval': None,
    'optim_wrapper.accumulative_counts': 1,
    **{f'{split}_dataloader.batch_size': 1 for split in _SECTIONS},
    **{f'{split}_dataloader.num_workers': 0 for split in _SECTIONS},
}
_NOT_NEGATIVE = ('lr', 'weight_decay', 'momentum')  # arguments of the optimizer
# Their sharded checkpoints could not be saved or loaded.
_REFUSED = dict(runner_type='FlexibleRunner', model_wrapper_cfg='MMFullyShardedDataParallel')


def check_settings(cfg: Config) -> None:
    """Check numbers and types of the settings of a run.

    Raises:
        ConfigError: a setting is out of its range or of another type, or shards the model.

    Example:
        >>> check_settings(Config(dict(train_cfg=dict(max_epochs=0))))
        Traceback (most recent call last):
        ...
        ghmdet.config.errors.ConfigError: train_cfg.max_epochs must be a whole number of at \
least 1, got 0
    """
    for key, refused in _REFUSED.items():
        if type_name(cfg.get(key)).rpartition('.')[2] == refused:
            raise ConfigError(
                f'{key} ({refused}) is not supported: leave it out; several GPUs are used by '
                'DistributedDataParallel, see docs/distributed.md'
            )
    if 'model' in cfg and not isinstance(cfg.model, Mapping):
        raise ConfigError(f"model must be a dict, e.g. dict(type='RetinaNet'), got {cfg.model!r}")
    for key, least in _LEAST.items():
        section, _, name = key.rpartition('.')
        node: Any = cfg
        for part in section.split('.'):
            node = node.get(part) if isinstance(node, Mapping | Config) else None
        if isinstance(node, Mapping) and name in node:
            _check_whole(key, node[name], least)
    _check_optimizer(cfg)
    _check_milestones(cfg)
    source = cfg.get('load_from')
    if source is not None and not isinstance(source, str):
        raise ConfigError(f'load_from must be the path of a checkpoint or None, got {source!r}')
    hooks = cfg.get('custom_hooks')
    if hooks is not None and not isinstance(hooks, list | tuple):
        raise ConfigError(f'custom_hooks must be a list of dicts, got {hooks!r}')


def check_sections(cfg: Config) -> None:
    """Check that all sections of a loop are set, or none of them.

    Raises:
        ConfigError: some are None or missing.
    """
    for keys in _SECTIONS.values():
        missing = [key for key in keys if cfg.get(key) is None]
        if 0 < len(missing) < len(keys):
            given = ' and '.join(key for key in keys if key not in missing)
            raise ConfigError(
                f'{" and ".join(missing)} missing or None, but {given} set: set all three, or '
                f'none of them: {"=None, ".join(keys)}=None'
            )


def _check_whole(key: str, value: Any, least: int | None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if least is None:
        if not whole or value == 0 or value < -1:
            raise ConfigError(
                f'{key} must be a whole number of at least 1, or -1 for never, got {value!r}'
            )
    elif value is not None and (not whole or value < least):
        raise ConfigError(f'{key} must be a whole number of at least {least}, got {value!r}')


def _check_optimizer(cfg: Config) -> None:
    wrapper = cfg.get('optim_wrapper')
    optimizer: Any = wrapper.get('optimizer') if isinstance(wrapper, Mapping) else None
    for name in _NOT_NEGATIVE if isinstance(optimizer, Mapping) else ():
        value = optimizer.get(name, 0)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float('inf'):
            raise ConfigError(
                f'optim_wrapper.optimizer.{name} must be a number of at least 0, got {value!r}'
            )


def _check_milestones(cfg: Config) -> None:
    schedulers = cfg.get('param_scheduler')
    several = isinstance(schedulers, list | tuple)
    for number, scheduler in enumerate(schedulers if several else [schedulers]):
        if not isinstance(scheduler, Mapping) or 'milestones' not in scheduler:
            continue
        key = f'param_scheduler.{number}' if several else 'param_scheduler'
        milestones = scheduler['milestones']
        fine = isinstance(milestones, list | tuple) and all(isinstance(s, int) for s in milestones)
        if (
            not fine
            or list(milestones) != sorted(set(milestones))
            or min(milestones, default=1) < 1
        ):
            raise ConfigError(
                f'{key}.milestones must be a list of whole numbers of at least 1, each larger '
                f'than the one before, got {milestones!r}'
            )

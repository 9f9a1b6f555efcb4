"""Checks settings that mmengine accepts as they are, and that would fail later or do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ghmdet.argument_checks import check_dataset_arguments
from ghmdet.checks.classes import is_ours
from ghmdet.config.data_root import find_datasets
from ghmdet.config.errors import ConfigError
from ghmdet.config.parts import value_at
from ghmdet.messages import type_name
from ghmdet.registry import DATASETS

_SECTIONS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
# Settings that must be whole numbers or None, with their smallest value.
_LEAST = {
    'train_cfg.max_epochs': 1,
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.val_begin': 0,
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
    values = cfg.to_dict()
    for key, refused in _REFUSED.items():
        if type_name(values.get(key)).rpartition('.')[2] == refused:
            raise ConfigError(
                f'{key} ({refused}) is not supported: leave it out; several GPUs are used by '
                'DistributedDataParallel, see docs/distributed.md'
            )
    if not isinstance(values.get('model', {}), Mapping):
        raise ConfigError(f"model must be a dict, e.g. dict(type='RetinaNet'), got {cfg.model!r}")
    for key, least in _LEAST.items():
        value = value_at(values, key)
        if value is not None and not (_is_whole(value) and value >= least):
            raise ConfigError(f'{key} must be a whole number of at least {least}, got {value!r}')
    interval = (value_at(values, 'default_hooks.checkpoint') or {}).get('interval', 1)
    if not _is_whole(interval) or interval == 0 or interval < -1:
        raise ConfigError(
            'default_hooks.checkpoint.interval must be a whole number of at least 1, or -1 for '
            f'never, got {interval!r}'
        )
    optimizer = value_at(values, 'optim_wrapper.optimizer')
    for name in _NOT_NEGATIVE if isinstance(optimizer, Mapping) else ():
        value = optimizer.get(name, 0)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float('inf'):
            raise ConfigError(
                f'optim_wrapper.optimizer.{name} must be a number of at least 0, got {value!r}'
            )
    for key, part in find_datasets(cfg):
        if is_ours(part, DATASETS, 'CocoDataset', 'ImageFolder'):
            check_dataset_arguments(part, f'{key}.')
    _check_milestones(values.get('param_scheduler'))
    source, hooks = values.get('load_from'), values.get('custom_hooks')
    if source is not None and not isinstance(source, str):
        raise ConfigError(f'load_from must be the path of a checkpoint or None, got {source!r}')
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


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_milestones(schedulers: Any) -> None:
    several = isinstance(schedulers, list | tuple)
    for number, scheduler in enumerate(schedulers if several else [schedulers]):
        if not isinstance(scheduler, Mapping) or 'milestones' not in scheduler:
            continue
        steps = scheduler['milestones']
        fine = isinstance(steps, list | tuple) and all(map(_is_whole, steps))
        if not fine or list(steps) != sorted(set(steps)) or min(steps, default=1) < 1:
            key = f'param_scheduler.{number}' if several else 'param_scheduler'
            raise ConfigError(
                f'{key}.milestones must be a list of whole numbers of at least 1, each larger '
                f'than the one before, got {steps!r}'
            )

"""Settings that mmengine takes as they are, to fail much later or to do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ghmdet.config.errors import ConfigError

_SECTIONS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
_NAMES = {'train': 'training', 'val': 'validation', 'test': 'testing'}

# Smallest value of what must be whole numbers.
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
_NOT_NEGATIVE = ('lr', 'weight_decay', 'momentum')  # of the optimizer


def check_settings(cfg: Config) -> None:
    """Look at the numbers and the sections that a run is made of.

    Raises:
        ConfigError: a setting is out of its range, or a section is missing beside others.

    Example:
        >>> check_settings(Config(dict(train_cfg=dict(max_epochs=0))))
        Traceback (most recent call last):
        ...
        ghmdet.config.errors.ConfigError: train_cfg.max_epochs must be a whole number of at \
least 1, got 0
    """
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
    """Look whether the sections that belong together are all there.

    Raises:
        ConfigError: some are None or missing.
    """
    for split, keys in _SECTIONS.items():
        missing = [key for key in keys if cfg.get(key) is None]
        if 0 < len(missing) < len(keys):
            there = ' and '.join(key for key in keys if key not in missing)
            raise ConfigError(
                f'{" and ".join(missing)} missing or None, but {there} set: give all three, or, '
                f'without {_NAMES[split]}, set {"=None, ".join(keys)}=None'
            )


def _check_whole(key: str, value: Any, least: int | None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if least is None:  # -1 is never
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
        place = f'param_scheduler.{number}' if several else 'param_scheduler'
        stones = scheduler['milestones']
        fine = isinstance(stones, list | tuple) and all(isinstance(s, int) for s in stones)
        if not fine or list(stones) != sorted(set(stones)) or min(stones, default=1) < 1:
            raise ConfigError(
                f'{place}.milestones must be a list of whole numbers of at least 1, each larger '
                f'than the one before, got {stones!r}'
            )


def check_strategy(cfg: Config) -> None:
    """Refuse what would stop, or lose the weights, at the first checkpoint.

    Raises:
        ConfigError: the model is to be split by FSDP in a way that cannot be loaded or saved.

    Example:
        >>> check_strategy(Config(dict(runner_type='FlexibleRunner', strategy='FSDPStrategy')))
        Traceback (most recent call last):
        ...
        ghmdet.config.errors.ConfigError: strategy (FSDPStrategy) must have \
state_dict_cfg='full': of others no checkpoint can be saved
    """
    wrapper, strategy = cfg.get('model_wrapper_cfg'), cfg.get('strategy')
    if 'runner_type' not in cfg:
        if _name(wrapper) == 'MMFullyShardedDataParallel':
            raise ConfigError(
                'model_wrapper_cfg (MMFullyShardedDataParallel): the Runner would save one '
                "process's part of the weights; use runner_type='FlexibleRunner' and "
                "strategy=dict(type='FSDPStrategy', state_dict_cfg='full'), or leave "
                'model_wrapper_cfg out'
            )
        return
    if _name(strategy) != 'FSDPStrategy':
        return
    states: Any = strategy.get('state_dict_cfg') if isinstance(strategy, Mapping) else None
    if states != 'full' and not (
        isinstance(states, Mapping) and states.get('state_dict_type') == 'FULL_STATE_DICT'
    ):
        raise ConfigError(
            "strategy (FSDPStrategy) must have state_dict_cfg='full': of others no checkpoint can "
            'be saved'
        )
    if cfg.get('resume') or cfg.get('load_from'):
        source = cfg.get('load_from') or 'the newest checkpoint of the work dir'
        raise ConfigError(
            f'strategy (FSDPStrategy): {source} cannot be loaded into a model that FSDP splits. '
            "Test, resume and fine-tune without runner_type and strategy, or with 'DDPStrategy'"
        )


def _name(part: Any) -> str:
    """Name of the class that a config of a part names, without a scope."""
    kind = part.get('type') if isinstance(part, Mapping) else part
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]

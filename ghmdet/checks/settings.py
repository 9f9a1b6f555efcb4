"""Checks settings that mmengine accepts as they are, and that would fail later or do nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS as root

from ghmdet.argument_checks import check_dataset_arguments, is_number
from ghmdet.checks.classes import is_ours
from ghmdet.config.data_root import find_datasets
from ghmdet.config.errors import ConfigError
from ghmdet.config.package_lookup import is_installed
from ghmdet.config.parts import nodes_in, value_at
from ghmdet.messages import shorten, type_name
from ghmdet.registry import DATASETS

_SECTIONS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
_LOADERS = [keys[0] for keys in _SECTIONS.values()]
_DATASET = r'\w+_dataloader\.(dataset|.*\.dataset|.*datasets\.\d+)'
_ITEM = (
    r'(custom_hooks|param_scheduler|visualizer\.vis_backends|(val|test)_evaluator)\.\d+|'
    r'\w+_dataloader\..*pipeline\.\d+|visualizer|optim_wrapper\.optimizer'
)
_PART = r'model\.(backbone|neck|bbox_head)|default_hooks\.\w+|\w+_dataloader\.(batch_)?sampler'
_DICTS = (dict, list, tuple, NoneType)
# Types of settings by their dotted keys, and what a message says of them.
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    'model': (dict, "a dict, e.g. dict(type='RetinaNet')"),
    _DATASET: (dict, "a dict; for several datasets dict(type='ConcatDataset', datasets=[...])"),
    rf'{_ITEM}|env_cfg(\.mp_cfg)?|randomness|log_processor': (dict, 'a dict'),
    r'model\..*init_cfg\.\d+': (dict, 'a dict'),
    rf'{_PART}|\w+_dataloader|(train|val|test)_cfg|auto_scale_lr|default_hooks|optim_wrapper|'
    r'optim_wrapper\.(clip_grad|paramwise_cfg)|model\.(data_preprocessor|(train|test)_cfg)|'
    r'model\.train_cfg\.(assigner|sampler)': ((dict, NoneType), 'a dict or None'),
    r'param_scheduler|(val|test)_evaluator|model\..*init_cfg': (_DICTS, 'a dict or list of dicts'),
    r'custom_hooks|visualizer\.vis_backends': (_DICTS[1:], 'a list of dicts'),
    'load_from': ((str, NoneType), 'the path of a checkpoint or None'),
    r'default_scope|log_level|work_dir|visualizer\.name|.*\.mp_start_method': (str, 'a text'),
    r'optim_wrapper\.clip_grad\.\w+': ((int, float, bool), 'a number'),
}
# Of these dicts the type has no default.
_TYPED = re.compile(f'{_DATASET}|{_ITEM}|(?!.*[.]checkpoint)({_PART})|param_scheduler|.*_evaluator')
# Settings that must be whole numbers, with their smallest value.
_LEAST = {
    'train_cfg.max_epochs': 1,
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.val_begin': 0,
    'optim_wrapper.accumulative_counts': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'env_cfg.mp_cfg.opencv_num_threads': 0,
    'log_processor.window_size': 1,
    'model.data_preprocessor.pad_size_divisor': 1,
    **{f'{split}_dataloader.batch_size': 1 for split in _SECTIONS},
    **{f'{split}_dataloader.num_workers': 0 for split in _SECTIONS},
}
_NOT_NEGATIVE = ('lr', 'weight_decay', 'momentum')  # arguments of the optimizer
# Their sharded checkpoints could not be saved or loaded.
_REFUSED = dict(runner_type='FlexibleRunner', model_wrapper_cfg='MMFullyShardedDataParallel')


def check_settings(cfg: Config) -> None:
    """Raise a ConfigError for a setting of a wrong range or type, or one that shards the model."""
    values = cfg.to_dict()
    for key, refused in _REFUSED.items():
        if type_name(values.get(key)).rpartition('.')[2] == refused:
            raise ConfigError(
                f'{key} ({refused}) is not supported: leave it out; several GPUs are used by '
                'DistributedDataParallel, see docs/train/distributed.md'
            )
    for key, value in nodes_in(values):
        _check_kind(key, value)
    interval = (value_at(values, 'default_hooks.checkpoint') or {}).get('interval', 1)
    if not _is_whole(interval) or interval == 0 or interval < -1:
        raise ConfigError(
            'default_hooks.checkpoint.interval must be a whole number of at least 1, or -1 for '
            f'never, got {interval!r}'
        )
    optimizer = value_at(values, 'optim_wrapper.optimizer')
    for name in _NOT_NEGATIVE if isinstance(optimizer, Mapping) else ():
        value = optimizer.get(name, 0)
        if not is_number(value, 0) or value == float('inf'):
            raise ConfigError(
                f'optim_wrapper.optimizer.{name} must be a number of at least 0, got {value!r}'
            )
    for key, part in find_datasets(cfg):
        if is_ours(part, DATASETS, 'CocoDataset', 'ImageFolder', 'VOCDataset'):
            check_dataset_arguments(part, f'{key}.')
    _check_milestones(values.get('param_scheduler'))
    model, scope = values.get('model') or {}, values.get('default_scope')
    if scope not in (None, root.scope, *root.children) and not is_installed(scope):
        raise ConfigError(f"default_scope='{scope}': there is no such package; leave it out")
    has_nms = 'nms' in (model.get('test_cfg') or {})
    if values.get('val_cfg') and type_name(model) == 'RetinaNet' and not has_nms:
        raise ConfigError("model.test_cfg needs nms, e.g. nms=dict(type='nms', iou_threshold=0.5)")
    for key, value in nodes_in(values):
        needed = 'type' if _TYPED.fullmatch(key) else 'dataset'
        is_part = needed == 'type' or key in _LOADERS
        if is_part and isinstance(value, dict) and needed not in value:
            what = ', the name of what to build' if needed == 'type' else ''
            raise ConfigError(f'{key} needs a `{needed}`{what}; it has {value}')


def _check_kind(key: str, value: Any) -> None:
    least = _LEAST.get(key)
    if least is not None and not (_is_whole(value) and value >= least):
        raise ConfigError(f'{key} must be a whole number of at least {least}, got {value!r}')
    for pattern, (types, expected) in _KINDS.items():
        if re.fullmatch(pattern, key) and not isinstance(value, types):
            raise ConfigError(f'{key} must be {expected}, got {shorten(value)}')


def check_sections(cfg: Config) -> None:
    """Raise a ConfigError unless all sections of a loop are set, or none of them."""
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

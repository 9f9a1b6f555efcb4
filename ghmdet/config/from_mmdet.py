"""Configs written for MMDetection: 3.x is converted, 2.x is refused with the new keys.

Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from ghmdet.config.package_lookup import is_installed
from ghmdet.config.parts import log_on_first
from ghmdet.config.sources import names_per_file
from ghmdet.messages import shorten, type_name
from ghmdet.registry import REPLACED_PARTS

_THEIRS, _OURS = 'mmdet', 'ghmdet'
_NAMING_KEYS = ('type', 'constructor', 'runner_type')  # their values are names in a registry


def convert_mmdet_config(cfg: Config) -> None:
    """Convert a config of MMDetection 3.x in place, where MMDetection is not installed.

    The scope `mmdet` becomes `ghmdet` in `default_scope`, in `_scope_` and before the names of
    parts, which is logged.

    Raises:
        ValueError: the config has keys of MMDetection 2.x; the message gives the new key for each.
    """
    name = cfg.filename or 'the config'
    if old := _describe_old_keys(cfg):
        raise ValueError(
            f'{name} has keys of MMDetection 2.x, which are not used. The new keys are:\n{old}\n'
            'See docs/from_mmdet.md for the whole table.'
        )
    if is_installed(_THEIRS):
        return
    # In our scope names have no prefix, which the code that compares names relies on.
    prefix = '' if cfg.get('default_scope') in (_THEIRS, _OURS) else f'{_OURS}.'
    if _rename(cfg._cfg_dict, prefix):  # a Config would import what it names lazily
        log_on_first(
            f'{name} is written for MMDetection, which is not installed: it runs under ghmdet '
            f'(scope {_THEIRS} -> {_OURS})'
        )


def _rename(node: Any, prefix: str) -> bool:
    """Rename everything inside a node, in place, and return whether a value was changed."""
    if isinstance(node, list | tuple):
        return sum(_rename(inner, prefix) for inner in node) > 0
    renamed = False
    # ConfigDict's own `items` imports what is named lazily.
    for key, value in list(dict.items(node)) if isinstance(node, dict) else ():
        if key in ('default_scope', '_scope_') and value == _THEIRS:
            node[key], renamed = _OURS, True
        elif key in _NAMING_KEYS and _is_theirs(value):
            node[key], renamed = prefix + str(value).rpartition('.')[2], True
        else:
            renamed |= _rename(value, prefix)
    return renamed


def _is_theirs(value: Any) -> bool:
    """Whether a part is named with MMDetection's scope, or imported lazily from it."""
    if isinstance(value, LazyObject | LazyAttr):
        return value.module.partition('.')[0] == _THEIRS
    return isinstance(value, str) and value.startswith(f'{_THEIRS}.')


REPLACED_KEYS = {
    'data.samples_per_gpu': 'train_dataloader.batch_size',
    'data.imgs_per_gpu': 'train_dataloader.batch_size',
    'data.workers_per_gpu': 'train_dataloader.num_workers',
    'data.train': 'train_dataloader.dataset',
    'data.val': 'val_dataloader.dataset',
    'data.test': 'test_dataloader.dataset',
    'data.train_dataloader': 'train_dataloader',
    'data.val_dataloader': 'val_dataloader',
    'data.test_dataloader': 'test_dataloader',
    'optimizer': 'optim_wrapper.optimizer',
    'optimizer_config.grad_clip': 'optim_wrapper.clip_grad',
    'optimizer_config': 'optim_wrapper',
    'fp16': "--amp, or optim_wrapper.type='AmpOptimWrapper'",
    'lr_config': 'param_scheduler',
    'momentum_config': "param_scheduler, e.g. type='CosineAnnealingMomentum'",
    'runner.max_epochs': 'train_cfg.max_epochs',
    'runner.max_iters': 'train_cfg.max_iters',
    'runner': 'train_cfg',
    'total_epochs': 'train_cfg.max_epochs',
    'evaluation.interval': 'train_cfg.val_interval',
    'evaluation.metric': 'val_evaluator.metric',
    'evaluation.classwise': 'val_evaluator.classwise',
    'evaluation.save_best': 'default_hooks.checkpoint.save_best',
    'evaluation': 'val_evaluator',
    'checkpoint_config.interval': 'default_hooks.checkpoint.interval',
    'checkpoint_config.max_keep_ckpts': 'default_hooks.checkpoint.max_keep_ckpts',
    'checkpoint_config': 'default_hooks.checkpoint',
    'log_config.interval': 'default_hooks.logger.interval',
    'log_config.hooks': 'default_hooks.logger and visualizer.vis_backends',
    'log_config': 'default_hooks.logger',
    'dist_params.backend': 'env_cfg.dist_cfg.backend',
    'dist_params': 'env_cfg.dist_cfg',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark',
    'opencv_num_threads': 'env_cfg.mp_cfg.opencv_num_threads',
    'mp_start_method': 'env_cfg.mp_cfg.mp_start_method',
    'workflow': 'no new key: val_cfg and val_dataloader configure validation',
    'resume_from': '--resume CHECKPOINT, or load_from with resume=True',
    'auto_resume': '--resume, or resume=True',
    'model.pretrained': 'model.backbone.init_cfg',
    'train_cfg.assigner': 'model.train_cfg.assigner',
    'test_cfg.score_thr': 'model.test_cfg.score_thr',
    'img_norm_cfg': 'model.data_preprocessor',
}
"""Key of a 2.x config -> new key. A key without a dot stands for all other keys below it."""

REPLACED_ARGUMENTS = {
    'img_prefix': 'data_prefix=dict(img=...)',
    'classes': 'metainfo=dict(classes=...)',
    'img_scale': 'scale',
    'flip_ratio': 'prob',
}
"""Argument of a dataset or transform in 2.x -> new argument."""

# Keys that a config for ghmdet may use for its own variables. Its dump then has them beside the key
# that they were used for, the first part of the new key.
_VARIABLES = ('data.train', 'data.val', 'data.test', 'optimizer', 'total_epochs', 'img_norm_cfg')
HARMLESS_KEYS = frozenset(('cudnn_benchmark', 'opencv_num_threads', 'mp_start_method'))
"""Not used in MMDetection 3.x either, which has them at the top of some configs."""

_DATASET_ARGUMENTS = {'type', 'ann_file', 'img_prefix', 'pipeline', 'classes', 'dataset'}
_SECTIONS = {key.partition('.')[0] for key in REPLACED_KEYS if '.' in key}


def _describe_old_keys(cfg: Config) -> str:
    """The new key for each 2.x key of a config, one per line; '' if it has none."""
    values = cfg.to_dict()
    files = names_per_file(cfg.text)
    read = HARMLESS_KEYS.union(*(names.read for names in files))
    inherits = any({'_base_', 'read_base'} & (names.assigned | names.read) for names in files)
    certain, lines = False, []
    for key, value, new in _old_keys(values):
        lines.append(f'{key}={shorten(value)} -> {_rewrite(key, value, new)}')
        is_variable = not inherits and key in _VARIABLES and new.partition('.')[0] in values
        certain |= key.partition('.')[0] not in read and not is_variable
    if not certain:
        return ''
    lines += dict.fromkeys(_old_arguments_and_types(list(values.values())))
    return '\n'.join(f'  {line}' for line in lines)


def _old_keys(values: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield each old key with its value and its new name, in the order of the table."""
    for name in dict.fromkeys(key.partition('.')[0] for key in REPLACED_KEYS):
        if name not in values:
            continue
        value, rest = values[name], REPLACED_KEYS.get(name)
        inner = value if name in _SECTIONS and isinstance(value, Mapping) else {}
        keys = {f'{name}.{key}': inner[key] for key in inner if key not in ('type', '_delete_')}
        found = [key for key in keys if _is_old(key, keys[key], values)]
        renamed = [(key, keys[key], new) for key in found if (new := REPLACED_KEYS.get(key, rest))]
        if not renamed and rest and _is_old(name, value, values):
            renamed = [(name, value, rest)]
        yield from renamed


def _is_old(key: str, value: Any, values: dict[str, Any]) -> bool:
    """Whether the value is of the kind that 2.x has there."""
    if key in ('data.train', 'data.val', 'data.test'):
        parts = value if isinstance(value, list | tuple) else [value]
        return any(isinstance(part, Mapping) and _DATASET_ARGUMENTS & set(part) for part in parts)
    if key == 'model.pretrained':  # other detectors may have such an argument
        return type_name(values['model']).rpartition('.')[2] == 'RetinaNet'
    if key == 'workflow':
        return isinstance(value, list) and all(isinstance(step, list | tuple) for step in value)
    if key in ('resume_from', 'auto_resume'):
        return bool(value)
    if key == 'total_epochs' or key in HARMLESS_KEYS:
        return isinstance(value, int | str)
    return '.' in key or isinstance(value, Mapping)


def _old_arguments_and_types(value: Any) -> Iterator[str]:
    """Yield the new name for each 2.x argument and part, at any depth."""
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _old_arguments_and_types(inner)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in REPLACED_ARGUMENTS:
                yield f'{key}={shorten(inner)} -> {REPLACED_ARGUMENTS[key]}'
            elif key == 'type' and isinstance(inner, str) and inner in REPLACED_PARTS:
                yield f'type={inner!r} -> {REPLACED_PARTS[inner]}'
            elif key != 'metainfo':
                yield from _old_arguments_and_types(inner)


def _rewrite(key: str, value: Any, new: str) -> str:
    """The new setting, with its value where that stays the same or is simple to convert."""
    if key == 'lr_config':
        return f'param_scheduler={_convert_lr_config(value)}'
    if key == 'img_norm_cfg':
        value = {'bgr_to_rgb' if name == 'to_rgb' else name: each for name, each in value.items()}
    elif key == 'model.pretrained' and value is not None:
        value = dict(type='Pretrained', checkpoint=value)
    has_own_meaning = new.endswith(('dataset', 'dataloader'))
    same = key in REPLACED_KEYS and key not in _SECTIONS and not has_own_meaning
    code = shorten(value)
    return f'{new}={code}' if same and re.fullmatch(r'[\w.]+', new) and '...' not in code else new


def _convert_lr_config(value: Mapping[str, Any]) -> str:
    if value.get('policy', 'step') != 'step' or not isinstance(value.get('step'), list):
        return '[dict(type=...)]'
    steps = dict(type='MultiStepLR', milestones=value['step'], gamma=value.get('gamma', 0.1))
    if value.get('warmup') == 'linear':
        factor, end = value.get('warmup_ratio', 0.1), value.get('warmup_iters', 0)
        warmup = dict(type='LinearLR', start_factor=factor, by_epoch=False, begin=0, end=end)
        return repr([warmup, steps])
    return repr([steps])

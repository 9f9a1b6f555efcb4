"""Configs that were written for MMDetection: those of 3.x run here, those of 2.x are told so.

Needs no torch.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import print_log

from ghmdet.registry import REPLACED_PARTS

_THEIRS, _OURS = 'mmdet', 'ghmdet'
_NAMING_KEYS = ('type', 'constructor', 'runner_type')  # their values are names in a registry


def convert_mmdet_config(cfg: Config) -> None:
    """Make a config of MMDetection run under ghmdet, in place, where MMDetection is not installed.

    The scope `mmdet` becomes `ghmdet`, in `default_scope`, in `_scope_` and before the names of
    parts, and one line of the log says so. Where MMDetection is installed, and for a config that
    does not mention it, nothing is changed. Calling it again does nothing.

    Raises:
        ValueError: the config is in the style of MMDetection 2.x, or has such keys, which nothing
            reads; the message gives today's key for each.

    Example:
        >>> cfg = Config(dict(default_scope='ghmdet', evaluation=dict(interval=2)))
        >>> convert_mmdet_config(cfg)
        Traceback (most recent call last):
        ...
        ValueError: the config has keys of MMDetection 2.x, which nothing reads. Today's are:
          evaluation.interval=2 -> train_cfg.val_interval=2
        See docs/from_mmdet.md for the whole table.
    """
    name = cfg.filename or 'the config'
    old = describe_old_keys(cfg)
    if old is not None:
        raise ValueError(
            f"{name} has keys of MMDetection 2.x, which nothing reads. Today's are:\n{old}\n"
            'See docs/from_mmdet.md for the whole table.'
        )
    if is_installed(_THEIRS):
        return
    # Under our scope a bare name is ours, which the code that compares names expects.
    prefix = '' if cfg.get('default_scope') in (_THEIRS, _OURS) else f'{_OURS}.'
    renamed = _rename(cfg._cfg_dict, prefix)  # as a Config it would import what it names lazily
    if renamed and os.environ.get('RANK', '0') == '0':  # of torchrun's processes one speaks
        print_log(
            f'{name} is written for MMDetection, which is not installed: it runs under ghmdet '
            f'(scope {_THEIRS} -> {_OURS})',
            logger='current',
        )


def is_installed(package: str) -> bool:
    """Whether it can be imported; a folder of that name without `__init__.py` is no package."""
    if package in sys.modules:
        return True
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def _rename(node: Any, prefix: str) -> int:
    """Rename all below a node and return how often."""
    if isinstance(node, list | tuple):
        return sum(_rename(inner, prefix) for inner in node)
    if not isinstance(node, dict):
        return 0
    renamed = 0
    for key, value in list(dict.items(node)):  # ConfigDict's own imports what is named lazily
        new = _new_value(key, value, prefix)
        if new is None:
            renamed += _rename(value, prefix)
        else:
            node[key] = new
            renamed += 1
    return renamed


def _new_value(key: str, value: Any, prefix: str) -> str | None:
    """What the value becomes, or None if it stays."""
    if key in ('default_scope', '_scope_'):
        return _OURS if value == _THEIRS else None
    if key not in _NAMING_KEYS:
        return None
    if isinstance(value, LazyObject | LazyAttr):
        theirs = value.module.partition('.')[0] == _THEIRS
    else:
        theirs = isinstance(value, str) and value.startswith(f'{_THEIRS}.')
    return prefix + str(value).rpartition('.')[2] if theirs else None


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
    'workflow': 'nothing: val_cfg and val_dataloader say how to validate',
    'resume_from': '--resume CHECKPOINT, or load_from with resume=True',
    'auto_resume': '--resume, or resume=True',
    'model.pretrained': 'model.backbone.init_cfg',
    'train_cfg.assigner': 'model.train_cfg.assigner',
    'test_cfg.score_thr': 'model.test_cfg.score_thr',
    'img_norm_cfg': 'model.data_preprocessor',
}
"""Key of a 2.x config -> key of a config of today. Without a dot: all else that stands below it."""


REPLACED_ARGUMENTS = {
    'img_prefix': 'data_prefix=dict(img=...)',
    'classes': 'metainfo=dict(classes=...)',
    'img_scale': 'scale',
    'flip_ratio': 'prob',
}
"""Argument of a data set or transform in 2.x -> argument of today."""


# A config of today may use these for its own variables; its dump then holds them beside what they
# became: the key whose presence shows that.
_VARIABLES = {
    'data.train': 'train_dataloader',
    'data.val': 'val_dataloader',
    'data.test': 'test_dataloader',
    'optimizer': 'optim_wrapper',
    'total_epochs': 'train_cfg',
    'img_norm_cfg': 'model',
}

# MMDetection 3.x itself has these at the top of some configs, to no effect.
_HARMLESS = ('cudnn_benchmark', 'opencv_num_threads', 'mp_start_method')
_DATASET_ARGUMENTS = {'type', 'ann_file', 'img_prefix', 'pipeline', 'classes', 'dataset'}
_LONGEST_VALUE = 100


def describe_old_keys(cfg: Config) -> str | None:
    """Return what each 2.x key of a config is today, a line each, or None for a config of today."""
    values = cfg.to_dict()
    read, inherits = _names_used(cfg.text)
    read.update(_HARMLESS)
    certain, lines = False, []
    for key, value, new in _old_keys(values):
        lines.append(f'{key}={_code(value)} -> {_rewrite(key, value, new)}')
        may_be_variable = not inherits and _VARIABLES.get(key) in values
        certain |= key.partition('.')[0] not in read and not may_be_variable
    if not certain:
        return None
    lines += dict.fromkeys(_old_arguments_and_types(list(values.values())))
    return '\n'.join(f'  {line}' for line in lines)


def _old_keys(values: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Each old key with its value and its new name, in the order of the table."""
    for name in dict.fromkeys(key.partition('.')[0] for key in REPLACED_KEYS):
        value, rest = values.get(name), REPLACED_KEYS.get(name)
        has_parts = any(key.startswith(f'{name}.') for key in REPLACED_KEYS)
        parts = value if has_parts and isinstance(value, Mapping) else {}
        told = False
        for inner in [inner for inner in parts if inner not in ('type', '_delete_')]:
            key = f'{name}.{inner}'
            new = REPLACED_KEYS.get(key, rest)
            if new is not None and _is_old(key, parts[inner], values):
                told = True
                yield key, parts[inner], new
        if name in values and rest is not None and not told and _is_old(name, value, values):
            yield name, value, rest


def _is_old(key: str, value: Any, values: dict[str, Any]) -> bool:
    """Whether the value is of the kind that 2.x has there."""
    if key in ('data.train', 'data.val', 'data.test'):
        parts = value if isinstance(value, list | tuple) else [value]
        return any(isinstance(part, Mapping) and _DATASET_ARGUMENTS & set(part) for part in parts)
    if key == 'model.pretrained':  # detectors of others may have such an argument
        return str(values['model'].get('type')).rpartition('.')[2] == 'RetinaNet'
    if key == 'workflow':
        return isinstance(value, list) and all(isinstance(step, list | tuple) for step in value)
    if key in ('resume_from', 'auto_resume'):
        return bool(value)
    if key in ('total_epochs', 'cudnn_benchmark', 'opencv_num_threads', 'mp_start_method'):
        return isinstance(value, int | str)
    return '.' in key or isinstance(value, Mapping)


def _names_used(text: str) -> tuple[set[str], bool]:
    """The variables that the files of a config read, and whether one of them has a base."""
    names, inherits = set(re.findall(r'_base_\.(\w+)', text)), False
    for source in sources_of(text):
        try:
            tree = ast.parse(source)
        except SyntaxError:  # not Python, e.g. a base in YAML
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                names.add(node.id)
            inherits |= isinstance(node, ast.Name) and node.id in ('_base_', 'read_base')
    return names, inherits


def sources_of(text: str) -> list[str]:
    """The files of a config's text, in which mmengine puts the path above each."""
    files: list[list[str]] = [[]]
    for line in text.splitlines():
        if os.path.isabs(line) and line.endswith(('.py', '.json', '.yml', '.yaml')):
            files.append([])
        else:
            files[-1].append(line)
    return ['\n'.join(lines) for lines in files]


def _old_arguments_and_types(value: Any) -> Iterator[str]:
    """What 2.x arguments and parts, found at any depth, are today."""
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _old_arguments_and_types(inner)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in REPLACED_ARGUMENTS:
                yield f'{key}={_code(inner)} -> {REPLACED_ARGUMENTS[key]}'
            elif key == 'type' and isinstance(inner, str) and inner in REPLACED_PARTS:
                yield f'type={inner!r} -> {REPLACED_PARTS[inner]}'
            elif key != 'metainfo':
                yield from _old_arguments_and_types(inner)


def _rewrite(key: str, value: Any, new: str) -> str:
    """The setting of today, with its value where that stays the same or is simple to tell."""
    if key in _REWRITES:
        return _REWRITES[key](value)
    code = _code(value)
    section = any(other.startswith(f'{key}.') for other in REPLACED_KEYS)
    same = key in REPLACED_KEYS and not section and not new.endswith(('dataset', 'dataloader'))
    return f'{new}={code}' if same and re.fullmatch(r'[\w.]+', new) and '...' not in code else new


def _code(value: Any) -> str:
    """A value as it stands in a config; the middle of a long one is left out."""
    if isinstance(value, Mapping):
        code = f'dict({", ".join(f"{key}={_code(inner)}" for key, inner in value.items())})'
    elif isinstance(value, list):
        code = f'[{", ".join(map(_code, value))}]'
    else:
        code = repr(value)
    if len(code) <= _LONGEST_VALUE:
        return code
    return {'d': 'dict(...)', '[': '[...]'}.get(code[0], f'{code[:_LONGEST_VALUE]}...')


def _rewrite_lr_config(value: Mapping[str, Any]) -> str:
    if value.get('policy', 'step') != 'step' or not isinstance(value.get('step'), list):
        return 'param_scheduler=[dict(type=...)]'
    steps = f"dict(type='MultiStepLR', milestones={value['step']}, gamma={value.get('gamma', 0.1)})"
    if value.get('warmup') != 'linear':
        return f'param_scheduler=[{steps}]'
    warmup = (
        f"dict(type='LinearLR', start_factor={value.get('warmup_ratio', 0.1)}, by_epoch=False, "
        f'begin=0, end={value.get("warmup_iters", 0)})'
    )
    return f'param_scheduler=[{warmup}, {steps}]'


def _rewrite_norm(value: Mapping[str, Any]) -> str:
    today = {'bgr_to_rgb' if key == 'to_rgb' else key: inner for key, inner in value.items()}
    return f'model.data_preprocessor={_code(today)}'


def _rewrite_pretrained(value: Any) -> str:
    init_cfg = None if value is None else dict(type='Pretrained', checkpoint=value)
    return f'model.backbone.init_cfg={_code(init_cfg)}'


_REWRITES: dict[str, Callable[[Any], str]] = {
    'lr_config': _rewrite_lr_config,
    'img_norm_cfg': _rewrite_norm,
    'model.pretrained': _rewrite_pretrained,
}

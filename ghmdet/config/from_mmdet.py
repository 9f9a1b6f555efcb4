"""Configs that were written for MMDetection: those of 3.x run here, those of 2.x are told so.

Needs no torch.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import print_log

from ghmdet.config.old_configs import describe_old_keys

_THEIRS, _OURS = 'mmdet', 'ghmdet'
_NAMING_KEYS = ('type', 'constructor', 'runner_type')  # their values are names in a registry


def adopt(cfg: Config) -> None:
    """Make a config of MMDetection run under ghmdet, in place, where MMDetection is not installed.

    The scope `mmdet` becomes `ghmdet`, in `default_scope`, in `_scope_` and before the names of
    parts, and one line of the log says so. Where MMDetection is installed, and for a config that
    does not mention it, nothing is changed. Calling it again does nothing.

    Raises:
        ValueError: the config is in the style of MMDetection 2.x, or has such keys, which nothing
            reads; the message gives today's key for each.

    Example:
        >>> cfg = Config(dict(default_scope='ghmdet', evaluation=dict(interval=2)))
        >>> adopt(cfg)
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

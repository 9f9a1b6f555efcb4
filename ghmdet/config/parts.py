"""Parts of a config, the dicts with a `type`: what they are built from and can be given."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache, partial
from pathlib import PurePath
from types import EllipsisType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import print_log

from ghmdet import registry
from ghmdet.messages import shorten
from ghmdet.registry import Registry

_MODULES = re.compile(r'\w+(\.\w+)*\.')


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


TOP_LEVEL_KEYS = words(
    # Those of mmengine's Runner (a test compares), then those that it reads from the whole config.
    'model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg '
    'auto_scale_lr optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks '
    'custom_hooks data_preprocessor load_from resume launcher env_cfg log_processor log_level '
    'visualizer default_scope randomness experiment_name '
    'model_wrapper_cfg find_unused_parameters sync_bn compile activation_checkpointing '
    'efficient_conv_bn_eval runner_type strategy custom_imports env_variables '
    # Of ghmdet's and MMDetection's tools.
    'tta_model tta_pipeline'
)
"""Keys at the top of a config that are used."""

LOADER_KEYS = words(
    'dataset sampler batch_sampler batch_size num_workers collate_fn pin_memory drop_last timeout '
    'worker_init_fn multiprocessing_context prefetch_factor persistent_workers num_batch_per_epoch '
    'disable_subprocess_warning pin_memory_device in_order'
)
"""Keys of a data loader."""


def value_at(values: Any, key: str) -> Any:
    """Return the value of a dotted key, all values for '', None where there is none."""
    for name in key.split('.') if key else ():
        if isinstance(values, list | tuple):
            values = values[int(name)] if name.isdigit() and int(name) < len(values) else None
        else:
            values = values.get(name) if isinstance(values, Mapping | Config) else None
    return values


def nodes_in(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield a value, unless its key is '', and all inside of it by dotted key, outer ones first."""
    if key:
        yield key, node
    items: Any = enumerate(node) if isinstance(node, list | tuple) else ()
    for name, inner in node.items() if isinstance(node, dict) else items:
        yield from nodes_in(inner, f'{key}.{name}' if key else str(name))


def parameters_of(part: Any) -> set[str]:
    """Return the arguments that a function, or the constructor of a class, has itself."""
    try:
        parameters = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):  # of C
        return set()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {each.name for each in parameters if each.kind in kinds} - {'self'}


def arguments_of(part: Any) -> set[str]:
    """Return the arguments of a function, or of a class and its bases.

    A name stands for all that is registered by it.
    """
    if isinstance(part, str):
        registries = [each for each in vars(registry).values() if isinstance(each, Registry)]
        return set().union(*(arguments_of(each.get(part)) for each in registries if part in each))
    classes = inspect.getmro(part) if inspect.isclass(part) else (part,)
    return set().union(*map(parameters_of, classes))


def find_mismatches(part: Any, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the arguments that are not as annotated, with the annotation."""
    for each in inspect.getmro(part) if inspect.isclass(part) else (part,):
        with suppress(NameError, TypeError, AttributeError):  # an annotation that has no value
            hints = get_type_hints(each.__init__ if inspect.isclass(each) else each)
            for name in given.keys() & hints:
                if not _fits(given[name], hints[name]):
                    yield name, _MODULES.sub('', inspect.formatannotation(hints[name]))


def _fits(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if kind in (Sequence, list) and inner:
        kinds = list if kind is list else (list, tuple)
        return isinstance(value, kinds) and all(_fits(each, inner[0]) for each in value)
    kind = (kind, int) if kind is float else kind
    return not isinstance(kind, type | tuple) or isinstance(value, kind)


def make_plain(node: Any, key: str = '') -> Any:
    """Convert a value of a config to what can be written to a file and read back.

    Paths, enums, arrays, numpy numbers, dtypes and devices become text, numbers and lists. `~` at
    the beginning of a text becomes the home folder. CLASSES and PALETTE in a `metainfo`, of
    MMDetection 3.0rc, are renamed.

    Dicts in it are changed in place. From a whole config (`key` is '') variables are removed that
    cannot be written, as mmengine does with functions and modules; else they are a TypeError.
    """
    if isinstance(node, dict):
        for name, value in list(dict.items(node)):  # ConfigDict's own imports what is named lazily
            try:
                plain = make_plain(value, f'{key}.{name}' if key else str(name))
                is_variable = not key and not str(name).isidentifier()
            except TypeError:
                if key or name in TOP_LEVEL_KEYS:
                    raise
                is_variable = True
            if is_variable:
                del node[name]
            elif name in ('CLASSES', 'PALETTE') and key.endswith('metainfo'):
                del node[name]
                node.setdefault(name.lower(), plain)
                _warn(f'metainfo.{name} is taken as metainfo.{name.lower()}, its name since 3.0')
            elif plain is not value:
                node[name] = plain
        return node
    for kind in (list, tuple, set, frozenset):
        if isinstance(node, kind):
            items = [make_plain(item, f'{key}.{number}') for number, item in enumerate(node)]
            unchanged = type(node) is kind and all(map(lambda a, b: a is b, items, node))
            return node if unchanged else kind(items)
    if isinstance(node, Enum):
        return make_plain(node.value, key)
    if isinstance(node, str | PurePath):
        text = str(node)
        return os.path.expanduser(text) if text[:2] in ('~', '~/', f'~{os.sep}') else text
    plain = (bool, int, float, complex, bytes, range, NoneType, EllipsisType)
    if type(node) in plain or isinstance(node, LazyObject | LazyAttr):
        return node
    if key.endswith(('type', 'constructor')) and _is_importable(node):
        return node
    if type(node).__name__.lower().endswith(('dtype', 'device')):  # of torch, numpy
        return str(node).removeprefix('torch.')
    if hasattr(node, 'tolist'):  # arrays, numpy numbers, tensors
        return make_plain(node.tolist(), key)
    raise TypeError(
        f'{key}: expected a text, number, list, dict or None, which can be written to the work dir '
        f'and read back, got the {type(node).__name__} {shorten(node)}; a part is given by name: '
        "dict(type='...')"
    )


def log_on_first(text: str, level: int = logging.INFO) -> None:
    """Log a text in the process of rank 0, since all processes read the config."""
    if os.environ.get('RANK', '0') == '0':
        print_log(text, logger='current', level=level)


_warn = cache(partial(log_on_first, level=logging.WARNING))


def _is_importable(part: Any) -> bool:
    """Whether a class or function is found by its module and name, or only a program has it."""
    if isinstance(part, type) and '<locals>' in part.__qualname__:
        return True
    found = sys.modules.get(getattr(part, '__module__', ''))
    for name in getattr(part, '__qualname__', '').split('.'):
        found = getattr(found, name, None)
    return callable(part) and found is part

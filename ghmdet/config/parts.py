"""Parts of a config, the dicts with a `type`: what they are built from and can be given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ghmdet import registry
from ghmdet.registry import Registry


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


LOADER_KEYS = words(
    'dataset sampler batch_sampler batch_size num_workers collate_fn pin_memory drop_last timeout '
    'worker_init_fn multiprocessing_context prefetch_factor persistent_workers num_batch_per_epoch '
    'disable_subprocess_warning pin_memory_device in_order'
)
"""Keys of a data loader."""


def value_at(values: Any, key: str) -> Any:
    """Return the value of a dotted key, all values for '', None where there is none.

    Example:
        >>> value_at(dict(steps=[dict(type='Resize')]), 'steps.0.type')
        'Resize'
    """
    for name in key.split('.') if key else ():
        if isinstance(values, list | tuple):
            values = values[int(name)] if name.isdigit() and int(name) < len(values) else None
        else:
            values = values.get(name) if isinstance(values, Mapping | Config) else None
    return values


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

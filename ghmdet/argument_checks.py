"""Checks of arguments and settings. True and False are no numbers. Needs `messages` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import PurePath
from types import NoneType
from typing import Any

from ghmdet.messages import shorten

# Types of the arguments of a `CocoDataset`, and what a message says of them.
_OF_A_DATASET: dict[str, tuple[tuple[type, ...], str]] = {
    'ann_file': ((str, PurePath), 'the path of one file; a ConcatDataset has one dataset per file'),
    'data_root': ((str, PurePath, NoneType), 'a path, or None'),
    'data_prefix': ((Mapping,), "a dict, e.g. dict(img='train/')"),
    'metainfo': ((Mapping, NoneType), "a dict, e.g. dict(classes=('cat', 'dog'))"),
    'filter_cfg': ((Mapping, NoneType), 'a dict of filter_empty_gt and min_size, or None'),
    'backend_args': ((Mapping, NoneType), 'a dict, or None'),
    'pipeline': ((list, tuple), 'a list of transforms'),
    'indices': ((int, Sequence, NoneType), 'a number of images or a list of their indices'),
}


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether it is a number in [low, high]; nan is not."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and low <= value <= high


def check_number(name: str, value: Any, expected: str, is_valid: Callable[[Any], bool]) -> None:
    """Raise a ValueError unless `value` is a number and `is_valid`."""
    if not is_number(value) or not is_valid(value):
        raise ValueError(f'{name} must be {expected}, got {value!r}')


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raise a ValueError unless `value` is a number in [low, high]."""
    check_number(name, value, f'a number in [{low}, {high}]', lambda v: low <= v <= high)


def check_numbers(
    name: str,
    values: Any,
    expected: str,
    are_valid: Callable[..., bool] = lambda *_: True,
    count: int = 2,
) -> None:
    """Raise a ValueError unless `values` are `count` finite numbers and `are_valid(*values)`."""
    are_numbers = isinstance(values, Sequence) and len(values) == count
    are_numbers = are_numbers and all(is_number(v) and math.isfinite(v) for v in values)
    if not are_numbers or not are_valid(*values):
        raise ValueError(f'{name} must be {expected}, got {shorten(values)}')


def check_integer(name: str, value: Any, low: int, high: float = math.inf) -> None:
    """Raise a ValueError unless `value` is an integer from `low` to `high`."""
    numbers = f'in {low} to {high}' if high < math.inf else f'of at least {low}'
    is_valid = isinstance(value, Integral) and low <= int(value) <= high
    check_number(name, value, f'an integer {numbers}', lambda _: is_valid)


def check_factor(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` can weigh a loss: finite and not negative."""
    check_number(name, value, 'a number, finite and not negative', lambda v: 0 <= v < math.inf)


def check_positive(name: str, value: Any, hint: str = '') -> None:
    """Raise a ValueError unless `value` is finite and positive."""
    check_number(name, value, f'a number, finite and positive{hint}', lambda v: 0 < v < math.inf)


def check_flag(name: str, value: Any, allowed: tuple[bool, ...] = (True, False)) -> None:
    """Raise a ValueError unless `value` is one of the `allowed` truth values."""
    if not isinstance(value, bool) or value not in allowed:
        raise ValueError(f'{name} must be {" or ".join(map(str, allowed))}, got {value!r}')


def check_dataset_arguments(arguments: Mapping[str, Any], key: str = '') -> None:
    """Raise a ValueError unless these arguments of a `CocoDataset` have types that they can have.

    `key` is the dotted key of the dataset in the config, with a dot at the end.
    """
    for name in arguments.keys() & _OF_A_DATASET:
        value, (types, expected) = arguments[name], _OF_A_DATASET[name]
        if not isinstance(value, types) or (isinstance(value, str) and str not in types):
            raise ValueError(f'{key}{name} must be {expected}, got {shorten(value)}')
    for name, folder in arguments.get('data_prefix', {}).items():
        if not isinstance(folder, str | PurePath):
            raise ValueError(f'{key}data_prefix.{name} must be a folder, got {folder!r}')

"""Checks of the arguments of the losses."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any


def check_number(name: str, value: Any, expected: str, is_valid: Callable[[Any], bool]) -> None:
    """Raise a ValueError unless `value` is a number, True and False excepted, that is valid.

    Example:
        >>> check_number('GHMC.momentum', 1, 'a number in [0, 1)', lambda m: 0 <= m < 1)
        Traceback (most recent call last):
        ...
        ValueError: GHMC.momentum: expected a number in [0, 1), got 1
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not is_valid(value):
        raise ValueError(f'{name}: expected {expected}, got {value!r}')


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Raise a ValueError unless `value` is an integer from `low` to `high`."""
    expected = f'an integer in {low} to {high}'
    check_number(name, value, expected, lambda v: isinstance(v, Integral) and low <= int(v) <= high)


def check_factor(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` can weigh a loss: finite and not negative."""
    check_number(name, value, 'a number, finite and not negative', lambda v: 0 <= v < float('inf'))


def check_positive(name: str, value: Any, hint: str = '') -> None:
    """Raise a ValueError unless `value` is finite and positive."""
    expected = f'a number, finite and positive{hint}'
    check_number(name, value, expected, lambda v: 0 < v < float('inf'))


def check_flag(name: str, value: Any, allowed: tuple[bool, ...] = (True, False)) -> None:
    """Raise a ValueError unless `value` is one of the `allowed` truth values."""
    if not isinstance(value, bool) or value not in allowed:
        raise ValueError(f'{name}: expected {" or ".join(map(str, allowed))}, got {value!r}')

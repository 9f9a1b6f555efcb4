"""What error messages and reports have in common. Needs neither torch nor anything of ghmdet."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def list_items(
    items: Iterable[Any], limit: int = 5, separator: str = ', ', total: int | None = None
) -> str:
    """Return the first `limit` items, and how many more there are of `total` (all items)."""
    texts = [str(item) for item in items]
    rest = (len(texts) if total is None else total) - limit
    listed = separator.join(texts[:limit])
    return f'{listed}{separator.strip().strip(",")} and {rest:,} more' if rest > 0 else listed


def shorten(value: Any, limit: int = 120) -> str:
    """Return the `repr` of a value, cut off after `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f'{text[:limit]}...'


def nearest(name: str, names: Iterable[str], count: int = 2, cutoff: float = 0.75) -> list[str]:
    """Return the names, at most `count`, for which `name` may be a typing error; the best first.

    Upper and lower case are alike.
    """
    others = {other.lower(): other for other in names if other != name}
    found = difflib.get_close_matches(name.lower(), others, n=count, cutoff=cutoff)
    return [others[near] for near in found]


def did_you_mean(near: Iterable[str], prefix: str = '') -> str:
    """Return the question that ends a message, '' where nothing is near."""
    listed = ' or '.join(f'{prefix}{name}' for name in near)
    return f'; did you mean {listed}?' if listed else ''


def type_name(part: Any, default: str = '') -> str:
    """Return the name of the class that a config of a part names, with its scope if it has one.

    `part` is a dict with `type`, else `default` is the answer, or what stands there: a name or the
    class.
    """
    kind = part.get('type', default) if isinstance(part, Mapping) else part
    return str(getattr(kind, '__name__', kind))

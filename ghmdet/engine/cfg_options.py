"""What `--cfg-options` changes in a config."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override values of a config, as `Config.merge_from_dict`, but inside of any list or tuple.

    mmengine reaches the dicts in a list by their number, and fails at a number in a list.

    Args:
        cfg: changed in place.
        options: values by dotted key: `model.neck.in_channels.0`, `train_pipeline.2.scale`.

    Raises:
        KeyError: a list has no such item.
        TypeError: a key leads into a value that is neither dict nor list.

    Example:
        >>> cfg = Config(dict(scales=[(1333, 800), (1000, 600)]))
        >>> merge_options(cfg, {'scales.1.0': 1200})
        >>> cfg.scales
        [(1333, 800), (1200, 600)]
    """
    changes: dict[str, Any] = {}
    for key, value in options.items():
        names = key.split('.')
        node, depth = cfg, 0
        while depth < len(names) and isinstance(node, Config | dict):
            node, depth = node.get(names[depth]), depth + 1
        place = '.'.join(names[:depth])
        if depth < len(names) and isinstance(node, list | tuple):
            changes[place] = _replace(changes.get(place, node), names[depth:], value, key)
        else:
            changes[key] = value
    cfg.merge_from_dict(changes)


def _replace(node: Any, names: Sequence[str], value: Any, key: str) -> Any:
    """Return a copy of `node` with another value at the end of the path `names`."""
    if not names:
        return value
    name, rest = names[0], names[1:]
    if isinstance(node, list | tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise KeyError(f'{key}: a list of {len(node)} items, numbered from 0, has no {name!r}')
        items = list(node)
        items[int(name)] = _replace(items[int(name)], rest, value, key)
        return type(node)(items)
    if isinstance(node, dict):
        changed = copy.copy(node)
        changed[name] = _replace(node.get(name, {}), rest, value, key)
        return changed
    raise TypeError(f'{key}: {name!r} is to be set in {node!r}, which is neither dict nor list')

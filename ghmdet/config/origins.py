"""Which file set each key of a config.

While mmengine reads, a tree with the file of each value goes through the same merges as the values.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ghmdet.config.cfg_options import clear_nones, merge_options
from ghmdet.config.parts import make_plain
from ghmdet.config.shipped import CONFIG_ROOT
from ghmdet.config.sources import names_in, read_config_text

_DELETE = '_delete_'
_SELF = ''  # the key under which a dict of origins keeps the dict's own
_KEPT = '_ghmdet_origins'  # attribute of a Config; copies have it, dumps and pickles do not


@dataclass
class _File:
    """A config file while it is read, with what its bases have set so far."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Any] = field(default_factory=dict)
    setters: dict[str, str] = field(default_factory=dict)
    merging: bool = False
    merged: dict[str, Any] | None = None  # origins after the merge of this file into its bases


class ConfigOrigins:
    """Values and origins of the config that was read last.

    A tree of origins has the shape of the values, with the name of a file in place of each value
    that is not a dict, list or tuple, or is empty.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._origins: dict[str, Any] = {}
        self._files: list[_File] = []

    def merge(self, options: dict[str, Any], origin: str) -> None:
        """Record `merge_options(cfg, options)`."""
        values, origins = Config(self._values), Config(self._origins)
        options = clear_nones(values, options)
        merge_options(values, options)
        merge_options(origins, {key: _mark(value, origin) for key, value in options.items()})
        self._values, self._origins = values.to_dict(), origins.to_dict()

    def list_leaves(self, cfg: Config, otherwise: str) -> Iterator[tuple[str, Any, str]]:
        """Yield dotted key, value and origin of each value that is not a dict, sorted by key.

        A list or tuple is one value, unless it holds dicts or its items differ in origin; then its
        items have numbers for keys, as on the command line. What was changed since the config was
        read has the origin `otherwise`.
        """
        values = cfg.to_dict()
        origins = _follow(values, self._values, self._origins, otherwise)
        yield from _list_leaves('', values, origins, otherwise)

    def _read(self, read: Callable, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Read one file by one of mmengine's two readers, its bases included."""
        file = _File(file_name(filename))
        self._files.append(file)
        try:
            result = read(filename, *args, **kwargs)
        except KeyError as error:
            if 'Duplicate key' not in str(error):
                raise
            setters = sorted(file.setters.items())
            shared = ', '.join(f'{key!r} ({names})' for key, names in setters if ' and ' in names)
            raise KeyError(
                f'two of the bases of {file.path} set the same keys: {shared}; a key may come from '
                'one of the files in `_base_` only. Drop one of them, or let one inherit the other'
            ) from error
        finally:
            self._files.pop()
        values = ConfigDict(result[0]).to_dict()
        origins = file.merged
        if origins is None:  # a lazy config, which is run on top of its bases' values
            origins = _follow(values, file.values, file.origins, file.path)
            for name in names_in(read_config_text(filename)).assigned & values.keys():
                origins[name] = _mark(values[name], file.path)
        if not self._files:
            self._values, self._origins = make_plain(values), origins
            return result
        parent = self._files[-1]
        for key in values:
            earlier = f'{parent.setters[key]} and ' if key in parent.setters else ''
            parent.setters[key] = earlier + file.path
        parent.values |= values
        parent.origins |= origins
        return result

    def _merge(self, merge: Callable, own: dict, base: dict, *args: Any, **kwargs: Any) -> dict:
        """Merge one dict into another; the last merge of a file is that of its own values."""
        file = self._files[-1] if self._files else None
        if file is None or file.merging:
            return merge(own, base, *args, **kwargs)
        marks = _mark(own, file.path)
        file.merging = True  # mmengine comes back here for each dict inside
        merged = merge(own, base, *args, **kwargs)
        # A file may also change its bases: `_base_.model.backbone.depth = 18`.
        inherited = _follow(ConfigDict(base).to_dict(), file.values, file.origins, file.path)
        file.merged = merge(marks, inherited)
        file.merging = False
        return merged


@contextmanager
def record_origins() -> Iterator[ConfigOrigins]:
    """Record the origins while mmengine reads configs; not for several threads at once.

    A key that two bases of one file set is reported with the names of both.
    """
    origins = ConfigOrigins()
    merge = Config._merge_a_into_b

    def recorded(read: Callable) -> Callable:
        return lambda filename, *args, **kwargs: origins._read(read, filename, *args, **kwargs)

    replaced = {
        '_file2dict': recorded(Config._file2dict),
        '_parse_lazy_import': recorded(Config._parse_lazy_import),
        '_merge_a_into_b': lambda a, b, *args, **kw: origins._merge(merge, a, b, *args, **kw),
    }
    before = {name: vars(Config)[name] for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(Config, name, staticmethod(function))
        yield origins
    finally:
        for name, function in before.items():
            setattr(Config, name, function)


def keep_origins(cfg: Config, origins: ConfigOrigins) -> None:
    """Keep the record of how a config was read, for `origins_of`."""
    object.__setattr__(cfg, _KEPT, origins)


def origins_of(cfg: Config) -> ConfigOrigins:
    """Return the origins of a config's values, none for a config without a file.

    The files are read again where `keep_origins` was not called.
    """
    if _KEPT in vars(cfg):
        return copy.copy(vars(cfg)[_KEPT])
    with record_origins() as origins:
        if cfg.filename is not None and os.path.isfile(cfg.filename):
            Config.fromfile(cfg.filename)
    return origins


def _mark(value: Any, origin: str) -> Any:
    """Return the tree of origins of a value with one origin."""
    if isinstance(value, dict):
        marks = {key: _mark(item, origin) for key, item in dict.items(value) if key != _DELETE}
        if _DELETE in value:
            marks[_DELETE] = value[_DELETE]
        return {_SELF: origin, **marks}
    if isinstance(value, list | tuple) and value:
        return [_mark(item, origin) for item in value]
    return origin


def _follow(new: Any, old: Any, origins: Any, changer: str) -> Any:
    """Return the origins of `new`: those of `old` where they are alike, else `changer`."""
    if isinstance(new, dict) and isinstance(old, dict):
        followed = {
            key: _follow(value, old[key], origins[key], changer)
            if key in old and key in origins
            else _mark(value, changer)
            for key, value in new.items()
        }
        return {_SELF: origins.get(_SELF, changer), **followed}
    if _holds_dict(new) and type(new) is type(old) and len(new) == len(old):
        return [_follow(*items, changer) for items in zip(new, old, origins, strict=True)]
    # Texts, for an array has no truth and nan is not itself.
    return origins if repr(new) == repr(old) else _mark(new, changer)


def _list_leaves(
    key: str, value: Any, origins: Any, otherwise: str
) -> Iterator[tuple[str, Any, str]]:
    if isinstance(value, dict) and value:
        items = [(name, value[name], origins[name]) for name in sorted(value, key=str)]
    elif isinstance(value, list | tuple) and (_holds_dict(value) or len({*_flatten(origins)}) > 1):
        items = list(zip(range(len(value)), value, origins, strict=True))
    else:
        yield key, value, next(iter(_flatten(origins)), otherwise)
        return
    for name, item, item_origins in items:
        path = f'{key}.{name}' if key else str(name)
        yield from _list_leaves(path, item, item_origins, otherwise)


def _holds_dict(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_dict, value))
    return isinstance(value, dict)


def _flatten(origins: Any) -> Iterator[str]:
    if isinstance(origins, dict | list):
        for item in origins.values() if isinstance(origins, dict) else origins:
            yield from _flatten(item)
    else:
        yield origins


def file_name(filename: str) -> str:
    """`ghmdet::...` for a shipped file, below the current folder a relative path."""
    path = Path(filename).resolve()
    root = CONFIG_ROOT.resolve()
    if path.is_relative_to(root):
        return f'ghmdet::{path.relative_to(root).as_posix()}'
    folder = Path.cwd().resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

"""The text of config files: read in any encoding, written so that it can be read back.

And what the files assign and read: the names in their text, found without running it.
"""

from __future__ import annotations

import ast
import builtins
import io
import math
import os
import re
import warnings
from contextlib import suppress
from pprint import pformat
from typing import IO, Any, NamedTuple

from mmengine.config import Config
from mmengine.config import config as mmengine_config

from ghmdet.files import read_text

_CODING = re.compile(rb'(?:[^\n]*\n)?[ \t]*#[^\n]*coding[:=][ \t]*([-\w.]+)')

BASE_FORM = "`_base_` must be a text or a list of texts without variables, e.g. './base.py'"


class FileNames(NamedTuple):
    """Names in one file."""

    assigned: set[str]
    read: set[str]


def names_per_file(text: str) -> list[FileNames]:
    """Return the names of each file in `Config.text`, the base files first."""
    files: list[list[str]] = [[]]
    for line in text.splitlines():
        if os.path.isabs(line) and line.endswith(('.py', '.json', '.yml', '.yaml')):
            files.append([])  # mmengine puts the path of each file above its text
        else:
            files[-1].append(line)
    return [names_in('\n'.join(lines)) for lines in files]


def names_in(source: str) -> FileNames:
    """Return the names in the text of one file, also those read as `_base_.name`."""
    read = set(re.findall(r'_base_\.(\w+)', source))
    try:
        tree = ast.parse(source)
    except SyntaxError:  # not Python, e.g. a base in YAML
        return FileNames(set(), read)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - {'dict', 'len'}
    return FileNames({node.id for node in names if isinstance(node.ctx, ast.Store)}, read)


def patch_reading() -> None:
    """Let mmengine read config files in any encoding, and expand `~` in `_base_`.

    It reads all as UTF-8 without a byte order mark.
    """
    mmengine_config.open = _open
    get_path = Config._get_cfg_path

    def expanded(path: Any, filename: str) -> tuple[str, str | None]:
        if not isinstance(path, str):
            raise TypeError(f'{BASE_FORM}; got {path!r}')
        return get_path(os.path.expanduser(path), filename)

    Config._get_cfg_path = staticmethod(expanded)


def read_config_text(file: str) -> str:
    """Read a config file; an encoding that it declares in its first two lines becomes UTF-8.

    A ValueError if it is in another encoding than it declares, by default UTF-8.
    """
    with builtins.open(file, 'rb') as stream:
        declared = _CODING.match(stream.read(500))
    if declared is None or not file.endswith('.py'):
        return read_text(file)
    name = declared[1].decode()
    return read_text(file, name).replace(name, 'utf-8', 1)


def _open(file: Any, mode: str = 'r', encoding: str | None = None) -> IO:
    if mode == 'r':
        return io.StringIO(read_config_text(os.fspath(file)))
    return builtins.open(file, mode, encoding=encoding)


def patch_config_formatter() -> None:
    """Write every config so that it can be read back.

    yapf changes its interface and fails on valid code; the run then stops at its start
    (https://github.com/open-mmlab/mmdetection/issues/10962). mmengine writes infinity, classes, and
    keys with quotes or of Python's keywords so that they are not read
    (https://github.com/open-mmlab/mmcv/issues/2228, for example). Text that does not give the
    same values is replaced by that of `pprint`.
    """
    formatted = Config.pretty_text.fget
    if formatted.__module__ == __name__:
        return

    def pretty_text(self: Config) -> str:
        values, found = _writable(self.to_dict()), {}  # type: ignore[var-annotated]
        with suppress(Exception):  # of any kind: the text is not read
            text = formatted(Config(values, format_python_code=self._format_python_code))
            with warnings.catch_warnings(action='error'):  # of escapes that are none
                exec(text, {}, found)
            if pformat(_writable(found)) == pformat(values):
                return text
        return '\n'.join(f'{key} = {pformat(value)}' for key, value in values.items()) + '\n'

    Config.pretty_text = property(pretty_text)


class _NonFinite(float):
    """A number that is written as an expression."""

    def __repr__(self) -> str:
        return f"float('{float(self)}')"


def _writable(node: Any) -> Any:
    """Values with the names of classes and functions in place of these."""
    if isinstance(node, dict):
        return {key: _writable(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(map(_writable, node))
    if isinstance(node, float) and not math.isfinite(node):
        return _NonFinite(node)
    return f'{node.__module__}.{node.__qualname__}' if hasattr(node, '__qualname__') else node

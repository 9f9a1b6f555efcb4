"""`--cfg-options`: read from the command line, and merged into a config."""

from __future__ import annotations

import argparse
import ast
import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmengine.config import Config, DictAction

from ghmdet.config.parts import make_plain

_NOT_A_LITERAL = (ValueError, SyntaxError, MemoryError, RecursionError)
# A text with quotes, one without, or the end of a tuple that has no comma before it.
_ITEM = re.compile(r"""'[^']*'|"[^"]*"|[^\s,()\[\]{}][^,()\[\]]*|(?<![\s,(])\)""")


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`, a dict of values by dotted key, empty without it."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_OptionsAction,
        default={},
        metavar='KEY=VALUE',
        help='settings that override the config: a.b=1 c="[1,2]" d.0.e=x; no blanks around =, '
        'quotes around a value with blanks or brackets',
    )


class _OptionsAction(argparse.Action):
    """mmengine's DictAction, except that blanks in texts are kept, and errors are argparse's."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        options = dict(getattr(namespace, self.dest) or {})
        for word in values:
            key, equals, text = word.partition('=')
            if not equals or not all(key.strip().split('.')) or key != key.strip():
                parser.error(
                    f'--cfg-options expects KEY=VALUE without blanks around =, got {word!r}; a '
                    'value with blanks or brackets needs quotes around it, e.g. '
                    'model.neck.in_channels="[64, 128]"'
                )
            try:
                options[key] = parse_value(text)
            except ValueError as error:
                parser.error(f'--cfg-options {word}: {error}')
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """Read the value of an option, in Python's notation or with texts that have no quotes.

    A comma outside of brackets makes a list. A ValueError if brackets are not closed, or a text in
    a list has brackets.
    """
    text = text.strip()
    if text[:1] in ('"', "'") and text[:1] == text[-1:]:
        text = text[1:-1].strip()
    has_bracket = text[:1] in ('(', '[', '{')
    if has_bracket:
        with suppress(*_NOT_A_LITERAL):
            return ast.literal_eval(text)
    elif ',' not in text:
        return _parse_item(text)
    try:
        quoted = _ITEM.sub(lambda m: ',)' if m[0] == ')' else repr(_parse_item(m[0])), text)
        items = ast.literal_eval(f'[{quoted}]')
    except _NOT_A_LITERAL:
        raise ValueError(
            f'cannot read {text!r}: each bracket must be closed, texts with brackets need quotes, '
            'and so does a value with blanks, e.g. KEY="[64, 128]"'
        ) from None
    return items[0] if has_bracket and len(items) == 1 and text[-1] != ',' else items


def _parse_item(text: str) -> Any:
    return DictAction._parse_int_float_bool(text.strip().strip('\'"'))


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override values of a config by dotted key: `model.neck.in_channels.0`.

    As `Config.merge_from_dict`, but inside of any list or tuple. A KeyError if a list has no such
    item, a TypeError if a key leads into a value that is neither dict nor list.
    """
    changes: dict[str, Any] = {}
    for key, value in clear_nones(cfg, options).items():
        names = key.split('.')
        node, depth = cfg, 0
        while depth < len(names) and isinstance(node, Config | dict):
            node, depth = node.get(names[depth]), depth + 1
        outer = '.'.join(names[:depth])
        if depth < len(names) and isinstance(node, list | tuple):
            changes[outer] = _replace(changes.get(outer, node), names[depth:], value, key)
        else:
            changes[key] = value
    cfg.merge_from_dict(changes)
    make_plain(cfg._cfg_dict)


def clear_nones(cfg: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Add `_delete_` where the config has None and an option sets a key of a dict.

    A TypeError if an option would replace a dict by a number or a text.
    """
    cleared: dict[str, Any] = {}
    for key, value in options.items():
        node: Any = cfg
        names = key.split('.')
        for depth, name in enumerate(names, 1):
            if not isinstance(node, Config | dict) or name not in node:
                break
            node, is_last = node[name], depth == len(names)
            if node is None and is_last and isinstance(value, dict):
                value = {'_delete_': True, **value}
            elif node is None and not is_last:
                cleared[f'{".".join(names[:depth])}._delete_'] = True
            elif is_last and isinstance(node, dict) and isinstance(value, bool | int | float | str):
                keys = ', '.join(f'{key}.{inner}' for inner in node)
                raise TypeError(f'{key}={value}: {key} is a dict, set one of its keys: {keys}')
        cleared[key] = value
    return cleared


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
    raise TypeError(f'{key}: cannot set {name!r} in {node!r}, which is neither dict nor list')

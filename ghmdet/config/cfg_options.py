"""What `--cfg-options` changes in a config."""

from __future__ import annotations

import argparse
import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction

_HELP = (
    'settings that override the config: a.b=1 c="[1,2]" d.0.e=x; no blanks around =, quotes around '
    'a value with blanks or brackets'
)
_CLOSING = {'(': ')', '[': ']'}


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`, a dict of values by dotted key, empty without it."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_OptionsAction,
        default={},
        metavar='KEY=VALUE',
        help=_HELP,
    )


class _OptionsAction(argparse.Action):
    """mmengine's DictAction, but what it cannot read is an error of the command line.

    And quoted texts stay as they are, blanks included, which mmengine drops.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
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
    """Read the value of an option: number, True, False, None, text, list or tuple of these.

    Python's own notation is read as Python does. Else texts need no quotes, and a comma makes a
    list.

    Raises:
        ValueError: brackets or quotes are not closed.

    Example:
        >>> parse_value("('traffic light', 'car')"), parse_value('[(1,2),a b]'), parse_value('1,2')
        (('traffic light', 'car'), [(1, 2), 'a b'], [1, 2])
    """
    text = text.strip()
    if text[:1] in ('"', "'") and text[:1] == text[-1:]:
        text = text[1:-1].strip()
    if text[:1] in ('(', '[', '{'):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # texts without quotes
            pass
    bracket = text[:1] in _CLOSING
    items = list(_split(text)) if bracket or ',' in text else [text]
    if items == [text] and bracket and text[-1] == _CLOSING[text[0]]:
        inner = [parse_value(item) for item in _split(text[1:-1])]
        return tuple(inner) if text[0] == '(' else inner
    if items == [text]:
        return DictAction._parse_int_float_bool(text.strip('\'"'))
    return [parse_value(item) for item in items]


def _split(text: str) -> Iterator[str]:
    """Split at the commas outside of brackets and quotes; one after the last item is dropped."""
    expected: list[str] = []
    start, quote = 0, ''
    for i, char in enumerate(text):
        if quote:
            quote = '' if char == quote else quote
        elif char in '"\'':
            quote = char
        elif char in _CLOSING:
            expected.append(_CLOSING[char])
        elif char in _CLOSING.values() and (not expected or expected.pop() != char):
            raise ValueError(f'{char} at place {i + 1} of {text!r} closes nothing')
        elif char == ',' and not expected:
            yield text[start:i]
            start = i + 1
    if expected:
        raise ValueError(f'{" ".join(reversed(expected))} is missing in {text!r}')
    if text[start:].strip():
        yield text[start:]


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
    for key, value in clear_nones(cfg, options).items():
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


def clear_nones(cfg: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Add `_delete_` where the config has None and an option sets a key of a dict.

    Raises:
        TypeError: an option would replace a dict by a number or a text.
    """
    cleared: dict[str, Any] = {}
    for key, value in options.items():
        node: Any = cfg
        names = key.split('.')
        for depth, name in enumerate(names):
            if not isinstance(node, Config | dict) or name not in node:
                break
            node = node[name]
            last = depth == len(names) - 1
            if node is None and (not last or isinstance(value, dict)):
                cleared[f'{".".join(names[: depth + 1])}._delete_'] = True
            elif last and isinstance(node, dict) and isinstance(value, bool | int | float | str):
                raise TypeError(
                    f'{key}={value}: {key} is a dict of settings, of which one can be set: '
                    f'{", ".join(f"{key}.{inner}" for inner in node)}'
                )
    for key, value in options.items():
        if isinstance(value, dict) and f'{key}._delete_' in cleared:
            del cleared[f'{key}._delete_']
            value = {'_delete_': True, **value}
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
    raise TypeError(f'{key}: {name!r} is to be set in {node!r}, which is neither dict nor list')

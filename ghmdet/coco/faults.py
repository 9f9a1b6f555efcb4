"""What is wrong with a COCO file: broken entries named by their ids, JSON errors, file names."""

from __future__ import annotations

import json
import math
import mmap
import os.path as osp
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePath
from typing import Any

from ghmdet.argument_checks import is_number
from ghmdet.files import explain_undecodable
from ghmdet.messages import list_items

# The area of a box this large still fits float32; no image is near it.
MAX_PIXELS = 1e9
BOX_WORDS = 'four finite numbers [x, y, width, height] up to 1e9'
_SHOWN = 5
_BLOCK = 2**20  # bytes
_LF = '\n'
_NEXT = re.compile(r'\s*,?\s*')
# After a key: up to its value, or up to the NaN in it.
_VALUE = r'\s*:\s*([\[\d\s,.eE+-]*(?=NaN|Infinity))?'

_REPR = reprlib.Repr()
_REPR.repr_float = lambda value, level: json.dumps(value)  # type: ignore[attr-defined]  # NaN
_REPR.maxstring, _REPR.maxlong, _REPR.maxother = 100, 60, 60
show = _REPR.repr  # of a value of any size and depth, shortened


@dataclass
class Faults:
    """The faults of a file: how many, in which entries, and the first of them as text."""

    limit: int = _SHOWN  # of `texts`
    count: int = 0
    texts: list[str] = field(default_factory=list)
    # By list and index of an entry, the numbers of its texts, each with a key or ''.
    places: dict[tuple[str, int], list[tuple[int, str]]] = field(default_factory=dict)
    # Of the broken entries, by list.
    indices: dict[str, set[int]] = field(default_factory=dict)

    def add(self, section: str, index: int, text: str, key: str = '') -> None:
        """Add a fault of the entry `index` of a list, in `key`; `text` names both."""
        self.count += 1
        self.indices.setdefault(section, set()).add(index)
        if len(self.texts) < self.limit:
            self.places.setdefault((section, index), []).append((len(self.texts), key))
            self.texts.append(text)

    def add_lines(self, ann_file: str) -> None:
        """Add line and column to the texts, if the file is on a local disk."""
        if not osp.isfile(ann_file):
            return
        content = Path(ann_file).read_bytes()
        text = content.decode(json.detect_encoding(content), 'replace')
        for section, index, entry, begin, end in _walk_entries(text):
            for number, key in self.places.get((section, index), ()):
                if self.texts[number].startswith(_name_entry(section, index, entry)):
                    value = re.compile(rf'"{key}"{_VALUE}').search(text, begin, end)
                    at = value.end() if value else begin
                    line, column = text.count(_LF, 0, at) + 1, at - text.rfind(_LF, 0, at)
                    self.texts[number] += f' (line {line}, column {column})'

    def raise_any(self, ann_file: str, at_least: bool = False) -> None:
        """Raise a ValueError if there are any."""
        if self.count:
            self.add_lines(ann_file)
            raise ValueError(
                f'{ann_file}: {"at least " if at_least else ""}{self.count} broken entries: '
                f'{list_items(self.texts, _SHOWN, "; ", self.count)}. '
                'Correct them in the file; tools/check_dataset.py lists them all'
            )


def find_type_faults(faults: Faults, section: str, entries: Iterable[Any], first: int = 0) -> None:
    """Add the entries that are no objects, lack a key, or have a value of a wrong type.

    `entries` are the list `section` of the file, or a part of it that begins at index `first`.
    """
    for index, entry in enumerate(entries, first):
        name = _name_entry(section, index, entry)
        if not isinstance(entry, dict):
            faults.add(section, index, f'{name} must be an object, got {show(entry)}')
            continue
        absent = ', '.join(key for key in _REQUIRED[section] if key not in entry)
        if absent:
            faults.add(section, index, f'{name} lacks {absent}')
        for key, (is_valid, expected) in _FIELDS[section].items():
            if key in entry and not is_valid(entry[key]):
                text = f'{name}: {key} must be {expected}, got {show(entry[key])}'
                faults.add(section, index, text, key)


def _name_entry(section: str, index: int, entry: Any) -> str:
    if isinstance(entry, dict) and section == 'annotations':
        return name_annotation(index, entry.get('id'), entry.get('image_id'))
    if not isinstance(entry, dict) or 'id' not in entry:
        return f'{section}[{index}]'
    if section == 'images':
        return name_image(entry['id'], entry.get('file_name'))
    return f'category id {show(entry["id"])}'


def name_image(id_: Any, file_name: Any = None) -> str:
    """Name an image by its id, and its file if that is a str."""
    return f'image id {show(id_)}' + (f' ({file_name})' if isinstance(file_name, str) else '')


def name_annotation(index: int, id_: Any, image_id: Any) -> str:
    """Name an annotation by its id, or by its index if it has none, and its image."""
    name = f'annotations[{index}]' if id_ is None else f'annotation id {show(id_)}'
    return name if image_id is None else f'{name} of image id {show(image_id)}'


def _is_number(value: Any) -> bool:
    """Whether it is a number that fits a float; nan compares as false."""
    return is_number(value, -sys.float_info.max, sys.float_info.max)


def _is_optional_number(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_id(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int | str)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


_Field = tuple[Callable[[Any], bool], str]  # is it valid, and what is expected
_ID: _Field = (_is_id, 'a number or a str')
_SIDE: _Field = (_is_optional_number, 'a positive number')
_FLAG: _Field = (lambda v: isinstance(v, bool) or _is_optional_number(v), '0 or 1')
_FIELDS: dict[str, dict[str, _Field]] = {
    'images': {
        'id': _ID,
        'file_name': (lambda value: value is None or isinstance(value, str), 'a str'),
        'height': _SIDE,
        'width': _SIDE,
    },
    'categories': {'id': _ID, 'name': (lambda value: isinstance(value, str), 'a str')},
    'annotations': {
        'id': _ID,
        'image_id': _ID,
        'category_id': _ID,
        'bbox': (_is_box, BOX_WORDS),
        'area': (_is_optional_number, 'a finite number'),
        'iscrowd': _FLAG,
        'ignore': _FLAG,
    },
}
_REQUIRED = {
    'images': ('id',),
    'categories': ('id', 'name'),
    'annotations': ('image_id', 'category_id', 'bbox'),
}


@contextmanager
def explain_json(ann_file: str) -> Iterator[None]:
    """Turn the errors of decoding JSON into ValueErrors that name the file."""
    try:
        yield
    except RecursionError:
        raise ValueError(
            f'{ann_file}: lists or objects are nested too deeply for a COCO file'
        ) from None
    except json.JSONDecodeError as error:
        if not error.doc:
            raise ValueError(f'{ann_file}: the file is empty (0 bytes)') from None
        hint = 'the file may have been truncated when it was written or copied'
        if error.pos == 0 or error.msg == 'Extra data':
            hint = 'this may be another kind of file, such as XML, text, or JSON Lines'
        raise ValueError(
            f'{ann_file}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; '
            f'{hint}'
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f'{ann_file}: {explain_undecodable(error)}') from None
    except ValueError as error:
        # Python reads no integer of more than 4300 digits.
        raise ValueError(f'{ann_file}: {str(error).removeprefix(f"{ann_file}: ")}') from None


def _walk_entries(text: str) -> Iterator[tuple[str, int, Any, int, int]]:
    """Yield list, index, content, begin and end of each entry of a COCO file."""
    decode = json.JSONDecoder().raw_decode
    for match in re.finditer(rf'"({"|".join(_FIELDS)})"\s*:\s*\[\s*', text):
        begin = match.end()
        with suppress(ValueError, RecursionError):  # where the list ends
            for index in count():
                entry, end = decode(text, begin)
                yield match[1], index, entry, begin, end
                begin = _NEXT.match(text, end).end()  # type: ignore[union-attr]


def find_line(text: bytes | mmap.mmap, offset: int) -> tuple[str, int]:
    """Return a text and an index in it, of the same line and column as a byte of the file.

    `json.JSONDecodeError` computes line and column from these two.
    """
    blocks = (text[i : min(i + _BLOCK, offset)] for i in range(0, offset, _BLOCK))
    line_feeds = sum(block.count(b'\n') for block in blocks)
    begin = text.rfind(b'\n', 0, offset) + 1
    # In a very long line the column counts bytes instead of characters.
    short = offset - begin < _BLOCK
    column = len(text[begin:offset].decode(errors='replace')) if short else offset - begin
    return '\n' * line_feeds + ' ' * (column + 1), line_feeds + column  # never empty


def can_be_path(text: str) -> bool:
    """Whether the system accepts it as the name of a file."""
    try:
        return b'\0' not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def find_outside_names(names: Iterable[str], folder: str) -> list[str]:
    """Return the names that lead out of a folder, '' for the working directory.

    These are absolute paths and `..` past its top, but not an absolute path below it. Links are
    resolved in paths with `..`, since `link/..` is the parent of the link's target. Other links may
    point outside the folder.

    Example:
        >>> find_outside_names(['a.jpg', 'b/../c.jpg', '../d.jpg', '/etc/passwd'], 'images')
        ['../d.jpg', '/etc/passwd']
    """
    # Few need the file system. An absolute path begins with a separator, or has a drive's colon.
    suspects = [n for n in names if n[:1] in ('/', '\\') or '..' in n or ':' in n]
    return [name for name in suspects if not _is_inside(name, folder)]


def _is_inside(name: str, folder: str) -> bool:
    path, parts = osp.join(folder, name), PurePath(name).parts
    if '..' not in parts and PurePath(osp.abspath(path)).is_relative_to(osp.abspath(folder)):
        return True
    return PurePath(osp.realpath(osp.dirname(path))).is_relative_to(osp.realpath(folder))

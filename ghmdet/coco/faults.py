"""Finds what is wrong with the entries of a COCO file, and says it with their ids."""

from __future__ import annotations

import json
import math
import mmap
import os.path as osp
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

# The area of a box this large still fits float32; no image is near it.
MAX_PIXELS = 1e9
_SHOWN = 5
_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxlong, _REPR.maxother = 100, 60, 60


@dataclass
class Faults:
    """Faults found so far: how many, where, and the first in words.

    Args:
        limit: how many to keep in words.
        count: all that were found.
        texts: the first `limit` of them.
        places: of each list of the file, the numbers of its broken entries.
    """

    limit: int = _SHOWN
    count: int = 0
    texts: list[str] = field(default_factory=list)
    places: dict[str, set[int]] = field(default_factory=dict)

    def add(self, section: str, index: int, text: str) -> None:
        """Take in a fault of an entry; `text` begins after the entry's name."""
        self.count += 1
        self.places.setdefault(section, set()).add(index)
        if len(self.texts) < self.limit:
            self.texts.append(text)

    def raise_any(self, ann_file: str, at_least: bool = False) -> None:
        """Raise a ValueError if there are any."""
        if self.count:
            more = self.count - len(self.texts[:_SHOWN])
            raise ValueError(
                f'{ann_file}: {"at least " if at_least else ""}{self.count} broken entries: '
                f'{"; ".join(self.texts[:_SHOWN])}{f"; and {more} more" if more else ""}. '
                'Correct them in the file; tools/check_dataset.py lists them all'
            )


def find_type_faults(faults: Faults, section: str, entries: Iterable[Any], first: int = 0) -> None:
    """Look for entries that are no objects, lack a key, or have a value of a wrong type.

    Args:
        faults: takes in what is found.
        section: `images`, `annotations` or `categories`.
        entries: what `json.loads` made of this list of the file, or of a part of it.
        first: number of the first entry in its list.
    """
    for index, entry in enumerate(entries, first):
        if not isinstance(entry, dict):
            faults.add(section, index, f'{section}[{index}] must be an object, got {show(entry)}')
            continue
        absent = ', '.join(key for key in _REQUIRED[section] if key not in entry)
        name = _name_entry(section, index, entry)
        if absent:
            faults.add(section, index, f'{name} lacks {absent}')
        for key, (is_right, words) in _FIELDS[section].items():
            if key in entry and not is_right(entry[key]):
                faults.add(section, index, f'{name}: {key} must be {words}, got {show(entry[key])}')


def show(value: Any) -> str:
    """Return the repr of a value of any size and depth, shortened."""
    return _REPR.repr(value)


def _name_entry(section: str, index: int, entry: dict) -> str:
    if section == 'images' and 'id' in entry:
        return name_image(entry['id'], entry.get('file_name'))
    if section == 'annotations':
        return name_annotation(index, entry.get('id'), entry.get('image_id'))
    if section == 'categories' and 'id' in entry:
        return f'category id {show(entry["id"])}'
    return f'{section}[{index}]'


def name_image(id_: Any, file_name: Any = None) -> str:
    """Name an image by its id, and its file if that is a text."""
    return f'image id {show(id_)}' + (f' ({file_name})' if isinstance(file_name, str) else '')


def name_annotation(index: int, id_: Any, image_id: Any) -> str:
    """Name an annotation by its id, or by its place if it has none, and its image."""
    name = f'annotations[{index}]' if id_ is None else f'annotation id {show(id_)}'
    return name if image_id is None else f'{name} of image id {show(image_id)}'


def _is_number(value: Any) -> bool:
    """Tell whether it is a number that fits a float; nan compares as false."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -sys.float_info.max <= value <= sys.float_info.max


def _is_id(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int | str)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def can_be_path(text: str) -> bool:
    """Whether the system can take it for the name of a file."""
    try:
        return b'\0' not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool) or _is_number(value)


BOX_WORDS = 'four finite numbers [x, y, width, height] up to 1e9'
_ID: tuple[Callable[[Any], bool], str] = (_is_id, 'a number or a str')
_SIDE = (lambda value: value is None or _is_number(value), 'a positive number')
_FLAG = (_is_flag, '0 or 1')
_FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
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
        'area': (lambda value: value is None or _is_number(value), 'a finite number'),
        'iscrowd': _FLAG,
        'ignore': _FLAG,
    },
}
_REQUIRED = {
    'images': ('id',),
    'categories': ('id', 'name'),
    'annotations': ('image_id', 'category_id', 'bbox'),
}
_LINE_BLOCK = 2**20


@contextmanager
def explain_json(ann_file: str) -> Iterator[None]:
    """Turn what goes wrong when JSON is decoded into ValueErrors that name the file."""
    try:
        yield
    except RecursionError:
        raise ValueError(
            f'{ann_file}: lists or objects are nested in each other too deeply for a COCO file'
        ) from None
    except json.JSONDecodeError as error:
        if not error.doc:
            raise ValueError(f'{ann_file}: the file is empty (0 bytes)') from None
        raise ValueError(
            f'{ann_file}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; '
            'was the file cut short while it was written or copied?'
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{ann_file}: expected a JSON text file in UTF-8, but byte {error.start} is none of it '
            f'({error.reason})'
        ) from None
    except ValueError as error:
        # Python reads no integer of more than 4300 digits.
        raise ValueError(f'{ann_file}: {str(error).removeprefix(f"{ann_file}: ")}') from None


def find_line(text: bytes | mmap.mmap, place: int) -> tuple[str, int]:
    """Return as much of the text as tells the line and column of a byte, and its place there."""
    line_feeds, begin = 0, -1
    for start in range(place // _LINE_BLOCK * _LINE_BLOCK, -1, -_LINE_BLOCK):
        block = text[start : min(start + _LINE_BLOCK, place)]
        line_feeds += block.count(b'\n')
        if begin < 0 <= (last := block.rfind(b'\n')):
            begin = start + last + 1
    begin = max(begin, 0)
    # Of a line as long as the file it is enough to know the byte.
    short = place - begin < _LINE_BLOCK
    column = len(text[begin:place].decode(errors='replace')) if short else place - begin
    return '\n' * line_feeds + ' ' * column, line_feeds + column


def find_outside_names(names: Iterable[str], folder: str) -> list[str]:
    """Return the names that lead out of a folder: absolute paths, and `..` past its top.

    An absolute path below the folder is inside. Links are followed where there is a `..`, since
    `link/..` is not where it looks; a link in the folder may point anywhere, it is the owner's.

    Args:
        names: file names of images.
        folder: where they are to be, '' for the working directory.

    Example:
        >>> find_outside_names(['a.jpg', 'b/../c.jpg', '../d.jpg', '/etc/passwd'], 'images')
        ['../d.jpg', '/etc/passwd']
    """
    # Most need no second look.
    suspects = [name for name in names if '..' in name or osp.isabs(name)]
    return [name for name in suspects if not _is_inside(name, folder)]


def _is_inside(name: str, folder: str) -> bool:
    path = osp.join(folder, name)
    if '..' not in PurePath(name).parts and _is_below(osp.abspath(path), osp.abspath(folder)):
        return True
    return _is_below(osp.realpath(osp.dirname(path)), osp.realpath(folder))


def _is_below(path: str, folder: str) -> bool:
    return PurePath(path).is_relative_to(folder)

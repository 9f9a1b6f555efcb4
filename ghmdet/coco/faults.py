"""Finds what is wrong with the entries of a COCO file, and says it with their ids."""

from __future__ import annotations

import math
import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ghmdet.coco.records import CocoRecords

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


def find_record_faults(faults: Faults, records: CocoRecords) -> None:
    """Look for ids used twice or unknown, and sizes, names and boxes that cannot be."""
    _find_image_faults(faults, records)
    _find_repeated(faults, 'categories', [category.id for category in records.categories])
    annotations = records.annotations
    _find_repeated(faults, 'annotations', annotations.ids)
    for key, ids, section, known in (
        ('image_id', annotations.image_ids, 'image', [image.id for image in records.images]),
        ('category_id', annotations.category_ids, 'category', [c.id for c in records.categories]),
    ):
        unknown = set(ids) - set(known)
        if unknown:
            places = (annotations.image, annotations.category)[section == 'category']
            like = {str(id_): id_ for id_ in known}
            lost = np.array([id_ in unknown for id_ in ids])[places]
            for index in np.flatnonzero(lost).tolist():
                id_ = ids[places[index]]
                near = like.get(str(id_))
                hint = f'; there is {near!r}, which is another type' if str(id_) in like else ''
                text = f'{annotations.name(index)}: no {section} has its {key} {show(id_)}{hint}'
                faults.add('annotations', index, text)
    for index in np.flatnonzero((np.abs(annotations.bbox) > MAX_PIXELS).any(axis=1)).tolist():
        bbox = annotations.bbox[index].tolist()
        text = f'{annotations.name(index)}: bbox must be {_BOX_WORDS}, got {bbox}'
        faults.add('annotations', index, text)


def show(value: Any) -> str:
    """Return the repr of a value of any size and depth, shortened."""
    return _REPR.repr(value)


def _find_image_faults(faults: Faults, records: CocoRecords) -> None:
    images = records.images
    names = [image.file_name for image in images]
    for index, image in enumerate(images):
        height, width = image.height, image.width
        if height and width and 0 < height <= MAX_PIXELS and 0 < width <= MAX_PIXELS:
            continue
        absent = ', '.join(key for key in ('height', 'width') if getattr(image, key) is None)
        text = (
            f' lacks {absent}'
            if absent
            else (
                ': height and width must be positive numbers up to 1e9, got '
                f'{show(height)} and {show(width)}'
            )
        )
        faults.add('images', index, _name_image(image.id, image.file_name) + text)
    if not all(names) or not _can_be_path(''.join(filter(None, names))):
        for index, image in enumerate(images):
            name = _name_image(image.id)
            if image.file_name is None:
                faults.add('images', index, f'{name} lacks file_name')
            elif not image.file_name or not _can_be_path(image.file_name):
                text = f'{name}: file_name must name a file, got {show(image.file_name)}'
                faults.add('images', index, text)
    _find_repeated(faults, 'images', [image.id for image in images])


def _find_repeated(faults: Faults, section: str, ids: Sequence[Any] | np.ndarray) -> None:
    """Look for an id that an earlier entry has; None stands for no id, but in `images`."""
    if isinstance(ids, np.ndarray):
        ordered = np.sort(ids)
        if not (ordered[1:] == ordered[:-1]).any():
            return
        ids = ids.tolist()
    elif len(set(ids)) == len(ids):
        return
    counts = Counter(ids)
    kind = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}[section]
    seen = set()
    for index, id_ in enumerate(ids):
        if id_ in seen and (id_ is not None or section != 'annotations'):
            text = f'{kind} id {show(id_)} is used {_say_times(counts[id_])}, again by {section}'
            faults.add(section, index, f'{text}[{index}]')
        seen.add(id_)


def _say_times(count: int) -> str:
    return 'twice' if count == 2 else f'{count} times'


def _name_entry(section: str, index: int, entry: dict) -> str:
    if section == 'images' and 'id' in entry:
        return _name_image(entry['id'], entry.get('file_name'))
    if section == 'annotations':
        return name_annotation(index, entry.get('id'), entry.get('image_id'))
    if section == 'categories' and 'id' in entry:
        return f'category id {show(entry["id"])}'
    return f'{section}[{index}]'


def _name_image(id_: Any, file_name: Any = None) -> str:
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


def _can_be_path(text: str) -> bool:
    try:
        return b'\0' not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool) or _is_number(value)


_BOX_WORDS = 'four finite numbers [x, y, width, height] up to 1e9'
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
        'bbox': (_is_box, _BOX_WORDS),
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

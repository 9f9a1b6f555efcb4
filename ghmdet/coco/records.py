"""Decodes what detection needs of COCO files; polygons are skipped.

Most of a large file is its annotations. They are decoded some megabytes at a time straight into
flat arrays, so that memory grows with the number of boxes and not with the size of the file.
"""

from __future__ import annotations

import codecs
import json
import mmap
import os.path as osp
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from mmengine import fileio

from ghmdet.coco.faults import (
    Faults,
    explain_json,
    find_line,
    find_type_faults,
    name_annotation,
    show,
)
from ghmdet.files import explain_undecodable

Id = int | float | str | bool | None  # what JSON can hold and a dict can have as a key

_NAME = b'"annotations"'
_ANNOTATIONS = re.compile(rb'"annotations"\s*:\s*\[')
# Between two annotations, unless it is inside a string or inside an annotation.
_BETWEEN = re.compile(rb'(?<=\})\s*,\s*(?=\{)')
_BLOCK = 2**20
# Ids from 0 to this many times their number are counted instead of sorted.
_FEW_TIMES = 4
# Reading stops after this many broken entries.
_ENOUGH = 1000


# gc=False: what is decoded from JSON has no reference cycles that the collector must find.
class ImageRecord(msgspec.Struct, gc=False):
    """One of `images`; None where the file has no value."""

    id: Id
    file_name: str | None = None
    height: int | float | None = None
    width: int | float | None = None


class CategoryRecord(msgspec.Struct, gc=False):
    """One of `categories`."""

    id: Id
    name: str
    supercategory: Any = None


class _AnnotationRecord(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    id: Id = None
    area: float | None = None
    iscrowd: int | float | bool | None = 0
    ignore: int | float | bool | None = False


class _Document(msgspec.Struct):
    images: list[ImageRecord]
    categories: list[CategoryRecord] | msgspec.UnsetType = msgspec.UNSET
    annotations: list[_AnnotationRecord] | msgspec.UnsetType = msgspec.UNSET


_BLOCK_DECODER = msgspec.json.Decoder(list[_AnnotationRecord])
_DOCUMENT_DECODER = msgspec.json.Decoder(_Document)


@dataclass
class AnnotationColumns:
    """The annotations of a file in its order, as arrays of n entries."""

    image_ids: list[Id]  # those that occur
    category_ids: list[Id]
    image: np.ndarray  # int64 (n,), index in `image_ids`
    category: np.ndarray  # int64 (n,), index in `category_ids`
    bbox: np.ndarray  # float64 (n, 4) x, y, w, h as in the file
    area: np.ndarray  # float64 (n,), nan where the file has none
    is_crowd: np.ndarray  # bool (n,)
    is_ignored: np.ndarray  # bool (n,)
    # The annotations' own: int64 (n,), or a list where some are no integers; None: without one.
    ids: Sequence[Id] | np.ndarray = ()

    def __len__(self) -> int:
        return len(self.bbox)

    def name(self, index: int) -> str:
        """Name an annotation of the file for a message, with its image."""
        id_ = self.ids[index]
        id_ = id_.item() if isinstance(id_, np.generic) else id_
        return name_annotation(index, id_, self.image_ids[self.image[index]])

    def find_images(self, index_of: Mapping[Any, int]) -> np.ndarray:
        """Return the index of each annotation's image: int64 (n,), -1 where there is none."""
        return np.array([index_of.get(id_, -1) for id_ in self.image_ids], np.int64)[self.image]

    def find_categories(self, label_of: Mapping[Any, int]) -> np.ndarray:
        """Return the label of each annotation's category: int64 (n,), -1 where there is none."""
        labels = [label_of.get(id_, -1) for id_ in self.category_ids]
        return np.array(labels, np.int64)[self.category]


@dataclass
class CocoRecords:
    """What detection needs of a COCO file."""

    images: list[ImageRecord]
    categories: list[CategoryRecord]
    annotations: AnnotationColumns
    annotated: bool  # whether it has the list `annotations`
    categorised: bool = True  # whether it has the list `categories`


def read_records(ann_file: str, backend_args: dict[str, Any] | None = None) -> CocoRecords:
    """Read a COCO file and check the keys and types of its entries; `read_coco` checks more.

    Raises:
        OSError: the file cannot be read; FileNotFoundError if there is none.
        ValueError: as `read_coco`.
    """
    with explain_json(ann_file), _open_text(ann_file, backend_args) as text:
        return _decode(text, ann_file)


def convert_records(data: Any, ann_file: str) -> CocoRecords:
    """Turn a COCO file, as `json.loads` returns it, into records; errors as in `read_records`."""
    return _finish(_convert(data, ann_file, Faults()))


@contextmanager
def _open_text(ann_file: str, backend_args: dict[str, Any] | None) -> Iterator[bytes | mmap.mmap]:
    backend = fileio.get_file_backend(ann_file, backend_args=backend_args)
    # An empty file cannot be mapped.
    if isinstance(backend, fileio.LocalBackend) and osp.isfile(ann_file) and osp.getsize(ann_file):
        with (
            open(ann_file, 'rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            yield text
    else:
        yield fileio.get(ann_file, backend_args=backend_args)


def _decode(text: bytes | mmap.mmap, ann_file: str) -> CocoRecords:
    """Decode blocks of the annotations one by one, then the file without them.

    This is exact: a block and the rest of the file can only be parsed if both cuts are between two
    annotations. Where a cut is not, the block is decoded with the rest of the file.
    """
    begin = len(codecs.BOM_UTF8) if text[:3] == codecs.BOM_UTF8 else 0
    opening = _ANNOTATIONS.search(text)
    start = opening.end() if opening else len(text)
    head = text[begin:start]
    blocks, faults, count = list[Any](), Faults(), 0
    while faults.count < _ENOUGH and (cut := _BETWEEN.search(text, start + _BLOCK)):
        with memoryview(text) as view:  # a slice of it is no copy
            part = b''.join((b'[', view[start : cut.start()], b']'))
        try:
            block, size = _decode_block(part, faults, count)
        except ValueError:
            break
        blocks.append(_make_columns(block))
        count += size
        start = cut.end()
        _forget_pages(text, start)
    # If the name occurs twice, the blocks may be from another list, inside of `info` for example.
    if not opening or head.count(_NAME) > 1 or text.find(_NAME, start) >= 0:
        return _finish(_decode_document(text[begin:], ann_file, Faults()))
    if faults.count >= _ENOUGH:
        faults.raise_any(ann_file, at_least=True)
    try:
        document = _decode_document(head + text[start:], ann_file, faults, count)
    except UnicodeDecodeError as error:
        offset = error.start + (begin if error.start < len(head) else start - len(head))
        line = find_line(text, offset)[0].count('\n') + 1
        raise ValueError(f'{ann_file}: {explain_undecodable(error, offset, line)}') from None
    except json.JSONDecodeError as error:
        offset = len(error.doc[: error.pos].encode())
        offset += begin if offset < len(head) else start - len(head)
        raise json.JSONDecodeError(error.msg, *find_line(text, offset)) from None
    return _finish(document, blocks)


def _decode_block(block: bytes, faults: Faults, first: int) -> tuple[list[_AnnotationRecord], int]:
    """Decode a list of annotations; return them, none if any is broken, and their number."""
    try:
        records = _BLOCK_DECODER.decode(block)
        return records, len(records)
    except msgspec.DecodeError:  # NaN, a number too large, a wrong type, a wrong cut
        entries = json.loads(block)
    before = faults.count
    find_type_faults(faults, 'annotations', entries, first)
    valid = entries if faults.count == before else []
    return msgspec.convert(valid, list[_AnnotationRecord]), len(entries)


def _decode_document(text: bytes, ann_file: str, faults: Faults, first: int = 0) -> _Document:
    """Decode the file without its first annotations, whose faults are already in `faults`."""
    try:
        document = _DOCUMENT_DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _convert(json.loads(text), ann_file, faults, first)
    faults.raise_any(ann_file)
    return document


def _convert(data: Any, ann_file: str, faults: Faults, first: int = 0) -> _Document:
    given = data if isinstance(data, dict) else {}
    for section in ('images', 'annotations', 'categories'):
        if not isinstance(given.get(section, [] if 'images' in given else None), list):
            got = f'the keys {show(sorted(given))}' if given else type(data).__name__
            got = f'a {type(given[section]).__name__}' if section in given else got
            raise ValueError(
                f'{ann_file}: expected a COCO file, an object with the lists images, annotations, '
                f'categories; {section!r} is missing or no list, got {got}'
            )
        offset = first if section == 'annotations' else 0
        find_type_faults(faults, section, given.get(section, []), offset)
    faults.raise_any(ann_file)
    return msgspec.convert(data, _Document)


def _forget_pages(text: bytes | mmap.mmap, stop: int) -> None:
    """Release the pages of a mapped file up to `stop`, which count as this process's memory."""
    if isinstance(text, mmap.mmap) and hasattr(mmap, 'MADV_DONTNEED'):
        text.madvise(mmap.MADV_DONTNEED, 0, stop)


def _finish(document: _Document, blocks: Sequence[tuple[Any, ...]] = ()) -> CocoRecords:
    """Join the columns of blocks with the annotations of a document."""
    lists = [document.categories, document.annotations]
    categorised, annotated = (not isinstance(part, msgspec.UnsetType) for part in lists)
    blocks = blocks if annotated else ()  # they were of another list
    last = _make_columns(document.annotations or [])
    ids, image_ids, category_ids, *others = zip(*blocks, last, strict=True)
    images, image = _number_ids(image_ids)
    categories, category = _number_ids(category_ids)
    arrays: list[Any] = [*map(np.concatenate, others), _join_ids(ids)]
    columns = AnnotationColumns(images, categories, image, category, *arrays)
    return CocoRecords(document.images, document.categories or [], columns, annotated, categorised)


def _make_columns(records: list[_AnnotationRecord]) -> tuple[Any, ...]:
    """Return a part of the columns: ids, image ids, category ids, boxes, areas, flags."""

    def pick(field: str, dtype: type) -> np.ndarray:
        return np.fromiter(map(attrgetter(field), records), dtype, len(records))

    boxes = chain.from_iterable(map(attrgetter('bbox'), records))
    return (
        _pack_ids([record.id for record in records]),
        _pack_ids([record.image_id for record in records]),
        _pack_ids([record.category_id for record in records]),
        np.fromiter(boxes, np.float64, 4 * len(records)).reshape(-1, 4),
        pick('area', np.float64),
        pick('iscrowd', bool),
        pick('ignore', bool),
    )


def _pack_ids(ids: list[Id]) -> list[Id] | np.ndarray:
    """Make an int64 array of ids that are all integers."""
    array = np.array(ids) if ids else np.empty(0, np.int64)
    return array if array.dtype == np.int64 else ids


def _join_ids(parts: Sequence[list[Id] | np.ndarray]) -> list[Id] | np.ndarray:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        return np.concatenate(arrays)
    return [id_ for part in parts for id_ in np.asarray(part, object).tolist()]


def _number_ids(parts: Sequence[list[Id] | np.ndarray]) -> tuple[list[Id], np.ndarray]:
    """Return the different ids, and for each entry which of them it has: int64 (n,)."""
    joined = _join_ids(parts)
    if isinstance(joined, np.ndarray):
        low, high = (int(joined.min()), int(joined.max())) if len(joined) else (0, 0)
        if high - low <= _FEW_TIMES * len(joined):  # faster than to sort them
            occurs = np.bincount(joined - low) > 0
            ids: list[Any] = (np.flatnonzero(occurs) + low).tolist()
            return ids, (occurs.cumsum() - 1)[joined - low]
        different, numbers = np.unique(joined, return_inverse=True)
        return different.tolist(), numbers
    number_of = {id_: number for number, id_ in enumerate(dict.fromkeys(joined))}
    return list(number_of), np.array([number_of[id_] for id_ in joined], np.int64)

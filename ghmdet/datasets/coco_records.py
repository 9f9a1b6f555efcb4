"""Decodes COCO files into what detection needs of them; polygons are passed over, never built.

Most of a large file is its annotations. They are decoded some megabytes at a time straight into
flat arrays, so that memory grows with the number of boxes and not with the size of the file.
"""

from __future__ import annotations

import codecs
import mmap
import os.path as osp
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from mmengine import fileio

# Of any JSON type that a dict can be keyed by.
Id = int | float | str | bool | None

_ANNOTATIONS = re.compile(rb'"annotations"\s*:\s*\[')
# Where one annotation ends and the next begins, if not inside a string or an annotation.
_BETWEEN = re.compile(rb'(?<=\})\s*,\s*(?=\{)')
_BLOCK = 2**20


# gc=False: nothing decoded from JSON can be part of a cycle, so the collector may pass over these.
class ImageRecord(msgspec.Struct, gc=False):
    """One of `images`; the defaults stand for what is missing."""

    id: Id
    file_name: str | None = None
    height: int | float = 0
    width: int | float = 0


class CategoryRecord(msgspec.Struct, gc=False):
    """One of `categories`."""

    id: Id
    name: str


class _AnnotationRecord(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Any = 0
    ignore: Any = False


class _Document(msgspec.Struct):
    images: list[ImageRecord]
    categories: list[CategoryRecord]
    annotations: list[_AnnotationRecord] | msgspec.UnsetType = msgspec.UNSET


_BLOCK_DECODER = msgspec.json.Decoder(list[_AnnotationRecord])
_DOCUMENT_DECODER = msgspec.json.Decoder(_Document)


@dataclass
class AnnotationColumns:
    """The annotations of a file in its order, as arrays of n entries.

    `bbox` is float64 (n, 4) x, y, w, h as in the file; `area` float64 with nan where the file has
    none; `is_crowd` and `is_ignored` bool. `image` and `category` are places in `image_ids` and
    `category_ids`, which list the ids that occur.
    """

    image_ids: list[Id]
    category_ids: list[Id]
    image: np.ndarray
    category: np.ndarray
    bbox: np.ndarray
    area: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray

    def find_images(self, index_of: Mapping[Any, int]) -> np.ndarray:
        """Give each annotation the number of its image: int64 (n,), -1 where there is none."""
        return np.array([index_of.get(id_, -1) for id_ in self.image_ids], np.int64)[self.image]

    def find_categories(self, label_of: Mapping[Any, int]) -> np.ndarray:
        """Give each annotation the number of its category: int64 (n,), -1 where there is none."""
        labels = [label_of.get(id_, -1) for id_ in self.category_ids]
        return np.array(labels, np.int64)[self.category]


@dataclass
class CocoRecords:
    """What detection needs of a COCO file; `annotated` says whether it has `annotations` at all."""

    images: list[ImageRecord]
    categories: list[CategoryRecord]
    annotations: AnnotationColumns
    annotated: bool


def read_records(ann_file: str, backend_args: dict | None = None) -> CocoRecords | None:
    """Read a COCO file; None if it is broken or unusual.

    It is then for the caller to look at it with `json.loads`, which tells more and takes more (not
    a number, other encodings than UTF-8), and if no fault is found to go on with `convert_records`.

    Args:
        ann_file: path or URL of the JSON file.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.

    Raises:
        OSError: the file cannot be read; FileNotFoundError if there is none.
    """
    with _open_text(ann_file, backend_args) as text:
        try:
            return _decode(text)
        except msgspec.DecodeError:
            return None


def convert_records(data: Any, ann_file: str) -> CocoRecords:
    """Turn what `json.loads` made of a COCO file into records.

    Raises:
        ValueError: something has the wrong type; the message has its path.
    """
    try:
        document = msgspec.convert(data, _Document)
    except msgspec.ValidationError as error:
        raise ValueError(f'{ann_file}: {error}; correct it in the file') from error
    return _finish(document, _ColumnBuilder())


@contextmanager
def _open_text(ann_file: str, backend_args: dict | None) -> Iterator[bytes | mmap.mmap]:
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


def _decode(text: bytes | mmap.mmap) -> CocoRecords:
    """Decode blocks out of the middle of the annotations, then the file without them.

    Both together are exact: a block and what remains parse only if the cuts fell between two
    annotations. Where they did not, the block is left to the document that remains.
    """
    begin = len(codecs.BOM_UTF8) if text[:3] == codecs.BOM_UTF8 else 0
    opening = _ANNOTATIONS.search(text)
    if opening is None:
        return _finish(_DOCUMENT_DECODER.decode(text[begin:]), _ColumnBuilder())
    builder = _ColumnBuilder()
    start = opening.end()
    while cut := _BETWEEN.search(text, start + _BLOCK):
        try:
            block = _BLOCK_DECODER.decode(b'[%b]' % text[start : cut.start()])
        except msgspec.DecodeError:
            break
        builder.add(block)
        start = cut.end()
        _forget_pages(text, start)
    rest = text[begin : opening.end()] + text[start:]
    # With a second thing of that name the blocks may be from a list that is not the file's own.
    if rest.count(b'"annotations"') > 1:
        builder, rest = _ColumnBuilder(), text[begin:]
    return _finish(_DOCUMENT_DECODER.decode(rest), builder)


def _forget_pages(text: bytes | mmap.mmap, stop: int) -> None:
    """Drop what was read of a mapped file, which else counts as this process's memory."""
    if isinstance(text, mmap.mmap) and hasattr(mmap, 'MADV_DONTNEED'):
        text.madvise(mmap.MADV_DONTNEED, 0, stop)


def _finish(document: _Document, builder: _ColumnBuilder) -> CocoRecords:
    annotated = not isinstance(document.annotations, msgspec.UnsetType)
    builder.add(document.annotations or [])
    return CocoRecords(document.images, document.categories, builder.build(), annotated)


class _ColumnBuilder:
    def __init__(self) -> None:
        self._image_ids: list[list[Id] | np.ndarray] = []
        self._category_ids: list[list[Id] | np.ndarray] = []
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, records: list[_AnnotationRecord]) -> None:
        def pick(field: str, dtype: type) -> np.ndarray:
            return np.fromiter(map(attrgetter(field), records), dtype, len(records))

        boxes = chain.from_iterable(map(attrgetter('bbox'), records))
        self._image_ids.append(_pack_ids([record.image_id for record in records]))
        self._category_ids.append(_pack_ids([record.category_id for record in records]))
        self._parts.append(
            (
                np.fromiter(boxes, np.float64, 4 * len(records)).reshape(-1, 4),
                pick('area', np.float64),
                pick('iscrowd', bool),
                pick('ignore', bool),
            )
        )

    def build(self) -> AnnotationColumns:
        image_ids, image = _number_ids(self._image_ids)
        category_ids, category = _number_ids(self._category_ids)
        columns = map(np.concatenate, zip(*self._parts, strict=True))
        return AnnotationColumns(image_ids, category_ids, image, category, *columns)


def _pack_ids(ids: list[Id]) -> list[Id] | np.ndarray:
    """Make an int64 array of ids that are all integers."""
    array = np.array(ids) if ids else np.empty(0, np.int64)
    return array if array.dtype == np.int64 else ids


def _number_ids(parts: list[list[Id] | np.ndarray]) -> tuple[list[Id], np.ndarray]:
    """Return the different ids, and for each entry which of them it has: int64 (n,)."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        different, numbers = np.unique(np.concatenate(arrays), return_inverse=True)
        return different.tolist(), numbers
    ids: list[Id] = [id_ for part in parts for id_ in part]
    number_of = {id_: number for number, id_ in enumerate(dict.fromkeys(ids))}
    return list(number_of), np.array([number_of[id_] for id_ in ids], np.int64)

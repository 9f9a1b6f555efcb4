"""Reads and checks a COCO annotation file.

An error is a ValueError that names the ids. docs/troubleshooting.md lists what is an error, what is
filled in, and what is left out. `tools/check_dataset.py` lists all errors at once.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from mmengine import fileio

from ghmdet.coco.faults import (
    BOX_WORDS,
    MAX_PIXELS,
    Faults,
    can_be_path,
    explain_json,
    name_image,
    show,
)
from ghmdet.coco.records import CocoRecords, convert_records, read_records
from ghmdet.files import explain_look_alike

_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

# For the next reader of a file, by path, time stamp, size and `need_annotations`.
_kept: dict[tuple[Any, ...], CocoRecords] = {}


def read_coco(
    ann_file: str,
    backend_args: dict[str, Any] | None = None,
    *,
    need_annotations: bool = True,
    keep: bool = False,
) -> CocoRecords:
    """Read a COCO annotation file and check all that does not depend on the classes to use.

    Args:
        ann_file: path or URL of the JSON file.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
        need_annotations: False lets `annotations` be absent, as in the files that come with test
            images, and then `categories` too.
        keep: keep the records of a local file for the next call, which need not read it again.

    Returns:
        Images and categories with unique ids; images with `file_name` and positive `height` and
        `width`; annotations with unique ids or none, of existing images and categories, and with a
        `bbox` of four numbers up to 1e9.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (line and column), not COCO, or has broken entries (their ids).
    """
    key: tuple[Any, ...] = ()  # of storage that is not local
    with suppress(OSError):
        status = os.stat(ann_file)
        key = os.path.realpath(ann_file), status.st_mtime_ns, status.st_size, need_annotations
    records = _kept.pop(key, None)
    if records is None:
        try:
            records = read_records(ann_file, backend_args)
        except _NO_FILE:
            raise explain_no_file(ann_file) from None
        _check_records(records, ann_file, need_annotations)
    if keep and key:
        _kept[key] = records
    return records


def read_coco_json(
    ann_file: str, backend_args: dict[str, Any] | None = None, need_annotations: bool = True
) -> tuple[CocoRecords, dict[str, Any]]:
    """Read and check as `read_coco` does, and also return all the JSON content, polygons too.

    This takes ten times the time and memory.
    """
    data = load_json(ann_file, backend_args)
    records = convert_records(data, ann_file)
    _check_records(records, ann_file, need_annotations)
    return records, {'annotations': [], 'categories': []} | data


def load_json(ann_file: str, backend_args: dict[str, Any] | None = None) -> Any:
    """Return the content of a JSON file; errors as in `read_coco`."""
    try:
        with explain_json(ann_file):
            return json.loads(fileio.get(ann_file, backend_args=backend_args))
    except _NO_FILE:
        raise explain_no_file(ann_file) from None


def explain_no_file(ann_file: str) -> FileNotFoundError:
    """Return the error of a missing annotation file."""
    return FileNotFoundError(
        f'no annotation file at {str(ann_file)!r}{explain_look_alike(ann_file)}: check the keys '
        'data_root and ann_file of the dataset (or of the evaluator) in the config'
    )


def _check_records(records: CocoRecords, ann_file: str, need_annotations: bool) -> None:
    """Raise a ValueError for missing lists and for the faults of `find_record_faults`."""
    for section, is_valid in (
        ('annotations', records.annotated or not need_annotations),
        ('categories', records.categorised or not (need_annotations or records.annotated)),
    ):
        if not is_valid:
            raise ValueError(
                f'{ann_file}: expected a COCO file, an object with the lists images, annotations, '
                f'categories; {section!r} is missing'
            )
    faults = Faults()
    find_record_faults(faults, records)
    faults.raise_any(ann_file)


def find_record_faults(faults: Faults, records: CocoRecords) -> None:
    """Add ids used twice or unknown, and invalid sizes, file names and boxes."""
    _find_image_faults(faults, records)
    category_ids = [category.id for category in records.categories]
    _find_repeated(faults, 'categories', category_ids)
    annotations = records.annotations
    _find_repeated(faults, 'annotations', annotations.ids)
    for kind, column, ids, known in (
        ('image', annotations.image, annotations.image_ids, [i.id for i in records.images]),
        ('category', annotations.category, annotations.category_ids, category_ids),
    ):
        unknown = set(ids) - set(known)
        if not unknown:
            continue
        by_text = {str(id_): id_ for id_ in known}
        is_unknown = np.array([id_ in unknown for id_ in ids])[column]
        for index in np.flatnonzero(is_unknown).tolist():
            id_ = ids[column[index]]
            text = f'{annotations.name(index)}: no {kind} has its {kind}_id {show(id_)}'
            if str(id_) in by_text:
                text += f'; there is {by_text[str(id_)]!r}, which is another type'
            faults.add('annotations', index, text)
    for index in np.flatnonzero((np.abs(annotations.bbox) > MAX_PIXELS).any(axis=1)).tolist():
        bbox = annotations.bbox[index].tolist()
        text = f'{annotations.name(index)}: bbox must be {BOX_WORDS}, got {bbox}'
        faults.add('annotations', index, text)


def _find_image_faults(faults: Faults, records: CocoRecords) -> None:
    for index, image in enumerate(records.images):
        height, width = image.height, image.width
        if height and width and 0 < height <= MAX_PIXELS and 0 < width <= MAX_PIXELS:
            continue
        absent = ', '.join(key for key in ('height', 'width') if getattr(image, key) is None)
        sides = f'got {show(height)} and {show(width)}'
        text = f': height and width must be positive numbers up to 1e9, {sides}'
        name = name_image(image.id, image.file_name)
        faults.add('images', index, f'{name} lacks {absent}' if absent else name + text)
    names = [image.file_name or '' for image in records.images]
    all_valid = all(names) and can_be_path(''.join(names))  # of all at once, which is fast
    for index, image in enumerate([] if all_valid else records.images):
        if not image.file_name or not can_be_path(image.file_name):
            text = f': file_name must name a file, got {show(image.file_name)}'
            text = ' lacks file_name' if image.file_name is None else text
            faults.add('images', index, name_image(image.id) + text)
    _find_repeated(faults, 'images', [image.id for image in records.images])


def _find_repeated(faults: Faults, section: str, ids: Sequence[Any] | np.ndarray) -> None:
    """Add ids that an earlier entry has; None means no id in `annotations`."""
    if isinstance(ids, np.ndarray):
        if np.diff(np.sort(ids)).all():
            return
        ids = ids.tolist()
    counts, seen = Counter(ids), set()
    kind = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}[section]
    for index, id_ in enumerate(ids):
        if id_ in seen and (id_ is not None or section != 'annotations'):
            times = 'twice' if counts[id_] == 2 else f'{counts[id_]} times'
            text = f'{kind} id {show(id_)} is used {times}, again by {section}[{index}]'
            faults.add(section, index, text)
        seen.add(id_)

"""Reads a COCO annotation file and says what is wrong with it, before anything is trained on it.

What stops a run, as a ValueError with the ids, and what does not:

| in the file | what happens |
|---|---|
| empty, cut short, not UTF-8, nested too deeply, no object with the lists `images` ... | error |
| an entry that is no object, lacks a key, or has a wrong type (`"3"`, `true` in a box) | error |
| an id used twice, or of an image or category that there is not (`1` is not `"1"`) | error |
| height or width not above 0, NaN, infinity or more than 1e9 in a box | error |
| a file name that leads out of the image folder | error, unless `allow_outside=True` |
| ids of any type but objects and lists, as large as may be; none for annotations | taken |
| no `area`: width x height; no `iscrowd` or `ignore`: 0 | filled in |
| a box outside of its image, thinner than a pixel, without area | left out, warning with ids |
| a box partly outside of its image | kept as it is, counted |
| a box of a class that is not asked for | left out, counted |
| an image without boxes | kept, counted; left out in training with `filter_empty_gt=True` |
| an image smaller than `min_size` | left out in training, counted |
| no image left | error with the filters and counts |
| `annotations`, and with them `categories`, absent | error, unless `test_mode=True` |

MMDetection uses the same images and boxes; what is an error here ends there in an assert, a
KeyError, or silence. `tools/check_dataset.py` finds all of it at once.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
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

_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

# Read ahead, for the next reader of the file, by path, time stamp, size and how it was checked.
_kept: dict[tuple, CocoRecords] = {}


def read_coco(
    ann_file: str,
    backend_args: dict | None = None,
    *,
    need_annotations: bool = True,
    keep: bool = False,
) -> CocoRecords:
    """Read a COCO annotation file and check all that does not depend on the classes asked for.

    Args:
        ann_file: path or URL of the JSON file.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
        need_annotations: False lets `annotations` be absent, as in the files that come with test
            images, and then `categories` too.
        keep: a local file is not read again the next time; then it is given away and no longer
            kept.

    Returns:
        Images and categories with ids of their own; images with `file_name` and positive `height`
        and `width`; annotations with ids of their own or none, of images and categories that there
        are, and with a `bbox` of four numbers up to 1e9.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (line and column), not COCO, or has broken entries (their ids).
    """
    key = (*_fingerprint(ann_file), need_annotations)
    records = _kept.pop(key, None)
    if records is None:
        try:
            records = read_records(ann_file, backend_args)
        except _NO_FILE:
            raise _explain_no_file(ann_file) from None
        _check_records(records, ann_file, need_annotations)
    if keep and len(key) > 1:
        _kept[key] = records
    return records


def _fingerprint(ann_file: str) -> tuple:
    """Tell one content of a local file from another; empty for what is not on a local disk."""
    try:
        status = os.stat(ann_file)
    except OSError:
        return ()
    return os.path.realpath(ann_file), status.st_mtime_ns, status.st_size


def read_coco_json(
    ann_file: str, backend_args: dict | None = None, need_annotations: bool = True
) -> tuple[CocoRecords, dict[str, Any]]:
    """Read and check as `read_coco` does, and also return all there is in the file, polygons too.

    This takes ten times the time and memory.
    """
    data = load_json(ann_file, backend_args)
    records = convert_records(data, ann_file)
    _check_records(records, ann_file, need_annotations)
    return records, {'annotations': [], 'categories': []} | data


def load_json(ann_file: str, backend_args: dict | None = None) -> Any:
    """Return what is in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON; the message has line and column.
    """
    try:
        with explain_json(ann_file):
            return json.loads(fileio.get(ann_file, backend_args=backend_args))
    except _NO_FILE:
        raise _explain_no_file(ann_file) from None


def _explain_no_file(ann_file: str) -> FileNotFoundError:
    return FileNotFoundError(
        f'no annotation file at {str(ann_file)!r}: check the keys data_root and ann_file of '
        'the dataset (or of the evaluator) in the config'
    )


def _check_records(records: CocoRecords, ann_file: str, need_annotations: bool) -> None:
    """Raise a ValueError for what the types of the entries do not tell."""
    for section, there in (
        ('annotations', records.annotated or not need_annotations),
        ('categories', records.categorised or not (need_annotations or records.annotated)),
    ):
        if not there:
            raise ValueError(
                f'{ann_file}: expected a COCO file, an object with the lists images, annotations, '
                f'categories; {section!r} is missing'
            )
    faults = Faults()
    find_record_faults(faults, records)
    faults.raise_any(ann_file)


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
        text = f'{annotations.name(index)}: bbox must be {BOX_WORDS}, got {bbox}'
        faults.add('annotations', index, text)


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
        faults.add('images', index, name_image(image.id, image.file_name) + text)
    if not all(names) or not can_be_path(''.join(filter(None, names))):
        for index, image in enumerate(images):
            name = name_image(image.id)
            if image.file_name is None:
                faults.add('images', index, f'{name} lacks file_name')
            elif not image.file_name or not can_be_path(image.file_name):
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

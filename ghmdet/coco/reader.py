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
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from mmengine import fileio

from ghmdet.coco.faults import Faults, find_record_faults
from ghmdet.coco.json_errors import explain_json
from ghmdet.coco.records import CategoryRecord, CocoRecords, Id, convert_records, read_records

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


def match_classes(
    classes: Sequence[str], categories: Sequence[CategoryRecord], ann_file: str
) -> list[Id]:
    """Find the category id of each class, in the order of the classes.

    This order is what makes a label mean the class at its place in `metainfo.classes`. MMDetection
    returns the ids in the order of the file, which swaps names as soon as the two orders differ.

    Raises:
        ValueError: a class is not among the categories, or two categories bear its name.

    Example:
        >>> categories = [CategoryRecord(7, 'dog'), CategoryRecord(3, 'cat')]
        >>> match_classes(('cat', 'dog'), categories, 'train.json')
        [3, 7]
    """
    ids: dict[str, list[Id]] = {}
    for category in categories:
        ids.setdefault(category.name, []).append(category.id)
    missing = [name for name in classes if name not in ids]
    if missing:
        hints = ', '.join(_suggest_name(name, ids) for name in missing[:10])
        more = f' and {len(missing) - 10} more' if len(missing) > 10 else ''
        raise ValueError(
            f'{ann_file}: of the {len(classes)} classes in metainfo.classes, {len(missing)} are '
            f'not in the file: {hints}{more}. Its categories are {_shorten(list(ids), 100)}. Set '
            'metainfo=dict(classes=(...)) of every dataset in the config to these names (without '
            "it the 80 COCO classes hold), and the head's num_classes to their number"
        )
    repeated = {name: ids[name] for name in classes if len(ids[name]) > 1}
    if repeated:
        raise ValueError(
            f'{ann_file}: expected one category per class, got several ids for {repeated}; rename '
            'or merge these categories in the file'
        )
    return [ids[name][0] for name in classes]


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


def _suggest_name(name: str, known: Iterable[str]) -> str:
    by_lower = {other.lower(): other for other in known}
    close = get_close_matches(str(name).lower(), by_lower, n=1)
    return f'{name!r} (did you mean {by_lower[close[0]]!r}?)' if close else repr(name)


def _shorten(items: Sequence[str], limit: int) -> str:
    more = f', and {len(items) - limit} more' if len(items) > limit else ''
    return ', '.join(items[:limit]) + more

"""Reads a COCO annotation file and says what is wrong with it, before anything is trained on it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from mmengine import fileio

from ghmdet.datasets.coco_records import (
    CategoryRecord,
    CocoRecords,
    Id,
    convert_records,
    read_records,
)

_SECTIONS = ('images', 'annotations', 'categories')
_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def read_coco(
    ann_file: str, backend_args: dict | None = None, *, need_annotations: bool = True
) -> CocoRecords:
    """Read a COCO annotation file and check all that does not depend on the classes asked for.

    Args:
        ann_file: path or URL of the JSON file.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
        need_annotations: False lets `annotations` be absent, as in the files that come with test
            images.

    Returns:
        Images with a unique `id`, `file_name` and positive `height` and `width`, categories, and
        annotations with the `image_id` of one of the images and a `bbox` of four finite numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (line and column), not COCO, or has broken entries (their ids).
    """
    try:
        records = read_records(ann_file, backend_args)
    except _NO_FILE:
        raise _explain_no_file(ann_file) from None
    if records is not None and _is_sound(records, need_annotations):
        return records
    return convert_records(read_coco_json(ann_file, backend_args, need_annotations), ann_file)


def read_coco_json(
    ann_file: str, backend_args: dict | None = None, need_annotations: bool = True
) -> dict[str, Any]:
    """Read and check as `read_coco` does, and return all there is in the file, polygons too.

    This takes ten times the time and memory.
    """
    data = _read_json(ann_file, backend_args)
    if isinstance(data, dict) and not need_annotations:
        data.setdefault('annotations', [])
    for key in _SECTIONS:
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            came = f'the keys {sorted(data)}' if isinstance(data, dict) else type(data).__name__
            raise ValueError(
                f'{ann_file}: expected a COCO file, an object with the lists '
                f'{", ".join(_SECTIONS)}; {key!r} is missing or no list, got {came}'
            )
    _raise_faults(ann_file, _find_image_faults(data['images']))
    _raise_faults(ann_file, _find_category_faults(data['categories']))
    image_ids = {image['id'] for image in data['images']}
    _raise_faults(ann_file, _find_annotation_faults(data['annotations'], image_ids))
    return data


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


def _read_json(ann_file: str, backend_args: dict | None) -> Any:
    try:
        return json.loads(fileio.get(ann_file, backend_args=backend_args))
    except _NO_FILE:
        raise _explain_no_file(ann_file) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{ann_file}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; '
            'was the file cut short while it was written or copied?'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{ann_file}: expected a JSON text file, got bytes: {error}') from error


def _explain_no_file(ann_file: str) -> FileNotFoundError:
    return FileNotFoundError(
        f'no annotation file at {str(ann_file)!r}: check the keys data_root and ann_file of '
        'the dataset (or of the evaluator) in the config'
    )


def _is_sound(records: CocoRecords, need_annotations: bool) -> bool:
    """Tell whether the checks of `read_coco_json` would find no fault."""
    index_of = {image.id: index for index, image in enumerate(records.images)}
    return (
        (records.annotated or not need_annotations)
        and len(index_of) == len(records.images)
        and all(i.file_name is not None and i.height > 0 < i.width for i in records.images)
        and bool((records.annotations.find_images(index_of) >= 0).all())
    )


def _find_image_faults(images: Iterable[Any]) -> Iterable[str]:
    seen = set()
    for index, image in enumerate(images):
        absent = _list_absent(image, ('id', 'file_name', 'height', 'width'))
        if absent:
            yield f'images[{index}] lacks {absent}'
            continue
        if not _is_id(image['id']):
            yield f'images[{index}]: id must be a number or a str, got {image["id"]!r}'
            continue
        if not isinstance(image['file_name'], str):
            yield f'image id {image["id"]!r}: file_name must be a str, got {image["file_name"]!r}'
        if not all(_is_number(image[key]) and image[key] > 0 for key in ('height', 'width')):
            yield (
                f'image id {image["id"]!r} ({image["file_name"]}): height and width must be '
                f'positive numbers, got {image["height"]!r} and {image["width"]!r}'
            )
        if image['id'] in seen:
            yield f'image id {image["id"]!r} ({image["file_name"]}) is used twice'
        seen.add(image['id'])


def _find_category_faults(categories: Iterable[Any]) -> Iterable[str]:
    for index, category in enumerate(categories):
        absent = _list_absent(category, ('id', 'name'))
        if absent:
            yield f'categories[{index}] lacks {absent}'
        elif not _is_id(category['id']):
            yield f'categories[{index}]: id must be a number or a str, got {category["id"]!r}'
        elif not isinstance(category['name'], str):
            yield f'category id {category["id"]!r}: name must be a str, got {category["name"]!r}'


def _find_annotation_faults(annotations: Iterable[Any], image_ids: set) -> Iterable[str]:
    for index, ann in enumerate(annotations):
        absent = _list_absent(ann, ('image_id', 'category_id', 'bbox'))
        if absent:
            known = ann.get('id') if isinstance(ann, dict) else None
            yield f'annotations[{index}] (id {known!r}) lacks {absent}'
            continue
        wrong = [key for key in ('image_id', 'category_id') if not _is_id(ann[key])]
        if wrong:
            yield (
                f'annotation id {ann.get("id")!r}: {wrong[0]} must be a number or a str, '
                f'got {ann[wrong[0]]!r}'
            )
            continue
        bbox, area = ann['bbox'], ann.get('area')
        if ann['image_id'] not in image_ids:
            yield f'annotation id {ann.get("id")!r}: no image has its image_id {ann["image_id"]!r}'
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_number, bbox))):
            yield (
                f'annotation id {ann.get("id")!r}: bbox must be four finite numbers '
                f'[x, y, width, height], got {bbox!r}'
            )
        if area is not None and not _is_number(area):
            yield f'annotation id {ann.get("id")!r}: area must be a finite number, got {area!r}'


def _raise_faults(ann_file: str, faults: Iterable[str]) -> None:
    found = list(faults)
    if found:
        raise ValueError(
            f'{ann_file}: {len(found)} broken entries: {_shorten(found, 5, "; ")}. Correct them in '
            'the file'
        )


def _list_absent(entry: Any, keys: Sequence[str]) -> str:
    given = entry if isinstance(entry, dict) else {}
    return ', '.join(key for key in keys if key not in given)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -math.inf < value < math.inf


def _is_id(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)


def _suggest_name(name: str, known: Iterable[str]) -> str:
    by_lower = {other.lower(): other for other in known}
    close = get_close_matches(str(name).lower(), by_lower, n=1)
    return f'{name!r} (did you mean {by_lower[close[0]]!r}?)' if close else repr(name)


def _shorten(items: Sequence[str], limit: int, separator: str = ', ') -> str:
    more = f'{separator}and {len(items) - limit} more' if len(items) > limit else ''
    return separator.join(items[:limit]) + more

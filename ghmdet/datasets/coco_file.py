"""Reads a COCO annotation file and says what is wrong with it, before anything is trained on it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from mmengine import fileio

_SECTIONS = ('images', 'annotations', 'categories')


def read_coco(
    ann_file: str, backend_args: dict | None = None, *, need_annotations: bool = True
) -> dict[str, Any]:
    """Read a COCO annotation file and check all that does not depend on the classes asked for.

    Args:
        ann_file: path or URL of the JSON file.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
        need_annotations: False lets `annotations` be absent (it becomes an empty list), as in the
            files that come with test images.

    Returns:
        The JSON object. Each of `images` has a unique `id`, `file_name` and positive `height` and
        `width`; each of `categories` has `id` and `name`; each of `annotations` has the `image_id`
        of one of the images, a `category_id` and a `bbox` of four finite numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (line and column), not COCO, or has broken entries (their ids).
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
    classes: Sequence[str], categories: Sequence[dict[str, Any]], ann_file: str
) -> list[int]:
    """Find the category id of each class, in the order of the classes.

    This order is what makes a label mean the class at its place in `metainfo.classes`. MMDetection
    returns the ids in the order of the file, which swaps names as soon as the two orders differ.

    Raises:
        ValueError: a class is not among the categories, or two categories bear its name.

    Example:
        >>> categories = [dict(id=7, name='dog'), dict(id=3, name='cat')]
        >>> match_classes(('cat', 'dog'), categories, 'train.json')
        [3, 7]
    """
    ids: dict[str, list[int]] = {}
    for category in categories:
        ids.setdefault(category['name'], []).append(category['id'])
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
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(
            f'no annotation file at {str(ann_file)!r}: check the keys data_root and ann_file of '
            'the dataset (or of the evaluator) in the config'
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{ann_file}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; '
            'was the file cut short while it was written or copied?'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{ann_file}: expected a JSON text file, got bytes: {error}') from error


def _find_image_faults(images: Iterable[Any]) -> Iterable[str]:
    seen = set()
    for index, image in enumerate(images):
        absent = _list_absent(image, ('id', 'file_name', 'height', 'width'))
        if absent:
            yield f'images[{index}] lacks {absent}'
            continue
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
        elif not isinstance(category['name'], str):
            yield f'category id {category["id"]!r}: name must be a str, got {category["name"]!r}'


def _find_annotation_faults(annotations: Iterable[Any], image_ids: set) -> Iterable[str]:
    for index, ann in enumerate(annotations):
        absent = _list_absent(ann, ('image_id', 'category_id', 'bbox'))
        if absent:
            known = ann.get('id') if isinstance(ann, dict) else None
            yield f'annotations[{index}] (id {known!r}) lacks {absent}'
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
    return isinstance(value, (int, float)) and math.isfinite(value)


def _suggest_name(name: str, known: Iterable[str]) -> str:
    by_lower = {other.lower(): other for other in known}
    close = get_close_matches(str(name).lower(), by_lower, n=1)
    return f'{name!r} (did you mean {by_lower[close[0]]!r}?)' if close else repr(name)


def _shorten(items: Sequence[str], limit: int, separator: str = ', ') -> str:
    more = f'{separator}and {len(items) - limit} more' if len(items) > limit else ''
    return separator.join(items[:limit]) + more

"""LabelMe: a JSON file of shapes per image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export_records import (
    Box,
    Export,
    Image,
    find_split,
    list_files,
    load_all,
    read_name,
    show_progress,
)
from image_finder import ImageFinder, find_images
from shapes_to_boxes import Corners, polygon_box

from ghmdet.messages import shorten

NAME = 'LabelMe'
_CONVERTED = {
    'polygon': 'polygons',
    'circle': 'circles',
    'mask': 'masks',
    'rotation': 'rotated boxes',  # of X-AnyLabeling
}
_SKIPPED = ('point', 'points', 'line', 'linestrip')


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    of_format = [_is_labelme(data) for _, data in load_all(source)]
    count = sum(of_format)
    return f'{count} of {len(of_format)} .json files have `shapes` and `imagePath`' if count else ''


def read(source: Path, images: Path | None) -> Export:
    """Read LabelMe files; shapes of one label and `group_id` are parts of one object.

    Raises:
        ValueError: there is none.
        FileNotFoundError: there is no image.
    """
    export, files = Export(NAME), list_files(source, '.json')
    try:
        finder = find_images(source, images)
    except FileNotFoundError as error:
        inside = 'images that are only inside of the files are written by labelme_export_json'
        raise FileNotFoundError(f'{error}; {inside}') from None
    base, others, count = source if source.is_dir() else source.parent, 0, 0
    # One at a time: they may contain their images.
    for file, data in show_progress(load_all(source, export), NAME, len(files)):
        if _is_labelme(data):
            count += 1
            _read_file(export, file, data, finder, find_split(file.relative_to(base).parent))
        else:
            others += 1
    if others:
        print(f'{others} other .json files have no `shapes` and `imagePath`, and are not read')
    if not count:
        raise ValueError(f'{source}: no .json file with `shapes` and `imagePath`')
    if without := len(set(finder.paths) - {image.path for image in export.images}):
        print(f'{without} images have no .json file, and are left out')
    return export


def _is_labelme(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get('shapes'), list) and 'imagePath' in data


def _read_file(export: Export, file: Path, data: dict, finder: ImageFinder, split: str) -> None:
    export.num_boxes += len(data['shapes'])
    boxes = [box for _, box in _join_groups(export, _read_shapes(export, file, data['shapes']))]
    names = [name for name in (data['imagePath'], file.stem) if isinstance(name, str) and name]
    path = next(filter(None, (finder.find(name, beside=file.parent) for name in names)), None)
    if path is None:
        inside = ', only inside the file: write it with labelme_export_json'
        problem = f'image {names[0]}: {finder.explain(names[0])}'
        export.report(str(file), problem + (inside if data.get('imageData') else ''), 'images')
        export.lost['boxes'] += len(boxes)
        return
    size = data.get('imageWidth'), data.get('imageHeight')
    known = all(isinstance(side, int) and side > 0 for side in size)
    export.images.append(Image(path, size if known else None, boxes, split))


def _read_shapes(export: Export, file: Path, shapes: list[Any]) -> Iterator[tuple[Any, Box]]:
    """Yield the group of each shape, None if it is in none, and its box."""
    for index, shape in enumerate(shapes):
        place = f'{file}: shape {index}'
        try:
            kind = shape.get('shape_type') or 'polygon'
            if kind in _SKIPPED:
                export.skipped[f'{kind.rstrip("s")}s'] += 1
                continue
            name = read_name(shape['label'])
            corners = _find_box(kind, shape['points'])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problem = f'is no shape of LabelMe ({error}): {shorten(shape)}'
            export.report(place, problem, 'boxes')
            continue
        export.converted.update([_CONVERTED[kind]] if kind in _CONVERTED else [])
        flags = shape.get('flags')
        flags = flags if isinstance(flags, Mapping) else {}
        difficult = bool(flags.get('difficult') or shape.get('difficult'))
        group = shape.get('group_id')
        yield (
            (None if group is None else (name, repr(group))),
            Box(name, corners, difficult, place=place),
        )


def _find_box(kind: str, points: Any) -> Corners:
    pairs = [(float(x), float(y)) for x, y in points]
    if kind == 'circle':
        (cx, cy), edge = pairs
        radius = math.dist((cx, cy), edge)
        return cx - radius, cy - radius, cx + radius, cy + radius
    if kind not in ('rectangle', *_CONVERTED):
        raise ValueError(f'unknown shape_type {kind!r}')
    if len(pairs) < 2:
        raise ValueError(f'{len(pairs)} points')
    return polygon_box(pairs)


def _join_groups(export: Export, shapes: Iterator[tuple[Any, Box]]) -> Iterator[tuple[Any, Box]]:
    """Join the boxes of shapes in one group, as LabelMe's own converter joins their masks."""
    joined: dict[Any, Box] = {}
    for number, (group, box) in enumerate(shapes):
        first = joined.setdefault(number if group is None else group, box)
        if first is not box:
            export.skipped['further parts of an object (equal label and group_id)'] += 1
            (a, b, c, d), (e, f, g, h) = first.corners, box.corners
            first.corners = min(a, e), min(b, f), max(c, g), max(d, h)
            first.ignore |= box.ignore
    yield from joined.items()

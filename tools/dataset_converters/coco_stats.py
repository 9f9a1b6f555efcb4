"""Counts images, boxes and classes of a COCO file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from coco_output import align

from ghmdet.coco.classes import find_classes
from ghmdet.coco.records import CocoRecords

_SMALL, _MEDIUM = 32**2, 96**2


def describe(records: CocoRecords) -> str:
    """Return counts of images and boxes, and a table of the classes.

    small, medium and large are those of COCO's AP_s, AP_m and AP_l: by `area`, or width x height
    where it is absent, below 32 x 32, below 96 x 96, and from there on. Each box is one of them,
    those with `iscrowd` or `ignore`, which have columns of their own too, included.
    """
    columns, names = records.annotations, find_classes(records).categories
    numbers = {name: number for number, name in enumerate(names)}
    labels = columns.find_categories({c.id: numbers[c.name] for c in records.categories})
    index_of = {image.id: index for index, image in enumerate(records.images)}
    images = columns.find_images(index_of)
    x, y, w, h = columns.bbox.T
    areas = np.where(np.isnan(columns.area), w * h, columns.area)
    num_images = len(records.images)
    pairs = np.unique(labels * num_images + images)

    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(labels[mask], minlength=len(names))

    with_boxes = len(np.unique(images))
    table = {
        'boxes': count(np.full(len(labels), True)),
        'images': np.bincount(pairs // max(num_images, 1), minlength=len(names)),
        'small': count(areas < _SMALL),
        'medium': count((areas >= _SMALL) & (areas < _MEDIUM)),
        'large': count(areas >= _MEDIUM),
        'iscrowd': count(columns.is_crowd),
        'ignore': count(columns.is_ignored),
    }
    rows = [['', *table]]
    rows += [[name, *(str(c[i]) for c in table.values())] for i, name in enumerate(names)]
    totals = {title: int(counts.sum()) for title, counts in table.items()} | {'images': with_boxes}
    rows.append(['all', *map(str, totals.values())])
    sizes = np.array([(i.width, i.height) for i in records.images], float).reshape(-1, 2)
    beyond = (x < 0) | (y < 0) | (np.stack([x + w, y + h], axis=1) > sizes[images] + 0.5).any(1)
    per_image = np.bincount(images, minlength=1)
    lines = [
        f'images: {num_images}, of which {num_images - with_boxes} have no box',
        f'width: {_describe_range(sizes[:, 0])}, height: {_describe_range(sizes[:, 1])}',
        f'boxes: {len(labels)}, {len(labels) / max(num_images, 1):.1f} per image, at most '
        f'{per_image.max()}',
        align(rows),
    ]
    for mask, text in (
        ((w <= 0) | (h <= 0), 'boxes have no width or height'),
        (beyond, 'boxes reach beyond their image'),
    ):
        if mask.any():
            lines.append(f'{mask.sum()} {text}')
    return '\n'.join(lines)


def _describe_range(sides: Sequence[float] | np.ndarray) -> str:
    return f'{min(sides):g} to {max(sides):g}' if len(sides) else 'none'

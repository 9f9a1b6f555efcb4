"""How good a detector is in each image and in each class, counted from the matches."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from ghmdet.evaluation.coco_annotations import CocoAnnotations
from ghmdet.evaluation.matching import Matches

CLASS_COLUMNS = 'class', 'objects', 'found', 'missed', 'detections', 'false_positives'


class ImageScore(NamedTuple):
    """What an image has; `f1` is in [0, 1]."""

    rank: int  # from 1, the worst
    image_id: Hashable
    file_name: str | None
    f1: float
    objects: int
    found: int
    missed: int
    detections: int
    false_positives: int


def score_images(matches: Matches, truth: CocoAnnotations) -> list[ImageScore]:
    """Return all images, the worst first; equal ones in the order of the annotation file."""
    found, objects = matches.detections, matches.objects
    size = len(matches.image_ids)
    totals, hits, false = (
        np.bincount(images, minlength=size)
        for images in (
            objects.image[~objects.ignored],
            found.image[found.is_true],
            found.image[found.is_false],
        )
    )
    shown = totals + hits + false
    f1 = np.where(shown > 0, 2 * hits / np.maximum(shown, 1), 1.0)
    order = np.lexsort((-(totals - hits + false), f1)).tolist()
    columns = [column.tolist() for column in (f1, totals, hits, totals - hits, hits + false, false)]
    scores = []
    for rank, index in enumerate(order, 1):
        id_ = matches.image_ids[index]
        values = (column[index] for column in columns)
        scores.append(ImageScore(rank, id_, truth.images[id_].file_name, *values))
    return scores


def count_classes(matches: Matches) -> list[tuple[str, int, int, int, int, int]]:
    """Return the counts of each class, and of all."""
    found, size = matches.detections, len(matches.classes)
    totals = matches.count_objects()
    hits, false = (
        np.bincount(found.label[chosen], minlength=size)
        for chosen in (found.is_true, found.is_false)
    )
    table = np.stack([totals, hits, totals - hits, hits + false, false], axis=1)
    names = [*matches.classes, 'all']
    rows = [*table.tolist(), table.sum(axis=0).tolist()]
    return [(name, *row) for name, row in zip(names, rows, strict=True)]

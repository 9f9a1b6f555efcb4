"""Which boxes of a COCO file are used, and why the others are not.

MMDetection leaves out the same boxes, without a word, and those marked `ignore` besides. Here they
are kept as crowd regions are: not to be learnt, and for the assigner's `ignore_iof_thr` to see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from ghmdet.coco.records import AnnotationColumns, CocoRecords

# Only the first that holds for a box is counted. The first is what somebody asked for.
REASONS = (
    'of other classes',
    'without width or height',
    'outside the image',
    'thinner than a pixel',
    'with an area of 0 or less',
)
DEFECTS = REASONS[1:]
# Boxes rounded by COCO's own tools exceed the image by less.
_MARGIN = 1


@dataclass(eq=False)
class BoxCheck:
    """The verdict on each annotation of a file.

    Args:
        annotations: the n annotations.
        owner: int64 (n,), the place of its image.
        label: int64 (n,), -1 for classes that are not wanted.
        reason: uint8 (n,), place in `REASONS` or, for those that are used, their number.
        beyond: bool (n,), used though more than a pixel of it is beyond the image.
    """

    annotations: AnnotationColumns
    owner: np.ndarray
    label: np.ndarray
    reason: np.ndarray
    beyond: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """The places of the used annotations."""
        return np.flatnonzero(self.reason == len(REASONS))

    def list_places(self, reason: str) -> np.ndarray:
        """Return the places of the annotations left out for one of `REASONS`."""
        return np.flatnonzero(self.reason == REASONS.index(reason))

    def count_dropped(self) -> Counter[str]:
        """Count by reason; reasons that do not occur are absent."""
        counts = np.bincount(self.reason, minlength=len(REASONS)).tolist()
        return Counter({name: n for name, n in zip(REASONS, counts, strict=False) if n})

    def describe(self, index: int) -> str:
        """Name an annotation and its box for a message."""
        box = ', '.join(f'{value:g}' for value in self.annotations.bbox[index].tolist())
        return f'{self.annotations.name(index)}: [{box}]'

    def describe_defects(self, limit: int = 5) -> str:
        """Name the first boxes of each of `DEFECTS` that occurs; empty if there are none."""
        texts = []
        for reason in DEFECTS:
            places = self.list_places(reason)
            if len(places):
                named = '; '.join(map(self.describe, places[:limit].tolist()))
                more = f'; and {len(places) - limit:,} more' if len(places) > limit else ''
                texts.append(f'{len(places):,} {reason} ({named}{more})')
        return ', '.join(texts)


def check_boxes(records: CocoRecords, label_of: Mapping[Any, int]) -> BoxCheck:
    """Judge each annotation.

    Args:
        records: the file, in which each annotation has its image.
        label_of: the label of each category id that is wanted.
    """
    annotations = records.annotations
    owner = annotations.find_images({image.id: i for i, image in enumerate(records.images)})
    label = annotations.find_categories(label_of)
    image_w, image_h = (
        np.fromiter(map(attrgetter(side), records.images), np.float64, len(records.images))[owner]
        for side in ('width', 'height')
    )
    x, y, w, h = np.ascontiguousarray(annotations.bbox.T)
    right, bottom = x + w, y + h
    area = np.where(np.isnan(annotations.area), w * h, annotations.area)
    # MMDetection asks whether image and box overlap, which a box without width or height does not.
    outside = (np.minimum(right, image_w) <= np.maximum(x, 0)) | (
        np.minimum(bottom, image_h) <= np.maximum(y, 0)
    )
    found = [
        label < 0,
        (w <= 0) | (h <= 0),
        outside,
        (w < 1) | (h < 1),
        area <= 0,
    ]
    reason = np.full(len(annotations), len(found), np.uint8)
    for number, holds in reversed(list(enumerate(found))):
        reason[holds] = number
    beyond = (reason == len(REASONS)) & (
        (np.minimum(x, y) < -_MARGIN) | (right > image_w + _MARGIN) | (bottom > image_h + _MARGIN)
    )
    return BoxCheck(annotations, owner, label, reason, beyond)

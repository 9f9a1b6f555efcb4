"""Which boxes of a COCO file are used, and how many are not for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass
class CocoCounts:
    """How many images and boxes of a file are used, and how many are not for which reason.

    Args:
        images: images of the file.
        used: of them used.
        empty: left out by `filter_empty_gt`.
        small: left out by `min_size`.
        without_boxes: used though they have no box.
        boxes: used boxes, without regions to ignore.
        crowds: regions to ignore: crowds, and boxes marked `ignore`.
        elsewhere: usable boxes and regions of images that are left out.
        dropped: boxes left out, by reason.
        beyond: used boxes more than a pixel of which is beyond the image.
    """

    images: int = 0
    used: int = 0
    empty: int = 0
    small: int = 0
    without_boxes: int = 0
    boxes: int = 0
    crowds: int = 0
    elsewhere: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    beyond: int = 0

    def describe(self, filter_empty_gt: bool, min_size: float) -> str:
        """Return the line, with the filters that were on.

        Example:
            >>> CocoCounts(3, 2, 1, boxes=7, dropped={'outside the image': 1}).describe(True, 0)
            '3 images, 2 used; dropped: 1 without objects of the classes \
(filter_cfg.filter_empty_gt=True). 8 boxes, 7 used; dropped: 1 outside the image'
        """
        used = f'{self.used:,} used'
        if self.without_boxes:
            used += f' ({self.without_boxes:,} without boxes)'
        images = []
        if filter_empty_gt:
            rule = 'filter_cfg.filter_empty_gt=True'
            images.append(f'{self.empty:,} without objects of the classes ({rule})')
        if min_size:
            rule = f'filter_cfg.min_size={min_size}'
            images.append(f'{self.small:,} smaller ({rule})')
        boxes = [f'{count:,} {reason}' for reason, count in self.dropped.items()]
        if self.elsewhere:
            boxes.append(f'{self.elsewhere:,} of dropped images')
        total = self.boxes + self.crowds + self.elsewhere + sum(self.dropped.values())
        crowds = f' and {self.crowds:,} regions to ignore' if self.crowds else ''
        beyond = f' ({self.beyond:,} of all reach beyond their image)' if self.beyond else ''
        return (
            f'{self.images:,} images, {used}; '
            f'dropped: {", ".join(images) or "none"}. {total:,} boxes, {self.boxes:,} used{crowds}'
            f'{beyond}; dropped: {", ".join(boxes) or "none"}'
        )

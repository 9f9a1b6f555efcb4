"""Which boxes of a COCO file are used, why the others are not, and the counts of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np

from ghmdet.coco.records import AnnotationColumns, CocoRecords
from ghmdet.messages import list_items

# A box is counted under the first one that applies. All but the first are defects of the file.
REASONS = (
    'of other classes',
    'without width or height',
    'outside the image',
    'thinner than a pixel',
    'with an area of 0 or less',
)
DEFECTS = REASONS[1:]

# In pixels; boxes rounded by COCO's own tools exceed the image by less.
_MARGIN = 1


@dataclass(eq=False)
class BoxCheck:
    """Which of the n annotations of a file are used, and why the others are not.

    Args:
        annotations: the annotations.
        owner: int64 (n,), the index of its image.
        label: int64 (n,), -1 for classes that are not used.
        reason: uint8 (n,), index in `REASONS`, or their number for used annotations.
        beyond: bool (n,), used though more than a pixel of the box is outside the image.
    """

    annotations: AnnotationColumns
    owner: np.ndarray
    label: np.ndarray
    reason: np.ndarray
    beyond: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Indices of the used annotations."""
        return np.flatnonzero(self.reason == len(REASONS))

    def indices_of(self, reason: str) -> np.ndarray:
        """Return the indices of the annotations left out for one of `REASONS`."""
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
        """Name the first boxes of each of `DEFECTS` that occurs; '' if there are none."""
        texts = []
        for reason in DEFECTS:
            indices = self.indices_of(reason)
            if len(indices):
                named = map(self.describe, indices[:limit].tolist())
                listed = list_items(named, limit, '; ', total=len(indices))
                texts.append(f'{len(indices):,} {reason} ({listed})')
        return ', '.join(texts)


def check_boxes(records: CocoRecords, label_of: Mapping[Any, int]) -> BoxCheck:
    """Find out which annotations are used.

    Args:
        records: the file; each annotation's image must be in it.
        label_of: the label of each category id that is used.
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
    # As in MMDetection: box and image do not overlap.
    outside = (np.minimum(right, image_w) <= np.maximum(x, 0)) | (
        np.minimum(bottom, image_h) <= np.maximum(y, 0)
    )
    applies = [label < 0, (w <= 0) | (h <= 0), outside, (w < 1) | (h < 1), area <= 0]  # REASONS
    reason = np.select(applies, range(len(applies)), len(applies)).astype(np.uint8)
    beyond = (reason == len(REASONS)) & (
        (np.minimum(x, y) < -_MARGIN) | (right > image_w + _MARGIN) | (bottom > image_h + _MARGIN)
    )
    return BoxCheck(annotations, owner, label, reason, beyond)


@dataclass
class CocoCounts:
    """How many images and boxes of a file are used, and how many are left out for which reason.

    Args:
        images: all images of the file.
        used: used images.
        empty: images left out by `filter_empty_gt`.
        small: images left out by `min_size`.
        without_boxes: used images that have no box.
        boxes: used boxes, without regions to ignore.
        crowds: used regions to ignore: crowds, and boxes marked `ignore`.
        elsewhere: usable boxes and regions of images that are left out.
        dropped: boxes left out, by reason.
        beyond: used boxes of which more than a pixel is outside the image.
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
        """Return one line of text, with the filters that were set.

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

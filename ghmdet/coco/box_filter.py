"""Which boxes of a COCO file are used, why the others are not, and the counts of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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
# Boxes that training leaves out as MMDetection does, but a detection can match.
ONLY_TESTED = REASONS[3:]

_ADVICE = {
    'of other classes': 'their classes ({others}) are not in metainfo.classes: name these there, '
    'or take another file',
    'without width or height': 'their width or height is 0 or negative: bbox must be x, y, width, '
    'height, not two corners; remove placeholders, an image without objects needs no annotation',
    'outside the image': 'they are outside their images: bbox must be x, y, width, height in '
    'pixels, and width and height of the images those of the files (not swapped, not resized)',
    'thinner than a pixel': 'they are thinner than a pixel: bbox must be in pixels',
    'normalised': 'their coordinates look normalised (none is above 1): multiply x and width by '
    "the image's width, y and height by its height",
    'with an area of 0 or less': "the key 'area' is 0 or negative, as some converters write it: "
    'write width x height, or remove the key',
    'crowd': 'they are crowd regions (iscrowd=1), as some tools export every mask: set iscrowd to '
    '0 for single objects',
    'ignore': "they are marked to be ignored: set the key 'ignore' to 0 (in XML 'difficult') "
    'for objects to learn; of a VOCDataset, lower filter_cfg.bbox_min_size',
}

# In pixels; boxes rounded by COCO's own tools exceed the image by less.
_MARGIN = 1


@dataclass(eq=False)
class BoxCheck:
    """Which of the n annotations of a file are used, and why the others are not."""

    annotations: AnnotationColumns
    owner: np.ndarray  # int64 (n,), the index of its image
    label: np.ndarray  # int64 (n,), -1 for classes that are not used
    reason: np.ndarray  # uint8 (n,), index in `REASONS`, or their number where none applies
    beyond: np.ndarray  # bool (n,), used though more than a pixel of the box is outside the image
    test_mode: bool = False  # whether those of `ONLY_TESTED` are used

    @property
    def dropped_for(self) -> tuple[str, ...]:
        """The reasons for which boxes are left out."""
        return REASONS[: -len(ONLY_TESTED)] if self.test_mode else REASONS

    @property
    def used(self) -> np.ndarray:
        """Indices of the used annotations."""
        return np.flatnonzero(self.reason >= len(self.dropped_for))

    def indices_of(self, reason: str) -> np.ndarray:
        """Return the indices of the annotations to which one of `REASONS` applies."""
        return np.flatnonzero(self.reason == REASONS.index(reason))

    def count_dropped(self) -> Counter[str]:
        """Count those left out by reason; reasons that do not occur are absent."""
        counts = np.bincount(self.reason, minlength=len(REASONS)).tolist()
        return Counter({name: n for name, n in zip(self.dropped_for, counts, strict=False) if n})

    def describe(self, index: int) -> str:
        """Name an annotation and its box for a message."""
        box = ', '.join(f'{value:g}' for value in self.annotations.bbox[index].tolist())
        return f'{self.annotations.name(index)}: [{box}]'

    def describe_defects(self) -> str:
        """Name the first boxes left out for each of `DEFECTS`; '' if there are none."""
        texts = []
        for reason in self.dropped_for[1:]:
            if total := len(indices := self.indices_of(reason)):
                named = map(self.describe, indices[:5].tolist())
                texts.append(f'{total:,} {reason} ({list_items(named, 5, "; ", total)})')
        return ', '.join(texts)

    def explain(self, names: Mapping[Any, str]) -> str:
        """Say why no object is used and what to do; '' if one is used. `names` are by id."""
        annotations, ours = self.annotations, self.label >= 0
        if not len(annotations):
            return 'the file has no annotations'
        if _look_normalised(annotations.bbox[ours]):
            counts = Counter(normalised=int(ours.sum()))
        else:
            counts = self.count_dropped()
            crowd, ignore = annotations.is_crowd[self.used], annotations.is_ignored[self.used]
            if not (crowd | ignore).all():
                return ''
            counts['crowd'], counts['ignore'] = int(crowd.sum()), int((ignore & ~crowd).sum())
            if ours.any():
                del counts[REASONS[0]]
        (reason, number), *_ = counts.most_common()
        others = list_items(names.get(id_, id_) for id_ in annotations.category_ids)
        return (
            f'{number:,} of {len(annotations):,} boxes cannot be '
            f'{"measured" if self.test_mode else "learnt"}: '
            f'{_ADVICE[reason].format(others=others)}'
        )


def check_boxes(
    records: CocoRecords, label_of: Mapping[Any, int], test_mode: bool = False
) -> BoxCheck:
    """Find out which annotations are used: the one rule of dataset, metric and audit.

    In training as in MMDetection. In a test all boxes of the classes are used that a detection can
    match: width and height are positive, and box and image overlap.

    `label_of` has the label of each category id that is used. An annotation whose image is not in
    the file has the owner -1. Where an image has no size, only boxes left of or above it are
    outside.
    """
    annotations, images = records.annotations, records.images
    owner = annotations.find_images({image.id: i for i, image in enumerate(images)})
    label = annotations.find_categories(label_of)
    # None becomes nan; the last one is for the owner -1.
    sides = [[*(i.width for i in images), None], [*(i.height for i in images), None]]
    sizes_wh = np.array(sides, np.float64)
    image_w, image_h = np.where(sizes_wh > 0, sizes_wh, np.nan)[:, owner]
    x, y, w, h = np.ascontiguousarray(annotations.bbox.T)
    right, bottom = x + w, y + h
    area = np.where(np.isnan(annotations.area), w * h, annotations.area)
    # As in MMDetection: box and image do not overlap.
    outside = (np.fmin(right, image_w) <= np.maximum(x, 0)) | (
        np.fmin(bottom, image_h) <= np.maximum(y, 0)
    )
    thin = (w < 1) | (h < 1) | _look_normalised(annotations.bbox[label >= 0])
    applies = [label < 0, (w <= 0) | (h <= 0), outside, thin, area <= 0]  # REASONS
    reason = np.select(applies, range(len(applies)), len(applies)).astype(np.uint8)
    beyond = (reason == len(REASONS)) & (
        (np.minimum(x, y) < -_MARGIN) | (right > image_w + _MARGIN) | (bottom > image_h + _MARGIN)
    )
    return BoxCheck(annotations, owner, label, reason, beyond, test_mode)


def _look_normalised(bboxes: np.ndarray) -> bool:
    """Whether boxes (n, 4) reach at most 1 to the right and down, so that none is of an object."""
    return bool(len(bboxes)) and 0 < bboxes.max() <= 1


@dataclass
class CocoCounts:
    """How many images and boxes of a file are used, and how many are left out for which reason."""

    images: int = 0  # of the file
    used: int = 0
    empty: int = 0  # images left out by `filter_empty_gt`
    small: int = 0  # images left out by `min_size`
    without_boxes: int = 0  # used images that have none
    boxes: int = 0  # used ones, without regions to ignore
    crowds: int = 0  # used regions to ignore: crowds, and boxes marked `ignore`
    elsewhere: int = 0  # usable boxes and regions of images that are left out
    dropped: Mapping[str, int] = field(default_factory=dict)  # boxes left out, by reason
    beyond: int = 0  # used boxes of which more than a pixel is outside the image

    def describe(self, filter_empty_gt: bool, min_size: float) -> str:
        """Return one line of text, with the filters that were set."""
        images = []
        if filter_empty_gt:
            rule = 'filter_cfg.filter_empty_gt=True'
            images.append(f'{self.empty:,} without objects of the classes ({rule})')
        if min_size:
            images.append(f'{self.small:,} smaller (filter_cfg.min_size={min_size})')
        boxes = [f'{count:,} {reason}' for reason, count in self.dropped.items()]
        if self.elsewhere:
            boxes.append(f'{self.elsewhere:,} of dropped images')
        total = self.boxes + self.crowds + self.elsewhere + sum(self.dropped.values())
        without = f' ({self.without_boxes:,} without boxes)' if self.without_boxes else ''
        crowds = f' and {self.crowds:,} regions to ignore' if self.crowds else ''
        beyond = f' ({self.beyond:,} of all reach beyond their image)' if self.beyond else ''
        return (
            f'{self.images:,} images, {self.used:,} used{without}; '
            f'dropped: {", ".join(images) or "none"}. {total:,} boxes, {self.boxes:,} used{crowds}'
            f'{beyond}; dropped: {", ".join(boxes) or "none"}'
        )

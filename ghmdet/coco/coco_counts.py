"""Says in one line what became of the images and boxes of a COCO file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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

"""What a reader of a format returns, and how it finds images."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Box:
    """One object of an image."""

    name: str
    """Its class, as the export has it."""
    corners: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the image, as they stand in the export."""
    ignore: bool = False
    """VOC's `difficult`: neither learnt, nor counted as missed."""
    crowd: bool = False
    """A region with many objects: COCO's `iscrowd`, Open Images' `IsGroupOf`."""


@dataclass
class Image:
    """One image and its boxes."""

    path: Path
    """The image file, which exists."""
    size_wh: tuple[int, int] | None = None
    """The size that the export says, None if it says none; `to_coco.py` reads that of the file."""
    boxes: list[Box] = field(default_factory=list)
    split: str = ''
    """'train', 'val' or 'test' where the export says so."""


@dataclass
class Export:
    """What was read from an export."""

    source: str
    """Its format, for messages: 'YOLO'."""
    images: list[Image] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """In the export's order, if it has a list of its own; classes without a box too."""
    num_boxes: int = 0
    """How many boxes (and shapes of other kinds) the files have, those left out included."""
    converted: Counter[str] = field(default_factory=Counter)
    """Shapes that became boxes: 'polygons', 'rotated boxes', 'ellipses'."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Shapes that are no boxes and are left out without being a fault: 'points', 'lines'."""
    lost: Counter[str] = field(default_factory=Counter)
    """'boxes' and 'images' left out since they are broken or missing."""

    def report(self, place: str, problem: str, lost: str = '', count: int = 1) -> None:
        """Print a problem to stderr; `lost` says what is left out: 'boxes' or 'images'.

        `place` is the file, and where in it. `count` is how many are lost.
        """
        if lost:
            self.lost[lost] += count
        print(f'{place}: {problem}', file=sys.stderr)

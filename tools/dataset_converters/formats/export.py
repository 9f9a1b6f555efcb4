"""What a reader of a format returns, and how it finds images."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_T = TypeVar('_T')
_SPLIT = re.compile(
    r'(?:^|.*[_. -])(train|val|test)(?:ing|id|idation)?(?:[_. -]?(?:\d+|images?|set|data))?',
    re.IGNORECASE,
)
_SHORT = 300  # shows no progress bar


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
    place: str = ''
    """The file that has it, and where in it, for messages; '' if the reader does not know."""


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


def find_split(path: Path) -> str:
    """Return 'train', 'val' or 'test' by the name of a file or of the folders above it, else ''.

    Such as `train2017`, `valid`, `instances_val2017` and `Validation`; the innermost counts.
    """
    for name in (path.stem, *path.parts[-2::-1]):
        if match := _SPLIT.fullmatch(name):
            return match[1].lower()
    return ''


def show_progress(items: Sequence[_T], what: str) -> Iterator[_T]:
    """Yield the items, with a progress bar and the remaining time on stderr if there are many."""
    console = Console(stderr=True)
    yield from track(items, what, console=console, disable=len(items) < _SHORT)

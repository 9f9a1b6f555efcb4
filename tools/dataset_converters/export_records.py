"""What a reader of a format returns, and how it finds images."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from ghmdet.files import read_text

_T = TypeVar('_T')
_SPLIT = re.compile(
    r'(?:^|.*[_. -])(test|val|train)(?:ing|id|idation)?(?:[_. -]?(?:\d+|images?|set|data))?',
    re.IGNORECASE,
)
_SHORT = 300  # shows no progress bar
_LOOKED_AT = 20  # files of a folder, to recognise a format


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
    reasons: Counter[str] = field(default_factory=Counter)
    """Why boxes in `lost` are left out: 'degenerate'; those without a reason here are 'broken'."""
    relative: bool = False
    """Whether the coordinates in the files are relative to the image size."""

    def report(self, place: str, problem: str, lost: str = '', count: int = 1) -> None:
        """Print a problem to stderr; `lost` says what is left out: 'boxes' or 'images'.

        `place` is the file, and where in it. `count` is how many are lost.
        """
        if lost:
            self.lost[lost] += count
        print(f'{place}: {problem}', file=sys.stderr)


def find_split(path: Path) -> str:
    """Return 'train', 'val' or 'test' by the names in a path without ending, else ''.

    Such as `train2017`, `valid`, `instances_val2017` and `Validation`; the innermost counts.
    """
    matches = (_SPLIT.fullmatch(name) for name in reversed(path.parts))
    return next((match[1].lower() for match in matches if match), '')


def list_files(source: Path, *suffixes: str) -> list[Path]:
    """List the files with an ending, in any case, in a folder and below; or SOURCE, if it has one.

    Links to folders are followed, each folder once. Names that begin with a dot and the folder
    __MACOSX, which macOS adds, are left out. A folder that cannot be read is an OSError.
    """
    if not source.is_dir():
        return [source] if source.suffix.lower() in suffixes else []
    files, seen = [], set()
    for folder, below, names in os.walk(source, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if name[0] != '.' and name != '__MACOSX')
        if real in seen:
            below[:] = []
            continue
        seen.add(real)
        paths = (Path(folder, name) for name in names if name[0] != '.')
        files += [path for path in paths if path.suffix.lower() in suffixes]
    return sorted(files)


def show_progress(items: Iterable[_T], what: str, total: int | None = None) -> Iterator[_T]:
    """Yield the items, with a progress bar and the remaining time on stderr if there are many.

    `total` says how many, if the items have no length.
    """
    console = Console(stderr=True)
    count = total if total is not None else len(items)  # type: ignore[arg-type]
    yield from track(items, what, count, console=console, disable=count < _SHORT)


def load_all(source: Path, export: Export | None = None) -> Iterator[tuple[Path, Any]]:
    """Yield the .json files of a source and their contents, one by one.

    With `export` a broken file is reported as a lost image; without, only the first files are read.
    """
    for file in list_files(source, '.json')[: _LOOKED_AT if export is None else None]:
        try:
            yield file, json.loads(read_text(file))
        except (ValueError, RecursionError) as error:
            if export is not None:
                problem = str(error).removeprefix(f'{file}: ')
                export.report(str(file), f'is no JSON: {problem}', 'images')


def read_name(value: Any) -> str:
    """Return the name of a class, which may be a number; a ValueError if it is none."""
    name = str(value).strip() if isinstance(value, str | int | float) else ''
    if not name:
        raise ValueError('has no label')
    return name


def _raise(error: OSError) -> None:
    raise error

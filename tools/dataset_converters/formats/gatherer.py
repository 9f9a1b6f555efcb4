"""The images of an export, named by its rows: one image by many of them."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from formats.export import Export, Image, find_split
from formats.images import ImageFinder, image_file, read_size
from formats.shapes_to_boxes import Corners

_ABOUT_LABELS = re.compile(
    r'[-_. ]*(annotations?|labels?|bbox(es)?|boxes|detections?)(?=[-_. ]|$)', re.IGNORECASE
)


class Gatherer:
    """The images of an export, found by the names that many rows have."""

    def __init__(self, export: Export, finder: ImageFinder, source: Path) -> None:
        self.export = export
        self.finder = finder
        self._base = source if source.is_dir() else source.parent
        self._by_name: dict[tuple[Path, str, str], Image | None] = {}
        self._by_path: dict[tuple[Path, Path, str], Image] = {}

    def find(self, name: str, file: Path, split: str = '') -> Image | None:
        """Return the image that a name in a file means; None if there is none.

        It is always the same for a file, but another for each file: two files may have the same
        boxes, which to_coco.py then sees.

        Its split is that given, or that of the file or of a folder, see `split_of`.
        """
        key = file, name, split
        if key not in self._by_name:
            split = split or split_of(file.relative_to(self._base))
            fit = self.finder.find_all(name, beside=file.parent) if name else []
            if len(fit) > 1 and split:
                fit = [path for path in fit if self._split_of_image(path) == split] or fit
            self._by_name[key] = self._add(fit[0], file, split) if len(fit) == 1 else None
        return self._by_name[key]

    def find_or_report(
        self, name: str, file: Path, place: str, num: int, split: str = ''
    ) -> Image | None:
        """As `find`; report an image that is not there, once, and count its `num` boxes as lost."""
        is_new = (file, name, split) not in self._by_name
        image = self.find(name, file, split)
        if image is None:
            self.export.lost['boxes'] += num
            if is_new:
                problem = self.finder.explain(name) if name else 'no image is named'
                self.export.report(f'{place}: {name}', problem, 'images')
        return image

    def print_unused(self) -> None:
        """Say how many images of the folder have not been named."""
        count = len(set(self.finder.paths) - {path for path, _, _ in self._by_path})
        if count:
            print(f'{count} images are in none of the files, and are left out')

    def _add(self, path: Path, file: Path, split: str) -> Image:
        key = path, file, split or self._split_of_image(path)
        if key not in self._by_path:
            self._by_path[key] = Image(path, split=key[2])
            self.export.images.append(self._by_path[key])
        return self._by_path[key]

    def _split_of_image(self, path: Path) -> str:
        folders = (path.relative_to(f) for f in self.finder.folders if path.is_relative_to(f))
        return find_split(next(folders, Path()).parent)


def split_of(path: Path) -> str:
    """Return the split by the name of a table, `train_labels.csv`, or of the folders above it."""
    return find_split(path.parent / _ABOUT_LABELS.sub('', path.stem))


def scale(corners: Corners, image: Image) -> Corners:
    """Return relative corners in pixels of the image."""
    x1, y1, x2, y2 = corners
    w, h = displayed_size(image)
    return x1 * w, y1 * h, x2 * w, y2 * h


def displayed_size(image: Image) -> tuple[int, int]:
    """Return (width, height); (1, 1) if it cannot be read."""
    try:
        return _cached_size(image.path)
    except image_file.ImageError:
        return 1, 1  # to_coco.py reports the image, and leaves it out


_cached_size = lru_cache(maxsize=1 << 16)(read_size)

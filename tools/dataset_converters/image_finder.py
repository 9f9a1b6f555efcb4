"""Finds the image files that the names in an export mean, and reads their sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ghmdet.config.cli import LazyModule
from ghmdet.files import fold_name
from ghmdet.messages import list_items

image_file = LazyModule('ghmdet.datasets.image_file')
image_folder = LazyModule('ghmdet.datasets.image_folder')
not_searched: list[Path] = []
"""Folders with images that are not of the export: what `to_coco.py` writes, as absolute paths."""
_OF_LABELS = ('.xml', '.txt', '.json')


class ImageFinder:
    """The images in folders and below, found by what an export may call them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders))
        self._endings = (*image_folder.SUFFIXES, *_OF_LABELS)
        named = [(folder, path) for folder in self.folders for path in list_images(folder)]
        names = [(path.relative_to(folder).as_posix(), path) for folder, path in named]
        plain = [(self._without_ending(name), path) for name, path in names]
        self._exact = _index(names, plain, str)
        self._alike = _index(names, plain, fold_name)
        self._by_base = _index(names, plain, lambda name: fold_name(PurePosixPath(name).name))
        self._all = {path for _, path in names}
        self.paths = sorted(self._all)
        """All images, as absolute paths."""

    def find(self, name: str, beside: Path | None = None) -> Path | None:
        """Return the image that a name means; None if none or several fit.

        The name may have folders, also those of another computer, of Windows or of a URL, another
        case, another ending or none. The first of these that fits counts: the path below the folder
        `beside`, if given; that below one of the folders; an existing file elsewhere; the longest
        end of the path, of which the file name alone is the shortest.
        """
        found = self.find_all(name, beside)
        return found[0] if len(found) == 1 else None

    def explain(self, name: str) -> str:
        """Say why `find` returns None."""
        found = self.find_all(name)
        if found:
            return f'{len(found)} images fit: {list_items(found, 3)}'
        return f'no image of this name in {list_items(self.folders, 3)}'

    def find_below(self, name: str) -> list[Path]:
        """Return the images whose path below a folder is the name, or nearly; the best alone."""
        plain = self._without_ending(name)
        for index, key in (
            (self._exact, name),
            (self._alike, fold_name(name)),
            (self._exact, plain),
            (self._alike, fold_name(plain)),
        ):
            if key in index:
                return sorted(index[key])
        return []

    def find_all(self, name: str, beside: Path | None = None) -> list[Path]:
        """Return all images that fit a name equally well, see `find`."""
        spellings = list(dict.fromkeys(_list_spellings(name)))
        for text in spellings:
            if beside and (path := Path(os.path.abspath(beside / text))) in self._all:
                return [path]
        for text in spellings:
            if found := self.find_below(text.removeprefix('./')):
                return found
        for text in spellings:
            path = Path(os.path.abspath((beside or Path('/')) / text))
            if (beside or text.startswith('/')) and path.suffix.lower() in image_folder.SUFFIXES:
                with suppress(OSError, ValueError):
                    if path.is_file():
                        return [path]
        for text in spellings:
            if found := self._find_by_end(text):
                return found
        return []

    def _find_by_end(self, text: str) -> list[Path]:
        """Return the images that have the longest end of their path in common with the text."""
        base = PurePosixPath(text).name
        keys = fold_name(base), fold_name(self._without_ending(base))
        candidates = next((self._by_base[key] for key in keys if key in self._by_base), set())
        scores = {path: self._compare_ends(path, text) for path in candidates}
        return sorted(path for path, score in scores.items() if score == max(scores.values()))

    def _compare_ends(self, path: Path, text: str) -> tuple[int, bool]:
        """Return how many folders at the end are alike, and whether the file name is equal."""
        pairs = zip(path.parts[-2::-1], PurePosixPath(text).parts[-2::-1], strict=False)
        count = 0
        for a, b in pairs:
            if fold_name(a) != fold_name(b):
                break
            count += 1
        return count, path.name == PurePosixPath(text).name

    def _without_ending(self, name: str) -> str:
        suffix = PurePosixPath(name).suffix
        return name.removesuffix(suffix) if suffix.lower() in self._endings else name


def _index(
    names: Sequence[tuple[str, Path]],
    plain: Sequence[tuple[str, Path]],
    make_key: Callable[[str], str],
) -> dict[str, set[Path]]:
    """Return the images by name; by that without ending where no image has it as its name."""
    index: dict[str, set[Path]] = {}
    for name, path in names:
        index.setdefault(make_key(name), set()).add(path)
    known = set(index)
    for name, path in plain:
        if (key := make_key(name)) not in known:
            index.setdefault(key, set()).add(path)
    return index


def list_images(folder: Path) -> list[Path]:
    """List the images in a folder and below, sorted; none if it does not exist."""
    with suppress(ValueError, NotADirectoryError):
        paths = [folder / name for name in image_folder.list_images(folder)]
        return [path for path in paths if not any(map(path.is_relative_to, not_searched))]
    return []


def find_images(source: Path, images: Path | None) -> ImageFinder:
    """Return the images in the folder `images`; without it, those beside a source and below.

    If there is no image in the folder of the source, those beside this folder and below it.

    Raises:
        FileNotFoundError: there is none.
    """
    base = Path(os.path.abspath(source if source.is_dir() else source.parent))
    folders = [images] if images else [base, base.parent]
    for number, folder in enumerate(folders):
        if number:
            print(f'no images in {base}: they are searched beside it, in {folder} and below')
        with suppress(*[PermissionError] * number):  # in folders that are none of the export's
            if (finder := ImageFinder([folder])).paths:
                return finder
    advice = 'correct --images' if images else 'name their folder with --images'
    raise FileNotFoundError(f'no images in {list_items(folders)} and below: {advice}')


def read_size(path: Path) -> tuple[int, int]:
    """Read (width, height) as displayed, EXIF applied, from the header.

    Raises:
        ImageError: the file is missing or no image.
    """
    return image_file.read_image_sizes(path)[1]


def _list_spellings(name: str) -> Iterator[str]:
    """Yield the paths that a name may mean, the likeliest first."""
    yield name
    path = name.replace('\\', '/')
    yield path
    if '%' in path:
        yield unquote(path)
    if '?' in path:  # a URL with parameters
        yield unquote(re.sub(r'\?.*', '', path))

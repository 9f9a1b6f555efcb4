"""What a detector reads: files, folders, patterns, lists, URLs, videos, arrays, iterators."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np
from mmengine.fileio.backends import prefix_to_backends
from PIL.Image import Image as PillowImage
from torch import Tensor

from ghmdet.argument_checks import check_integer
from ghmdet.datasets.image_file import ImageError
from ghmdet.datasets.image_folder import SUFFIXES, list_images
from ghmdet.files import explain_look_alike, read_lines
from ghmdet.inference.arrays import check_array, check_channel_order, to_bgr

VIDEO_SUFFIXES = (
    *('.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts'),
    *('.ogv', '.ts', '.webm', '.wmv'),
)
_URL = re.compile(r'[a-z][a-z0-9+.-]*://|file:/', re.IGNORECASE)
_IN_URLS = "%/:=&?~#+!$,;'@()*[]"  # not quoted
_END = object()


class MissingSourceError(ImageError, FileNotFoundError):
    """There is no such file or folder, or nothing fits a pattern."""


class SourceImage(NamedTuple):
    """An image to detect in."""

    name: str  # relative path with `/`; unique in a run but for the frames of a video
    path: str | None  # file or URL that it is read from (of a frame: the video); None for arrays
    frame: int | None = None  # index of the frame in its video, from 0
    image: np.ndarray | None = None  # uint8 (h, w, 3) in BGR; None: to be read from `path`


class _Files(NamedTuple):
    root: str | None  # folder to which the names are relative
    paths: list[str]


def image_name(source: Any) -> str:
    """Return a name for files about one image: a `SourceImage`, or the `Detections` in it."""
    if source.frame is not None:
        return f'{source.name}/{source.frame:06d}.jpg'
    return source.name if source.path is not None else f'{source.name}.jpg'


def iterate(
    inputs: Any,
    *,
    every: int = 1,
    channel_order: str = 'bgr',
    apply_exif: bool = True,
    allow_missing: bool = False,
) -> Iterator[SourceImage]:
    """Return an iterator over the images of one or several sources, in flat memory.

    Names are relative to the folder that contains all sources: a folder, or that of a file or
    pattern. From stdin and iterators they are the paths as given, of URLs host and path, of arrays
    000000, 000001, ... A name that came before gets a number: `1_2.jpg`.

    Args:
        inputs: a source, a list or tuple of sources, or any other iterable, which is read as it is
            used. A source is an image file, a folder (with its subfolders), a pattern of files
            (`*`, `?`, `**`), a video, a URL of an image or video, a file `.txt` with one of these
            per line, '-' for the lines of stdin, an array uint8 (h, w, 3), a tensor uint8
            (3, h, w), or a Pillow image.
        every: of a video, the distance between the frames that are used.
        channel_order: 'bgr' or 'rgb', of arrays and tensors.
        apply_exif: whether Pillow images are turned by their EXIF orientation.
        allow_missing: raise for a file that does not exist when it is reached, not at once.

    Raises:
        MissingSourceError: a file does not exist.
        ImageError: in `next`, which then continues with the next source: an image or video cannot
            be used.
        TypeError, ValueError: an input is none of these.
    """
    check_integer('every', every, 1)
    check_channel_order(channel_order)
    items = _find_all(inputs, channel_order, allow_missing)
    return _Reader(items, every, channel_order, apply_exif)


def count_images(inputs: Any, *, every: int = 1) -> int | None:
    """Count the images of `iterate`; None if only reading them tells: stdin, iterators, streams."""
    items = _find_all(inputs, 'bgr', allow_missing=True)
    if not isinstance(items, list) or any(isinstance(item, str) for item in items):
        return None
    found = [item.paths if isinstance(item, _Files) else [''] for item in items]
    counts = [
        _count_frames(path) if _is_video(path) else every for paths in found for path in paths
    ]
    return None if min(counts, default=0) < 0 else sum(-(-count // every) for count in counts)


def find_kind(source: str | os.PathLike[str]) -> str:
    """Return 'image', 'video', 'folder', 'list', 'pattern' or 'stdin'; of a missing file 'image'.

    Raises:
        ValueError: a URL of a kind that is not read.
    """
    path = _local(source)
    if path == '-':
        return 'stdin'
    if not _URL.match(path):
        if os.path.isdir(path):
            return 'folder'
        if not os.path.exists(path) and glob.has_magic(path):
            return 'pattern'
        if path.lower().endswith('.txt'):
            return 'list'
    elif not _is_video(path) and path.partition('://')[0] not in prefix_to_backends:
        known = ', '.join(sorted(filter(None, prefix_to_backends)))
        raise ValueError(f'{path}: expected a URL that begins with file, {known}')
    return 'video' if _is_video(path) else 'image'


class _Reader(Iterator[SourceImage]):
    """Yields the images of sources. Not a generator, which an exception would end."""

    def __init__(self, items: Iterable[Any], every: int, order: str, exif: bool) -> None:
        self._stack: list[Iterator[Any]] = [iter(items)]
        self._every, self._order, self._exif = every, order, exif
        self._names: dict[str, int] = {}
        self._arrays = 0

    def __next__(self) -> SourceImage:
        while self._stack:
            item = next(self._stack[-1], _END)
            if item is _END:
                self._stack.pop()
                continue
            if isinstance(item, SourceImage):
                if item.image is None:
                    _check_exists(str(item.path))
                if item.image is not None or not _is_video(str(item.path)):
                    return item
            self._stack.append(self._open(item))
        raise StopIteration

    def _open(self, item: Any) -> Iterator[Any]:
        if isinstance(item, SourceImage):
            return self._read_video(item)
        if isinstance(item, _Files):
            return (SourceImage(self._name(path, item.root), path) for path in item.paths)
        if isinstance(item, str | os.PathLike):
            if find_kind(item) == 'stdin':
                return _lines_of_stdin()
            return iter([files._replace(root=None) for files in _find_files(item)])
        image = to_bgr(item, self._order, self._exif)
        self._arrays += 1
        name = self._unique(f'{self._arrays - 1:06d}.jpg').removesuffix('.jpg')
        return iter([SourceImage(name, None, None, image)])

    def _name(self, path: str, root: str | None) -> str:
        if _URL.match(path):
            url = urlsplit(path)
            path = f'{url.hostname or url.netloc}/{unquote(url.path)}'
        elif root is not None:
            path = os.path.relpath(path, root)
        pure = PurePath(path)
        parts = [part for part in pure.parts if part not in (pure.anchor, os.pardir)]
        return self._unique('/'.join(parts) or 'image')

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        stem, suffix = os.path.splitext(name)
        return name if count == 1 else self._unique(f'{stem}_{count}{suffix}')

    def _read_video(self, source: SourceImage) -> Iterator[SourceImage]:
        with _opened(str(source.path)) as video:
            number = 0
            while video.grab():
                if number % self._every == 0:
                    valid, image = video.retrieve()
                    if not valid:
                        break
                    yield source._replace(frame=number, image=image)
                number += 1
            _check_end(video, number, str(source.path))


@contextmanager
def _opened(path: str) -> Iterator[cv2.VideoCapture]:
    video = cv2.VideoCapture(path)
    try:
        if not video.isOpened():
            raise ImageError(
                f'video {path} cannot be opened: it is damaged, no video, or of a kind that '
                'OpenCV does not read'
            )
        yield video
    finally:
        video.release()


def _check_end(video: cv2.VideoCapture, number: int, path: str) -> None:
    """Raise if frames are missing. Some formats only give estimates of their number."""
    count, fps = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS) or 1
    seconds = count / fps - video.get(cv2.CAP_PROP_POS_MSEC) / 1000
    is_cut = count - number > max(2, count / 50) and seconds > max(0.25, count / fps / 50)
    if is_cut or not number:
        raise ImageError(
            f'video {path} ends after {number} of {count:.0f} frames: it is truncated or damaged'
        )


def _count_frames(path: str) -> int:
    with suppress(ImageError), _opened(path) as video:
        return int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    return 0


def _find_all(inputs: Any, channel_order: str, allow_missing: bool) -> Iterable[Any]:
    """Return the items of `inputs`; for one source and a list they are arrays, '-' and `_Files`."""
    one = isinstance(inputs, str | os.PathLike | np.ndarray | Tensor | PillowImage)
    if not one and not isinstance(inputs, list | tuple):
        if not isinstance(inputs, Iterable) or isinstance(inputs, bytes | dict):
            check_array(inputs, channel_order)
        return inputs
    items: list[Any] = []
    for item in [inputs] if one else inputs:
        if not isinstance(item, str | os.PathLike):
            check_array(item, channel_order)
            items.append(item)
        else:
            items += ['-'] if find_kind(item) == 'stdin' else _find_files(item)
    found = [item for item in items if isinstance(item, _Files)]
    for path in (path for files in found for path in files.paths if not allow_missing):
        _check_exists(path)
    root = None
    with suppress(ValueError):  # there is none, or they are on different drives
        root = os.path.commonpath(
            {os.path.abspath(each.root) for each in found if each.root is not None}
        )
    return [item._replace(root=root) if isinstance(item, _Files) else item for item in items]


def _find_files(source: str | os.PathLike[str]) -> list[_Files]:
    """Return the image and video files that a source names; a list has several roots."""
    kind, path = find_kind(source), _local(source)
    if kind == 'list':
        return [files for line in _read_list(path) for files in _find_files(line)]
    if kind == 'folder':
        return [_Files(path, [os.path.join(path, name) for name in list_images(path)])]
    if kind == 'pattern':
        fixed = re.split(r'[*?[]', path, maxsplit=1)[0]
        names = sorted(glob.glob(path, recursive=True))
        paths = [name for name in names if name.lower().endswith((*SUFFIXES, *VIDEO_SUFFIXES))]
        if not paths:
            raise MissingSourceError(f'no image or video fits the pattern {path!r}')
        return [_Files(os.path.dirname(fixed), paths)]
    return [_Files(None if _URL.match(path) else os.path.dirname(path), [path])]


def _read_list(file: str) -> Iterator[str]:
    _check_exists(file)
    for line in read_lines(file):
        if line.startswith('#'):
            continue
        if find_kind(line) in ('list', 'stdin'):
            raise ValueError(f'{file}: {line!r} is a list too; write its lines into this one')
        path = _local(line)
        is_here = _URL.match(path) or os.path.exists(path) or any(glob.iglob(path, recursive=True))
        yield path if is_here else os.path.join(os.path.dirname(file), path)


def _lines_of_stdin() -> Iterator[str]:
    for line in getattr(sys.stdin, 'buffer', sys.stdin):
        text = os.fsdecode(line).strip()  # names need not be text in the encoding of stdin
        if text and not text.startswith('#'):
            yield text


def _local(source: str | os.PathLike[str]) -> str:
    """Return a path without `file:` and `~`, a URL quoted."""
    text = os.fspath(source)
    if not _URL.match(text):
        return os.path.expanduser(text)
    if text[:5].lower() == 'file:':
        return url2pathname(urlsplit(text).path)
    return quote(text, _IN_URLS) if text[:4].lower() == 'http' else text


def _is_video(path: str) -> bool:
    name = urlsplit(path).path if _URL.match(path) else path
    return name.lower().endswith(VIDEO_SUFFIXES)


def _check_exists(path: str) -> None:
    if not _URL.match(path) and not os.path.exists(path):
        raise MissingSourceError(f'{path!r} does not exist{explain_look_alike(path)}')

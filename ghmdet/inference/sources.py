"""What a detector reads: files, folders, patterns, lists, URLs, videos, arrays, iterators."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np
import torch
from mmengine.fileio.backends import prefix_to_backends
from PIL import ImageOps
from PIL.Image import Image as PillowImage
from torch import Tensor

from ghmdet.argument_checks import check_integer
from ghmdet.datasets.image_file import ImageError, find_orientation
from ghmdet.datasets.image_folder import SUFFIXES, list_images
from ghmdet.files import explain_look_alike, read_lines

VIDEO_SUFFIXES = (
    *('.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts'),
    *('.ogv', '.ts', '.webm', '.wmv'),
)
_URL = re.compile(r'[a-z][a-z0-9+.-]*://|file:/', re.IGNORECASE)
_IN_URLS = "%/:=&?~#+!$,;'@()*[]"  # not quoted


class MissingSourceError(ImageError, FileNotFoundError):
    """There is no such file or folder, or nothing fits a pattern."""


class SourceImage(NamedTuple):
    """An image to detect in."""

    name: str  # relative path with `/`; unique in a run but for the frames of a video
    path: str | None  # file or URL that it is read from (of a frame: the video); None for arrays
    frame: int | None = None  # index of the frame in its video, from 0
    image: np.ndarray | None = None  # uint8 (h, w, 3) in BGR; None: to be read from `path`


class _File(NamedTuple):
    path: str  # of an image or video, or '-' for stdin
    root: str | None = None  # folder to which the name is relative


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
) -> SourceReader:
    """Return an iterator over the images of one or several sources, in flat memory.

    A source is an image file, a folder (with its subfolders), a pattern of files (`*`, `?`, `**`),
    a video, a URL of an image or video, a file `.txt` with one of these per line, '-' for the lines
    of stdin, an array uint8 (h, w, 3), a tensor uint8 (3, h, w), or a Pillow image.

    Names are relative to the folder that contains all sources: a folder, or that of a file or
    pattern. From stdin and iterators they are the paths as given, of URLs host and path, of arrays
    000000, 000001, ... A name that came before gets a number: `1_2.jpg`.

    Args:
        inputs: a source, a list or tuple of them, or another iterable, which is read as it is used.
        every: of a video, the distance between the frames that are used.
        channel_order: 'bgr' or 'rgb', of arrays and tensors.
        apply_exif: whether Pillow images are turned by their EXIF orientation.
        allow_missing: raise for a file that does not exist when it is reached, not at once.

    Raises:
        MissingSourceError: a file does not exist.
        ImageError: in `next`, which then continues with the next source: one cannot be used.
        TypeError, ValueError: an input is none of these.
    """
    check_integer('every', every, 1)
    check_channel_order(channel_order)
    items = _find_all(inputs, channel_order, allow_missing)
    return SourceReader(items, every, channel_order, apply_exif)


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


class SourceReader(Iterator[SourceImage]):
    """Yields the images of sources and raises the errors between them; these end no generator."""

    def __init__(self, items: Iterable[Any], every: int, order: str, exif: bool) -> None:
        self._items, self._every, self._order, self._exif = items, every, order, exif
        self._names, self._numbers = Counter[str](), count()
        self._found = self._read(items)

    def __next__(self) -> SourceImage:
        found = next(self._found)
        if isinstance(found, ImageError):
            raise found
        return found

    def count(self) -> int | None:
        """Count the images; None if only reading them tells: stdin, iterators, streams."""
        if not isinstance(self._items, list):
            return None
        paths = [item.path if isinstance(item, _File) else '' for item in self._items]
        counts = [_count_frames(path) if _is_video(path) else self._every for path in paths]
        is_known = '-' not in paths and min(counts, default=0) >= 0
        return sum(-(-number // self._every) for number in counts) if is_known else None

    def _read(self, items: Iterable[Any]) -> Iterator[SourceImage | ImageError]:
        for item in items:
            try:
                if isinstance(item, _File):
                    yield from self._read_file(item)
                elif isinstance(item, str | os.PathLike):
                    yield from self._read(file._replace(root=None) for file in _find_files(item))
                else:
                    image = to_bgr(item, self._order, self._exif)
                    name = self._unique(f'{next(self._numbers):06d}.jpg').removesuffix('.jpg')
                    yield SourceImage(name, None, None, image)
            except ImageError as error:
                yield error

    def _read_file(self, file: _File) -> Iterator[SourceImage | ImageError]:
        if file.path == '-':
            # Names need not be text in the encoding of stdin.
            lines = (os.fsdecode(line).strip() for line in getattr(sys.stdin, 'buffer', sys.stdin))
            yield from self._read(line for line in lines if line and not line.startswith('#'))
            return
        source = SourceImage(self._name(*file), file.path)
        _check_exists(file.path)
        if not _is_video(file.path):
            yield source
            return
        video, number = cv2.VideoCapture(file.path), 0
        try:
            while video.grab():
                if number % self._every == 0:
                    valid, image = video.retrieve()
                    if not valid:
                        break
                    yield source._replace(frame=number, image=image)
                number += 1
            _check_end(video, number, file.path)
        finally:
            video.release()

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
        self._names[name] += 1
        stem, suffix = os.path.splitext(name)
        number = self._names[name]
        return name if number == 1 else self._unique(f'{stem}_{number}{suffix}')


def _count_frames(path: str) -> int:
    video = cv2.VideoCapture(path)
    return int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0


def _check_end(video: cv2.VideoCapture, number: int, path: str) -> None:
    """Raise if frames are missing. Some formats only give estimates of their number."""
    if not video.isOpened():
        reason = 'it is damaged, no video, or of a kind that OpenCV does not read'
        raise ImageError(f'video {path} cannot be opened: {reason}')
    total, fps = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS) or 1
    seconds = total / fps - video.get(cv2.CAP_PROP_POS_MSEC) / 1000
    is_cut = total - number > max(2, total / 50) and seconds > max(0.25, total / fps / 50)
    if is_cut or not number:
        raise ImageError(
            f'video {path} ends after {number} of {total:.0f} frames: it is truncated or damaged'
        )


def _find_all(inputs: Any, channel_order: str, allow_missing: bool) -> Iterable[Any]:
    """Return arrays and files; an iterable that is no list or tuple as it is."""
    is_one = isinstance(inputs, str | os.PathLike | np.ndarray | Tensor | PillowImage)
    if not is_one and not isinstance(inputs, list | tuple):
        if not isinstance(inputs, Iterable) or isinstance(inputs, bytes | dict):
            check_array(inputs, channel_order)
        return inputs
    items: list[Any] = []
    for item in [inputs] if is_one else inputs:
        items += _find_files(item) if isinstance(item, str | os.PathLike) else [item]
    files = [item for item in items if isinstance(item, _File)]
    for item in items:
        if not isinstance(item, _File):
            check_array(item, channel_order)
        elif not allow_missing:
            _check_exists(item.path)
    roots, root = {os.path.abspath(file.root) for file in files if file.root is not None}, None
    with suppress(ValueError):  # there is none, or they are on different drives
        root = os.path.commonpath(roots)
    return [item._replace(root=root) if isinstance(item, _File) else item for item in items]


def _find_files(source: str | os.PathLike[str]) -> list[_File]:
    """Return the image and video files that a source names, and '-' as it is."""
    kind, path = find_kind(source), _local(source)
    if kind == 'list':
        return [file for line in _read_list(path) for file in _find_files(line)]
    if kind == 'folder':
        return [_File(os.path.join(path, name), path) for name in list_images(path)]
    if kind == 'pattern':
        root, suffixes = os.path.dirname(re.split(r'[*?[]', path)[0]), (*SUFFIXES, *VIDEO_SUFFIXES)
        names = [name for name in glob.glob(path, recursive=True) if not os.path.isdir(name)]
        files = [_File(name, root) for name in sorted(names) if name.lower().endswith(suffixes)]
        if not files:
            raise MissingSourceError(f'no image or video fits the pattern {path!r}')
        return files
    return [_File(path, None if path == '-' or _URL.match(path) else os.path.dirname(path))]


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
    if path != '-' and not _URL.match(path) and not os.path.exists(path):
        raise MissingSourceError(f'{path!r} does not exist{explain_look_alike(path)}')


def check_channel_order(order: Any) -> None:
    """Raise a ValueError unless it is 'bgr' or 'rgb'."""
    if order not in ('bgr', 'rgb'):
        raise ValueError(f"channel_order must be 'bgr' or 'rgb', got {order!r}")


def to_bgr(image: Any, channel_order: str = 'bgr', apply_exif: bool = True) -> np.ndarray:
    """Return an array, tensor or Pillow image as an array uint8 (h, w, 3) in BGR.

    Errors as in `check_array`; an ImageError if a Pillow image cannot be used.
    """
    check_array(image, channel_order)
    if isinstance(image, PillowImage):
        return _convert_pillow(image, apply_exif)
    if isinstance(image, Tensor):
        image = np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy())
    return image if channel_order == 'bgr' else np.ascontiguousarray(image[..., ::-1])


def check_array(image: Any, channel_order: str) -> None:
    """Raise a TypeError or ValueError unless it is a Pillow image or such an array or tensor."""
    order, shape = channel_order.upper(), tuple(getattr(image, 'shape', ()))
    expected = (
        f'expected a path, a Pillow image, an array uint8 (h, w, 3) in {order} or a tensor uint8 '
        f'(3, h, w) in {order} (the model normalises it), or a list of these'
    )
    if isinstance(image, PillowImage):
        return
    if not isinstance(image, np.ndarray | Tensor):
        raise TypeError(f'{expected}; got {type(image).__name__}')
    valid = len(shape) == 3 and shape[0 if isinstance(image, Tensor) else 2] == 3 and 0 not in shape
    if not valid or image.dtype not in (np.uint8, torch.uint8):
        kind = 'a tensor' if isinstance(image, Tensor) else 'an array'
        is_grey = isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.uint8
        advice = '; give a grey image as PIL.Image.fromarray(array)' if is_grey else ''
        raise ValueError(f'{expected}; got {kind} {image.dtype} {shape}{advice}')


def _convert_pillow(image: PillowImage, apply_exif: bool) -> np.ndarray:
    """Convert to what `read_image` returns for a file of the image."""
    try:
        image.load()  # applies the orientation of a TIFF
        if apply_exif and find_orientation(image.info.get('exif', b'')) in range(2, 9):
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I;16'):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode in ('I', 'F'):
            raise ValueError(
                f'its pixels (mode {image.mode}) have no known range; scale them to 0 to 255 and '
                "convert it to mode 'L'"
            )
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    except (OSError, ValueError, SyntaxError) as error:
        name = getattr(image, 'filename', '') or repr(image)
        raise ImageError(f'the Pillow image {name} cannot be used: {error}') from error

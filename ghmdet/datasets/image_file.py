"""The one place that reads image files: header, whole picture, and what is wrong with a file.

Training, test, `inference_detector` and `tools/check_dataset.py` all decode here, with OpenCV:

- the image is taken as shown: EXIF orientation is applied, whichever the format that carries it;
- grey, palette, 1-bit and CMYK become three channels, alpha is dropped;
- 16 bits a channel are scaled to 8 (65535 becomes 255), never clipped; float images are refused;
- a file that is missing, empty, cut off, damaged, foreign, too large, or of another size than the
  annotation file says is an `ImageError` that names it.

Damage inside of JPEG data that leaves a decodable picture is not noticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image

# Where Pillow itself stops with its default setting.
MAX_PIXELS = 178_956_970
COLOR_TYPES = {
    'color': cv2.IMREAD_COLOR,
    'grayscale': cv2.IMREAD_GRAYSCALE,
    'unchanged': cv2.IMREAD_UNCHANGED,
    'color_ignore_orientation': cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    'grayscale_ignore_orientation': cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
}

# Tags of TIFF, of which EXIF is a kind.
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION = 0x0100, 0x0101, 0x0112
# Cameras append data of their own after the end marker, rarely more than this many bytes.
_TAIL = 4096
# Kinds of JPEG segments that give the size, and those that may come before.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}
# MPO is what Pillow calls a JPEG with a second picture inside, as phones write it.
_END_MARKS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}


class ImageError(ValueError):
    """An image that cannot be used; the message names its file and says why."""


class MissingImageError(ImageError, FileNotFoundError):
    """There is no such image file."""

    def __str__(self) -> str:
        return str(self.args[0])


class _UnfitError(Exception):
    """What is wrong with an image, in words that follow its name."""


class _Header(NamedTuple):
    format: str
    stored_wh: tuple[int, int]
    shown_wh: tuple[int, int]


def read_image(
    path: str | os.PathLike,
    *,
    expected_wh: tuple[float, float] | None = None,
    color_type: str = 'color',
    max_pixels: int = MAX_PIXELS,
    backend_args: dict | None = None,
    name: str | None = None,
) -> np.ndarray:
    """Decode an image file.

    Args:
        path: a local file, or what `mmengine.fileio` reads.
        expected_wh: (width, height) that the annotation file gives; None if it is not known.
        color_type: 'color' gives uint8 (h, w, 3) in BGR; 'color_ignore_orientation' the same of the
            image as stored, without regard to EXIF; 'grayscale' and 'grayscale_ignore_orientation'
            (h, w); 'unchanged' the channels and bits of the file, as stored.
        max_pixels: an image of more pixels is refused before it is decoded.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
        name: what messages call the image; by default its path.

    Raises:
        ImageError: the file is no image or cannot be used; `MissingImageError` if there is none.

    Example:
        >>> read_image('nowhere.jpg')
        Traceback (most recent call last):
        ghmdet.datasets.image_file.MissingImageError: image nowhere.jpg does not exist
    """
    name = f'image {path}' if name is None else name
    try:
        content = _fetch(os.fspath(path), backend_args)
        return _decode(content, expected_wh, color_type, max_pixels)
    except FileNotFoundError:
        raise MissingImageError(f'{name} does not exist') from None
    except _UnfitError as fault:
        raise ImageError(f'{name} {fault}') from None


def read_image_sizes(
    path: str | os.PathLike, max_pixels: int = MAX_PIXELS
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read (width, height) as stored and as shown, from the header.

    They differ where EXIF turns the image by a quarter.

    Raises:
        ImageError: the file is missing, no image, or has more than `max_pixels`.
    """
    try:
        with _open(path) as file:
            header = _read_header(file, max_pixels)
    except FileNotFoundError:
        raise MissingImageError(f'image {path} does not exist') from None
    except _UnfitError as fault:
        raise ImageError(f'image {path} {fault}') from None
    return header.stored_wh, header.shown_wh


def find_image_fault(
    path: str | os.PathLike,
    expected_wh: tuple[float, float] | None = None,
    *,
    color_type: str = 'color',
    max_pixels: int = MAX_PIXELS,
) -> str | None:
    """Say what is wrong with a local image file; None if nothing is.

    Reads the header and the last bytes: a missing, empty, foreign, cut-off or huge file is found,
    damage in the middle is not (in formats other than JPEG and PNG, nor is a cut).

    Args:
        path: file to look at.
        expected_wh: (width, height) that the annotation file gives; None if it is not known.
        color_type: as in `read_image`; says whether the size is that of the image as shown.
        max_pixels: how many are too many.

    Example:
        >>> find_image_fault('nowhere.jpg', (4, 3))
        'does not exist'
    """
    try:
        with _open(path) as file:
            header = _read_header(file, max_pixels)
            _check_end(file, header.format)
        decoded_wh = header.shown_wh if _applies_exif(color_type) else header.stored_wh
        _check_size(decoded_wh, expected_wh, header, color_type)
    except FileNotFoundError:
        return 'does not exist'
    except _UnfitError as fault:
        return str(fault)
    return None


def _decode(
    content: bytes, expected_wh: tuple[float, float] | None, color_type: str, max_pixels: int
) -> np.ndarray:
    plain = _is_plain_jpeg(content, max_pixels)
    header = None if plain else _inspect(content, max_pixels)
    try:
        img = cv2.imdecode(np.frombuffer(content, np.uint8), COLOR_TYPES[color_type])
    except cv2.error as error:
        raise _UnfitError(f'cannot be decoded ({" ".join(str(error).split())})') from None
    if img is None:
        kind = 'JPEG' if header is None else header.format
        raise _UnfitError(
            f'cannot be decoded: it is damaged, or a kind of {kind} that OpenCV does not read, '
            'such as float pixels'
        )
    height, width = img.shape[:2]
    if expected_wh is not None and (width, height) != tuple(expected_wh):
        header = header or _inspect(content, max_pixels)
        _check_size((width, height), expected_wh, header, color_type)
    return img


def _inspect(content: bytes, max_pixels: int) -> _Header:
    file = BytesIO(content)
    header = _read_header(file, max_pixels)
    _check_end(file, header.format)
    return header


def _is_plain_jpeg(content: bytes, max_pixels: int) -> bool:
    """Whether this is a whole JPEG of few enough pixels, at a tenth of the time of `_inspect`."""
    if content[:2] != b'\xff\xd8' or content.rfind(_END_MARKS['JPEG'], -_TAIL) < 0:
        return False
    place = 2
    while content[place : place + 1] == b'\xff' and place + 8 < len(content):
        kind = content[place + 1]
        if kind in _JPEG_FRAMES:
            height = int.from_bytes(content[place + 5 : place + 7], 'big')
            width = int.from_bytes(content[place + 7 : place + 9], 'big')
            return 0 < height * width <= max_pixels
        if kind not in _JPEG_SEGMENTS:
            return False
        place += 2 + int.from_bytes(content[place + 2 : place + 4], 'big')
    return False


def _fetch(path: str, backend_args: dict | None) -> bytes:
    with _told(path):
        return fileio.get(path, backend_args=backend_args)


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[BinaryIO]:
    with _told(path), Path(path).open('rb') as file:
        yield file


@contextmanager
def _told(path: str | os.PathLike) -> Iterator[None]:
    # A pipe or a device may never end.
    if not os.path.isfile(path) and os.path.exists(path):
        kind = 'a folder' if os.path.isdir(path) else 'a pipe or device'
        raise _UnfitError(f'is {kind}, not a file')
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise _UnfitError(f'cannot be read ({error})') from None


def _read_header(file: BinaryIO, max_pixels: int) -> _Header:
    """Read format and sizes without decoding."""
    if not file.read(1):
        raise _UnfitError('is empty (0 bytes)')
    file.seek(0)
    # Pillow has a limit of its own, for the whole process; it is raised where ours asks for more.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise _too_large(max_pixels, str(error)) from None
    except Exception as error:  # a damaged header makes Pillow raise all sorts
        told = str(error).partition(' <_io')[0].removesuffix(' file')
        raise _UnfitError(f'cannot be read as an image ({told or type(error).__name__})') from None
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(max_pixels, f'{width}x{height}')
    stored_wh = (width, height)
    if image.format == 'TIFF':  # newer versions of Pillow give the size as shown
        stored_wh = (image.tag_v2[_IMAGE_WIDTH], image.tag_v2[_IMAGE_LENGTH])  # type: ignore[attr-defined]
    turned = _read_orientation(image) in (5, 6, 7, 8)
    return _Header(image.format or '', stored_wh, stored_wh[::-1] if turned else stored_wh)


def _read_orientation(image: Image.Image) -> object:
    """Read it as OpenCV does: not from XMP, nor of a PNG from behind the pixels."""
    if image.format == 'TIFF':
        return image.tag_v2.get(_ORIENTATION)  # type: ignore[attr-defined]
    exif = Image.Exif()
    try:
        exif.load(image.info.get('exif', b''))
        return exif.get(_ORIENTATION)
    except Exception:  # damaged EXIF is no EXIF
        return None


def _too_large(max_pixels: int, told: str) -> _UnfitError:
    return _UnfitError(
        f'has more than {max_pixels} pixels ({told}) and is not decoded; if it is right, set '
        'max_pixels of LoadImageFromFile in the pipeline'
    )


def _check_end(file: BinaryIO, image_format: str) -> None:
    """Refuse a file that was cut off; OpenCV fills up what is missing with grey."""
    end_mark = _END_MARKS.get(image_format)
    if end_mark is None:
        return
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    if end_mark in file.read():
        return
    # Some phones append a whole film, in which the two bytes of JPEG's mark occur by chance.
    file.seek(0)
    if not (end_mark in file.read() if image_format == 'PNG' else _can_load(file)):
        raise _UnfitError('is cut off: its end marker is missing')


def _can_load(file: BinaryIO) -> bool:
    try:
        Image.open(file).load()
    except Exception:  # Pillow raises all sorts
        return False
    return True


def _check_size(
    decoded_wh: tuple[int, int],
    expected_wh: tuple[float, float] | None,
    header: _Header,
    color_type: str,
) -> None:
    """Refuse an image that the boxes of the annotation file do not fit."""
    if expected_wh is None or decoded_wh == tuple(expected_wh):
        return
    why = ''
    if header.stored_wh != header.shown_wh and decoded_wh == tuple(expected_wh)[::-1]:
        other, setting = (
            ('as stored', 'color_ignore_orientation')
            if _applies_exif(color_type)
            else ('as shown', 'color')
        )
        why = (
            '. Its EXIF orientation turns it by a quarter. If the boxes were drawn on the image '
            f'{other}, set color_type={setting!r} of LoadImageFromFile in the pipeline, otherwise '
            'correct the annotation file'
        )
    elif decoded_wh == tuple(expected_wh)[::-1]:
        why = ', which is width and height swapped'
    raise _UnfitError(
        f'is {decoded_wh[0]}x{decoded_wh[1]} (width x height) but the annotation file says '
        f'{expected_wh[0]}x{expected_wh[1]}{why}'
    )


def _applies_exif(color_type: str) -> bool:
    return color_type in ('color', 'grayscale')

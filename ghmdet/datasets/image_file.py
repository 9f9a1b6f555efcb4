"""Reads image files: size from the header, pixels, and what is wrong with a file.

Training, test, `inference_detector` and `tools/check_dataset.py` all use it. OpenCV decodes:

- the EXIF orientation is applied, in every format that has it;
- grey, palette, 1-bit and CMYK images become three channels, alpha is dropped;
- 16 bits per channel are scaled to 8 (65535 becomes 255), never clipped; float images are refused;
- a file that is missing, empty, truncated, damaged, no image, too large, or of another size than
  the annotation file says raises an `ImageError` that names it;
- what OpenCV decodes is not refused because Pillow, which reads most headers, does not know it.

Damaged JPEG data that OpenCV can decode is not detected.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image

from ghmdet.files import explain_look_alike

# Pillow's own default limit.
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
# Cameras append data after the end marker, rarely more than this many bytes.
_TAIL = 4096
# JPEG segments that contain the size, and those that may come before.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}
# MPO is Pillow's name for a JPEG that contains a second image, as phones write it.
_END_MARKS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}


class ImageError(ValueError):
    """An image that cannot be used; the message names its file and the reason."""


class MissingImageError(ImageError, FileNotFoundError):
    """There is no such image file. Its arguments are the text of the message and the path."""

    def __str__(self) -> str:
        # Only here, since with on_error='skip' nobody reads it.
        return f'{self.args[0]}{_explain_missing(self.args[-1])}'


class _BadImageError(Exception):
    """What is wrong with an image; the text follows its name."""


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
        color_type: 'color' gives uint8 (h, w, 3) in BGR; 'color_ignore_orientation' the same
            without applying EXIF; 'grayscale' and 'grayscale_ignore_orientation' (h, w);
            'unchanged' the channels and bits of the file, as stored.
        max_pixels: an image of more pixels is refused before it is decoded.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
        name: of the image in messages; by default its path.

    Raises:
        ImageError: the file is no image or cannot be used; `MissingImageError` if there is none.
    """
    with _named(name or f'image {path}', path):
        with _checked(path):
            content = fileio.get(os.fspath(path), backend_args=backend_args)
        return _decode(content, expected_wh, color_type, max_pixels)


def read_image_sizes(
    path: str | os.PathLike, max_pixels: int = MAX_PIXELS
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read (width, height) as stored and as displayed, from the header.

    They differ if the EXIF orientation is a rotation by 90 degrees.

    Raises:
        ImageError: the file is missing, no image, or has more than `max_pixels`.
    """
    with _named(f'image {path}', path), _open(path) as file:
        header = _read_header(file, max_pixels)
    return header.stored_wh, header.shown_wh


def find_image_fault(
    path: str | os.PathLike,
    expected_wh: tuple[float, float] | None = None,
    *,
    color_type: str = 'color',
    max_pixels: int = MAX_PIXELS,
) -> str | None:
    """Return what is wrong with a local image file; None if nothing is.

    Reads the header and the last bytes, so it does not detect damage in the middle, and truncation
    only of JPEG and PNG. The arguments are as in `read_image`.
    """
    try:
        with _open(path) as file:
            header = _inspect(file, max_pixels)
        decoded_wh = header.shown_wh if applies_exif(color_type) else header.stored_wh
        _check_size(decoded_wh, expected_wh, header, color_type)
    except FileNotFoundError:
        return f'does not exist{_explain_missing(path)}'
    except _BadImageError as error:
        return str(error)
    return None


@contextmanager
def _named(name: str, path: str | os.PathLike) -> Iterator[None]:
    """Turn the errors of the functions below into an ImageError of this image."""
    try:
        yield
    except FileNotFoundError:
        raise MissingImageError(f'{name} does not exist', os.fspath(path)) from None
    except _BadImageError as error:
        raise ImageError(f'{name} {error}') from None


def _explain_missing(path: str | os.PathLike) -> str:
    near = explain_look_alike(path)
    return f'{near} (fix_names=True of a dataset uses it)' if near else ''


@contextmanager
def _checked(path: str | os.PathLike) -> Iterator[None]:
    """Refuse what is no file before it is opened, and turn the errors of reading it into ours."""
    # Reading a pipe or a device may block for ever.
    if not os.path.isfile(path) and os.path.exists(path):
        kind = 'a folder' if os.path.isdir(path) else 'a pipe or device'
        raise _BadImageError(f'is {kind}, not a file')
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError from None
    except (OSError, ValueError, HTTPException) as error:  # ValueError: a zero byte in the name
        raise _BadImageError(f'cannot be read ({error})') from None


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[BinaryIO]:
    with _checked(path), Path(path).open('rb') as file:
        yield file


def _decode(
    content: bytes, expected_wh: tuple[float, float] | None, color_type: str, max_pixels: int
) -> np.ndarray:
    header = None if _is_plain_jpeg(content, max_pixels) else _inspect(BytesIO(content), max_pixels)
    try:
        img = cv2.imdecode(np.frombuffer(content, np.uint8), COLOR_TYPES[color_type])
    except cv2.error as error:
        raise _BadImageError(f'cannot be decoded ({opencv_text(error)})') from None
    if img is None:
        kind = 'JPEG' if header is None else header.format or 'image'
        raise _BadImageError(
            f'cannot be decoded: it is damaged, or a kind of {kind} that OpenCV does not read, '
            'such as float pixels'
        )
    height, width = img.shape[:2]
    if expected_wh is not None and (width, height) != tuple(expected_wh):
        header = header or _inspect(BytesIO(content), max_pixels)
        _check_size((width, height), expected_wh, header, color_type)
    return img


def opencv_text(error: cv2.error) -> str:
    """Return the message of an error in one line, without the place in OpenCV's code."""
    return ' '.join(str(error).split()).rpartition('error: ')[2]


def _inspect(file: BinaryIO, max_pixels: int) -> _Header:
    header = _read_header(file, max_pixels)
    _check_end(file, header.format)
    return header


def _is_plain_jpeg(content: bytes, max_pixels: int) -> bool:
    """Whether it is a complete JPEG within the limit; ten times faster than `_inspect`."""
    if content[:2] != b'\xff\xd8' or content.rfind(_END_MARKS['JPEG'], -_TAIL) < 0:
        return False
    start = 2
    while content[start : start + 1] == b'\xff' and start + 8 < len(content):
        kind = content[start + 1]
        if kind in _JPEG_FRAMES:
            height = int.from_bytes(content[start + 5 : start + 7], 'big')
            width = int.from_bytes(content[start + 7 : start + 9], 'big')
            return 0 < height * width <= max_pixels
        if kind not in _JPEG_SEGMENTS:
            return False
        start += 2 + int.from_bytes(content[start + 2 : start + 4], 'big')
    return False


def _read_header(file: BinaryIO, max_pixels: int) -> _Header:
    """Read format and sizes without decoding."""
    if not file.read(1):
        raise _BadImageError('is empty (0 bytes)')
    file.seek(0)
    header = _read_png_header(file) or _read_with_pillow(file, max_pixels)
    width, height = header.stored_wh
    if width * height > max_pixels:
        raise _too_large(max_pixels, f'{width}x{height}')
    return header


def _read_png_header(file: BinaryIO) -> _Header | None:
    """Read what OpenCV reads, but not text and colour profiles, whose size Pillow limits."""
    start, exif, has_pixels = file.read(33), b'', False
    if start[:16] == b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR' and _is_valid(start[12:]):
        while len(head := file.read(8)) == 8 and head[4:] != b'IEND':
            length, kind = int.from_bytes(head[:4], 'big'), head[4:]
            has_pixels |= kind == b'IDAT'
            if kind == b'eXIf' and _is_valid(chunk := kind + file.read(length + 4)):
                exif = exif or chunk[4:-4]
            elif kind != b'eXIf':
                file.seek(length + 4, os.SEEK_CUR)
    if has_pixels:
        stored_wh = int.from_bytes(start[16:20], 'big'), int.from_bytes(start[20:24], 'big')
        return _make_header('PNG', stored_wh, find_orientation(exif))
    file.seek(0)
    return None


def _is_valid(chunk: bytes) -> bool:
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], 'big')


def _make_header(kind: str, stored_wh: tuple[int, int], orientation: object) -> _Header:
    turned = orientation in (5, 6, 7, 8)
    return _Header(kind, stored_wh, stored_wh[::-1] if turned else stored_wh)


def _read_with_pillow(file: BinaryIO, max_pixels: int) -> _Header:
    # Pillow's limit is for the whole process; raise it if ours is larger.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise _too_large(max_pixels, str(error)) from None
    except Exception as error:  # Pillow raises errors of many types for a damaged header
        reason = str(error).partition(' <_io')[0].removesuffix(' file') or type(error).__name__
        return _read_with_opencv(file, reason)
    if image.format == 'TIFF':  # of which newer versions of Pillow return the displayed size
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        stored_wh = (tags[_IMAGE_WIDTH], tags[_IMAGE_LENGTH])
        return _make_header('TIFF', stored_wh, tags.get(_ORIENTATION))
    orientation = find_orientation(image.info.get('exif', b''))
    return _make_header(image.format or '', image.size, orientation)


def _read_with_opencv(file: BinaryIO, reason: str) -> _Header:
    """Decode what Pillow refuses for this reason; the number of pixels is known only then."""
    file.seek(0)
    content = np.frombuffer(file.read(), np.uint8)
    try:
        stored, shown = (cv2.imdecode(content, COLOR_TYPES[k]) for k in ('unchanged', 'color'))
    except cv2.error:
        stored = shown = None
    if stored is None or shown is None or stored.dtype.kind == 'f':
        raise _BadImageError(f'cannot be read as an image ({reason})') from None
    return _Header('', stored.shape[1::-1], shown.shape[1::-1])


def find_orientation(exif: bytes) -> object:
    """Return the orientation that OpenCV applies, None without one; OpenCV does not read XMP."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        return tags.get(_ORIENTATION)
    except Exception:  # damaged EXIF is no EXIF
        return None


def _too_large(max_pixels: int, size: str) -> _BadImageError:
    return _BadImageError(
        f'has more than {max_pixels} pixels ({size}) and is not decoded; if it is right, set '
        'max_pixels of LoadImageFromFile in the pipeline'
    )


def _check_end(file: BinaryIO, image_format: str) -> None:
    """Refuse a truncated file, of which OpenCV would fill the rest with grey."""
    end_mark = _END_MARKS.get(image_format, b'')
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    if end_mark in file.read():
        return
    # Some phones append a video, in which the two bytes of the JPEG mark occur by chance.
    file.seek(0)
    if not (end_mark in file.read() if image_format == 'PNG' else _can_load(file)):
        raise _BadImageError('is truncated: its end marker is missing')


def _can_load(file: BinaryIO) -> bool:
    try:
        Image.open(file).load()
    except Exception:  # of many types
        return False
    return True


def _check_size(
    decoded_wh: tuple[int, int],
    expected_wh: tuple[float, float] | None,
    header: _Header,
    color_type: str,
) -> None:
    """Refuse an image of another size than the annotation file says."""
    if expected_wh is None or decoded_wh == tuple(expected_wh):
        return
    why = ''
    if decoded_wh == tuple(expected_wh)[::-1]:
        why = ', which is width and height swapped'
        if header.stored_wh != header.shown_wh:
            applied = applies_exif(color_type)
            boxes = 'without applying it' if applied else 'with it applied'
            setting = 'color_ignore_orientation' if applied else 'color'
            why = (
                '. Its EXIF orientation rotates it by 90 degrees. If the boxes were drawn on the '
                f'image {boxes}, set color_type={setting!r} of LoadImageFromFile in the pipeline, '
                'otherwise correct the annotation file'
            )
    raise _BadImageError(
        f'is {decoded_wh[0]}x{decoded_wh[1]} (width x height) but the annotation file says '
        f'{expected_wh[0]}x{expected_wh[1]}{why}'
    )


def applies_exif(color_type: str) -> bool:
    """Whether OpenCV applies the EXIF orientation with this `color_type` of `read_image`."""
    return color_type in ('color', 'grayscale')

"""Looks at image files without decoding them."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

_ORIENTATION = 0x0112
# Cameras append data of their own after the end marker, rarely more than this many bytes.
_TAIL = 4096
# MPO is what Pillow calls a JPEG with a second picture inside, as phones write it.
_END_MARKS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'IEND'}


def read_image_sizes(path: str | os.PathLike) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read (width, height) as stored and as shown, from the header.

    They differ where EXIF turns the image by a quarter; `LoadImageFromFile` gives the image as
    shown. PNG files are taken as stored.

    Raises:
        OSError: there is no such file, or Pillow knows no such format.
    """
    with Image.open(path) as image:
        stored_wh = image.size
        # Of a PNG, Pillow decodes all the pixels to find EXIF data that may follow them.
        turned = image.format != 'PNG' and image.getexif().get(_ORIENTATION, 1) >= 5
    return stored_wh, stored_wh[::-1] if turned else stored_wh


def find_image_fault(path: str | os.PathLike, expected_wh: tuple[int, int]) -> str | None:
    """Say what is wrong with a local image file; None if nothing is.

    Reads the header and the last bytes: a missing, empty, foreign or cut-off file is found, damage
    in the middle is not (in formats other than JPEG and PNG, nor is a cut).

    Args:
        path: file to look at.
        expected_wh: (width, height) of the annotation file, which may be as stored or as shown.

    Example:
        >>> find_image_fault('nowhere.jpg', (4, 3))
        'does not exist'
    """
    path = Path(path)
    if not path.is_file():
        return 'does not exist'
    size = path.stat().st_size
    if size == 0:
        return 'is empty (0 bytes)'
    try:
        sizes_wh = read_image_sizes(path)
        with Image.open(path) as image:
            end_mark = _END_MARKS.get(image.format or '', b'')
    except (OSError, Image.DecompressionBombError) as error:
        return f'cannot be read as an image ({error})'
    with path.open('rb') as file:
        file.seek(max(0, size - _TAIL))
        if end_mark not in file.read():
            return 'is cut off: its end marker is missing'
    if tuple(expected_wh) not in sizes_wh:
        return (
            f'is {sizes_wh[1][0]}x{sizes_wh[1][1]} (width x height) but the annotation file says '
            f'{expected_wh[0]}x{expected_wh[1]}'
        )
    return None

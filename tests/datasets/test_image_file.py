"""Image files as they come: every kind becomes uint8 (h, w, 3) in BGR or is refused by name."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ghmdet.datasets.image_file import (
    ImageError,
    MissingImageError,
    find_image_fault,
    read_image,
    read_image_sizes,
)

ORIENTATION = 0x0112
RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)  # RGB, 2 wide, 1 high


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 255, (80, 100, 3), np.uint8)


@pytest.fixture(params=['jpg', 'png'])
def file(request, tmp_path) -> Path:
    """A noisy image, 100 wide and 80 high."""
    Image.fromarray(pixels()).save(tmp_path / f'a.{request.param}')
    return tmp_path / f'a.{request.param}'


def rotated(folder: Path, orientation: int, suffix='jpg', image=None) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = folder / f'{orientation}.{suffix}'
    (image or Image.new('RGB', (100, 80))).save(file, exif=exif)
    return file


def chunk(kind: bytes, data: bytes) -> bytes:
    content = kind + data
    return struct.pack('>I', len(data)) + content + struct.pack('>I', zlib.crc32(content))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no pixels."""
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*each) for each in chunks)


def test_a_good_file_has_no_fault(file):
    assert find_image_fault(file, (100, 80)) is None
    assert find_image_fault(file) is None
    expected = cv2.imread(str(file))
    # Trailing data of a camera, or a film.
    for length in (0, 3000, 9000):
        file.write_bytes(file.read_bytes() + bytes(length))
        assert find_image_fault(str(file), (100, 80)) is None
        np.testing.assert_array_equal(read_image(file, expected_wh=(100, 80)), expected)


def truncate(length):
    return lambda file: file.write_bytes(file.read_bytes()[:length])


def write(content):
    return lambda file: file.write_bytes(content)


TRUNCATED = 'is truncated: its end marker is missing'


@pytest.mark.parametrize(
    ('spoil', 'fault'),
    [
        (lambda file: file.unlink(), 'does not exist'),
        (lambda file: (file.unlink(), file.mkdir()), 'is a folder, not a file'),
        (lambda file: (file.unlink(), os.mkfifo(file)), 'is a pipe or device, not a file'),
        (write(b''), 'is empty (0 bytes)'),
        (write(b'<html>'), 'cannot be read as an image (cannot identify image)'),
        (truncate(-2), TRUNCATED),
        (truncate(-12), TRUNCATED),
        (truncate(5000), TRUNCATED),
        (write(png_header(40000, 25000)), 'has more than 178956970 pixels'),
        (write(png_header(2**31 - 1, 2**31 - 1)), 'has more than 178956970'),
    ],
)
def test_faults_are_found_by_the_check_and_when_decoding(file, spoil, fault):
    spoil(file)
    assert find_image_fault(file, (100, 80)).startswith(fault)
    with pytest.raises(ImageError) as caught:
        read_image(file)
    assert str(caught.value).startswith(f'image {file} {fault}')
    assert isinstance(caught.value, MissingImageError) == (fault == 'does not exist')
    assert issubclass(MissingImageError, FileNotFoundError)


def test_damage_in_the_middle_of_a_png_is_found_when_decoding(tmp_path, capfd):
    file = tmp_path / 'a.png'
    Image.fromarray(pixels()).save(file)
    content = file.read_bytes()
    file.write_bytes(content[:9000] + bytes(50) + content[9050:])
    assert find_image_fault(file) is None
    words = r'a.png cannot be decoded: it is damaged, or a kind of PNG that OpenCV does not read'
    with pytest.raises(ImageError, match=words):
        read_image(file)


@pytest.mark.filterwarnings('ignore:Image size:PIL.Image.DecompressionBombWarning')
def test_the_pixel_limit_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 3000)  # Pillow's own, which stops at 6000
    Image.new('RGB', (100, 80)).save(tmp_path / 'a.png')
    with pytest.raises(ImageError, match='has more than 7999 pixels .100x80.*set max_pixels of'):
        read_image(tmp_path / 'a.png', max_pixels=7999)
    assert find_image_fault(tmp_path / 'a.png', max_pixels=7999).startswith('has more than 7999')
    assert read_image(tmp_path / 'a.png', max_pixels=8000).shape == (80, 100, 3)
    (tmp_path / 'b.png').write_bytes(png_header(40000, 25000))
    with pytest.raises(ImageError, match='has more than 178956970 pixels'):
        read_image_sizes(tmp_path / 'b.png')


@pytest.mark.parametrize('mode', ['baseline', 'progressive', 'fill byte', 'thumbnail'])
def test_a_jpeg_of_too_many_pixels(tmp_path, mode):
    """The size that counts is the frame's, not that of a thumbnail in EXIF."""
    exif = Image.Exif()
    if mode == 'thumbnail':
        exif[0x0112] = 1
        small = BytesIO()
        Image.new('RGB', (8, 8)).save(small, 'JPEG')
        exif[0x9286] = small.getvalue()
    buffer = BytesIO()
    Image.fromarray(pixels()).save(buffer, 'JPEG', progressive=mode == 'progressive', exif=exif)
    content = buffer.getvalue()
    if mode == 'fill byte':
        content = content[:2] + b'\xff' + content[2:]
    (tmp_path / 'a.jpg').write_bytes(content)
    assert read_image(tmp_path / 'a.jpg', max_pixels=8000).shape == (80, 100, 3)
    with pytest.raises(ImageError, match='a.jpg has more than 7999 pixels .100x80. and is not'):
        read_image(tmp_path / 'a.jpg', max_pixels=7999)


def test_missing(tmp_path):
    with pytest.raises(MissingImageError):
        read_image_sizes(tmp_path / 'a.jpg')
    with pytest.raises(ImageError, match=r'^picture 7 does not exist$'):
        read_image(tmp_path / 'a.jpg', name='picture 7')
    with pytest.raises(ImageError, match='cannot be read'):
        read_image(f'{tmp_path}/a\0.jpg')


# What OpenCV reads and Pillow does not

LONG = zlib.compress(bytes(1_500_000))


@pytest.mark.parametrize(
    'chunks',
    [
        [(b'zTXt', b'render\0\0' + LONG)],
        [(b'iTXt', b'render\0\1\0\0\0' + LONG)],
        [(b'zTXt', b'render\0\0' + zlib.compress(bytes(900_000)))] * 80,
        [(b'iCCP', b'profile\0\0' + LONG)],
        [(b'iCCP', b'profile\0\1' + LONG)],  # an unknown compression
        [(b'pHYs', b'ab')],
        [(b'tEXt', b'render\0' + b'x' * 3_000_000)],
    ],
)
def test_what_else_is_in_a_png_does_not_matter(tmp_path, capfd, chunks):
    """Pillow refuses all but the last; OpenCV skips what it cannot use."""
    file = tmp_path / 'a.png'
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(pixels()).save(file, exif=exif)
    content = file.read_bytes()
    assert content.index(b'eXIf') < content.index(b'IDAT')
    extra = b''.join(chunk(*each) for each in chunks)
    file.write_bytes(content[:33] + extra + content[33:])
    assert read_image_sizes(file) == ((100, 80), (80, 100))
    assert find_image_fault(file, (80, 100)) is None
    img = read_image(file, expected_wh=(80, 100))
    np.testing.assert_array_equal(img, np.rot90(pixels()[..., ::-1], -1))
    with pytest.raises(ImageError, match='has more than 7999 pixels .100x80'):
        read_image(file, max_pixels=7999)
    file.write_bytes(file.read_bytes()[:-30])
    assert find_image_fault(file) == TRUNCATED


@pytest.mark.parametrize(
    ('place', 'lost', 'shown_wh'),
    [(33, 0, (80, 100)), (-12, 0, (80, 100)), (33, 3, (100, 80)), (-12, 3, (100, 80))],
)
def test_exif_of_a_png_counts_as_opencv_counts_it(tmp_path, capfd, place, lost, shown_wh):
    """Before and after the pixels, but not if its checksum is wrong."""
    file, exif = tmp_path / 'a.png', Image.Exif()
    exif[ORIENTATION] = 6
    part = chunk(b'eXIf', exif.tobytes()[6:])
    Image.fromarray(pixels()).save(file)
    content = file.read_bytes()
    part = part[: len(part) - lost] + bytes(lost)
    file.write_bytes(content[:place] + part + content[place:])
    assert read_image_sizes(file) == ((100, 80), shown_wh)
    assert read_image(file, expected_wh=shown_wh).shape == (*shown_wh[::-1], 3)


def test_formats_that_pillow_does_not_know(tmp_path):
    """A PAM; a float image is refused, which OpenCV would clip."""
    file = tmp_path / 'a.pam'
    cv2.imwrite(str(file), pixels())
    with pytest.raises(OSError, match='cannot identify'):
        Image.open(file)
    assert read_image_sizes(file) == ((100, 80), (100, 80))
    assert find_image_fault(file, (100, 80)) is None
    assert find_image_fault(file, (100, 81)).endswith('the annotation file says 100x81')
    np.testing.assert_array_equal(read_image(file, expected_wh=(100, 80)), pixels())
    for read in (read_image, read_image_sizes):
        with pytest.raises(ImageError, match='a.pam has more than 7999 pixels .100x80'):
            read(file, max_pixels=7999)
    cv2.imwrite(str(tmp_path / 'a.hdr'), pixels().astype(np.float32))
    assert find_image_fault(tmp_path / 'a.hdr').startswith('cannot be read as an image')


# Sizes and EXIF


def test_a_wrong_size_gives_both(file):
    fault = 'is 100x80 (width x height) but the annotation file says '
    assert find_image_fault(file, (99, 80)) == f'{fault}99x80'
    swapped = f'{fault}80x100, which is width and height swapped'
    assert find_image_fault(file, (80, 100)) == swapped
    with pytest.raises(ImageError) as caught:
        read_image(file, expected_wh=(80, 100))
    assert str(caught.value) == f'image {file} {swapped}'
    assert find_image_fault(file, (100.0, 80.0)) is None


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tiff'])
@pytest.mark.parametrize(
    ('orientation', 'shown_wh'), [(1, (100, 80)), (3, (100, 80)), (6, (80, 100))]
)
def test_exif_turns(tmp_path, suffix, orientation, shown_wh):
    file = rotated(tmp_path, orientation, suffix)
    assert read_image_sizes(file) == ((100, 80), shown_wh)
    assert find_image_fault(file, shown_wh) is None
    assert read_image(file, expected_wh=shown_wh).shape == (*shown_wh[::-1], 3)


def test_exif_explains_a_size(tmp_path):
    file = rotated(tmp_path, 8)
    fault = find_image_fault(file, (100, 80))
    assert fault.startswith(
        'is 80x100 (width x height) but the annotation file says 100x80. Its EXIF'
    )
    assert "without applying it, set color_type='color_ignore_orientation' of LoadImage" in fault
    as_stored = dict(color_type='color_ignore_orientation')
    assert find_image_fault(file, (100, 80), **as_stored) is None
    assert read_image(file, expected_wh=(100, 80), **as_stored).shape == (80, 100, 3)
    with pytest.raises(ImageError, match=r"image with it applied, set color_type='color' of"):
        read_image(file, expected_wh=(80, 100), **as_stored)


def test_the_picture_is_turned_as_pillow_turns_it(tmp_path):
    for orientation in range(1, 9):
        file = rotated(tmp_path, orientation, 'png', Image.fromarray(pixels()))
        with Image.open(file) as image:
            image.load()
            how = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
            expected = np.asarray(image if how is None else image.transpose(how))
        np.testing.assert_array_equal(read_image(file), expected[..., ::-1])
    damaged = tmp_path / 'a.jpg'
    Image.new('RGB', (100, 80)).save(damaged, exif=b'Exif\0\0nonsense')
    assert read_image_sizes(damaged) == ((100, 80), (100, 80))
    assert read_image(damaged, expected_wh=(100, 80)).shape == (80, 100, 3)


# Kinds of pixels


@pytest.mark.parametrize(
    ('mode', 'suffix', 'expected'),
    [
        *(('RGB', kind, [[[0, 0, 255], [0, 255, 0]]]) for kind in ('png', 'tiff', 'bmp', 'gif')),
        *(('RGB', kind, [[[0, 0, 255], [0, 255, 0]]]) for kind in ('webp', 'ppm')),
        ('L', 'png', [[[76, 76, 76], [150, 150, 150]]]),
        ('LA', 'png', [[[76, 76, 76], [150, 150, 150]]]),
        ('RGBA', 'png', [[[0, 0, 255], [0, 255, 0]]]),
        ('P', 'png', [[[0, 0, 255], [0, 255, 0]]]),
        ('1', 'png', [[[0, 0, 0], [255, 255, 255]]]),
        ('1', 'tiff', [[[0, 0, 0], [255, 255, 255]]]),
        ('CMYK', 'tiff', [[[0, 0, 255], [0, 255, 0]]]),
    ],
)
def test_formats_and_channels(tmp_path, mode, suffix, expected):
    image = Image.fromarray(RED_GREEN).convert('L' if mode == '1' else mode)
    if mode == '1':
        image = image.point([0] * 100 + [255] * 156, '1')
    if mode in ('LA', 'RGBA'):
        image.putalpha(0)  # dropped, not blended
    image.save(tmp_path / f'a.{suffix}', **(dict(lossless=True) if suffix == 'webp' else {}))
    img = read_image(tmp_path / f'a.{suffix}')
    assert img.dtype == np.uint8
    assert img.tolist() == expected


# .299 r + .587 g + .114 b
@pytest.mark.parametrize(('mode', 'expected'), [('L', [124] * 3), ('CMYK', [50, 100, 200])])
def test_jpeg_of_other_channels(tmp_path, mode, expected):
    Image.new('RGB', (32, 16), (200, 100, 50)).convert(mode).save(tmp_path / 'a.jpg', quality=100)
    img = read_image(tmp_path / 'a.jpg')
    assert img.shape == (16, 32, 3)
    assert np.abs(img[8, 16].astype(int) - expected).max() <= 2


@pytest.mark.parametrize('suffix', ['png', 'tiff', 'pgm'])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    """Neither clipped, which makes nearly all white, nor wrapped, which makes stripes."""
    values = np.array([[0, 255, 256, 4095, 32768, 65535]] * 4, np.uint16)
    cv2.imwrite(str(tmp_path / f'a.{suffix}'), values)
    img = read_image(tmp_path / f'a.{suffix}')
    assert (img.shape, img.dtype) == ((4, 6, 3), np.uint8)
    assert np.abs(img[0, :, 0] - values[0] / 257).max() <= 1
    for kind in (np.float32, np.int32):
        Image.fromarray(np.full((4, 6), 7, kind)).save(tmp_path / 'a.tiff')
        with pytest.raises(
            ImageError, match='kind of TIFF that OpenCV does not read, such as float'
        ):
            read_image(tmp_path / 'a.tiff')


def test_a_format_without_end_mark_is_not_searched_for_one(tmp_path):
    file = tmp_path / 'a.bmp'
    Image.new('RGB', (3, 2)).save(file)
    assert find_image_fault(file, (3, 2)) is None
    truncate(-4)(file)
    with pytest.raises(ImageError, match='a.bmp cannot be decoded'):
        read_image(file)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ghmdet.datasets.image_file import find_image_fault, read_image_sizes

ORIENTATION = 0x0112


@pytest.fixture(params=['jpg', 'png'])
def file(request, tmp_path) -> Path:
    """A noisy image, 100 wide and 80 high."""
    pixels = np.random.RandomState(0).randint(0, 255, (80, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'a.{request.param}')
    return tmp_path / f'a.{request.param}'


def test_a_good_file_has_no_fault(file):
    assert find_image_fault(file, (100, 80)) is None
    # Trailing data of a camera.
    file.write_bytes(file.read_bytes() + bytes(3000))
    assert find_image_fault(str(file), (100, 80)) is None


@pytest.mark.parametrize(
    ('spoil', 'fault'),
    [
        (lambda file: file.unlink(), 'does not exist'),
        (lambda file: file.write_bytes(b''), 'is empty (0 bytes)'),
        (lambda file: file.write_text('<html>'), 'cannot be read as an image (cannot identify'),
        (lambda file: file.write_bytes(file.read_bytes()[:-12]), 'is cut off: its end marker'),
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), 'is cut off: its end marker'),
    ],
)
def test_faults(file, spoil, fault):
    spoil(file)
    assert find_image_fault(file, (100, 80)).startswith(fault)


def test_a_wrong_size_gives_both(file):
    assert find_image_fault(file, (80, 100)) == (
        'is 100x80 (width x height) but the annotation file says 80x100'
    )


@pytest.mark.parametrize(('orientation', 'shown_wh'), [(3, (100, 80)), (6, (80, 100))])
def test_exif_turns(tmp_path, orientation, shown_wh):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = tmp_path / 'a.jpg'
    Image.new('RGB', (100, 80)).save(file, exif=exif)
    assert read_image_sizes(file) == ((100, 80), shown_wh)
    assert find_image_fault(file, (100, 80)) is None
    assert find_image_fault(file, shown_wh) is None


def test_a_format_without_end_mark_is_not_searched_for_one(tmp_path):
    Image.new('RGB', (3, 2)).save(tmp_path / 'a.bmp')
    assert find_image_fault(tmp_path / 'a.bmp', (3, 2)) is None

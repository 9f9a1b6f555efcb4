"""A demo dataset in COCO format: coloured shapes, drawn from a seed, learnt in minutes."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ghmdet.files import replacing

SHAPES_CLASSES = ('circle', 'square', 'triangle')

_CORNERS = (48, 4, 3)
# (b, g, r) around which the shades of a class lie
_COLOURS = np.array([(60, 60, 210), (60, 190, 60), (210, 90, 60)])
_SIZES_WH = ((256, 192), (192, 256))
_DIAMETERS = (24, 144)
_CROWD_EVERY = 25
_EMPTY_EVERY = 20
_MIN_VISIBLE = 0.6  # share of an object; others may hide the rest


@dataclass
class _Item:
    label: int
    visible: np.ndarray
    num_pixels: int
    is_crowd: bool = False


def draw_shapes(
    out_dir: str | os.PathLike,
    num_images: Mapping[str, int] = {'train': 300, 'val': 60},
    seed: int = 0,
    on_image: Callable[[str, int, int], None] | None = None,
) -> dict[str, Path]:
    """Draw the dataset: `out_dir/<split>/*.jpg` and `out_dir/annotations/<split>.json`.

    Images are 256x192 or 192x256 pixels. Boxes [x, y, width, height] are tight around the visible
    pixels of an object, and areas count them; at least 60 % of an object is visible. A crowd region
    is one box around many small shapes of a class. Every 25th image has one, starting with the
    first; every 20th has no objects, starting with the tenth. All ids start at 1.

    The annotation file of a split is removed first and written last, so that it never exists
    without all of its images.

    Files of the same names are replaced. The same seed gives the same bytes: an image depends on
    the seed, the name of its split and its number, not on the number of images. `on_image` is
    called with (split, images drawn, images in all) after each image. Returned are the annotation
    files by split. A ValueError if a number of images is below 1 or the seed is negative.
    """
    if seed < 0 or not num_images or min(num_images.values()) < 1:
        raise ValueError(
            'expected a seed of at least 0 and at least 1 image in each split, got '
            f'seed {seed} and {dict(num_images)}'
        )
    out_dir = Path(out_dir)
    ann_files = {split: out_dir / 'annotations' / f'{split}.json' for split in num_images}
    (out_dir / 'annotations').mkdir(parents=True, exist_ok=True)
    for split, total in num_images.items():
        ann_files[split].unlink(missing_ok=True)
        (out_dir / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for index in range(total):
            image, anns = _write_image(out_dir / split, seed, split, index)
            images.append(image)
            annotations += anns
            if on_image:
                on_image(split, index + 1, total)
        annotations = [dict(id=number, **ann) for number, ann in enumerate(annotations, start=1)]
        categories = [dict(id=i, name=name) for i, name in enumerate(SHAPES_CLASSES, start=1)]
        coco = dict(images=images, annotations=annotations, categories=categories)
        with replacing(ann_files[split]) as draft:
            draft.write_text(json.dumps(coco))
    return ann_files


def _write_image(folder: Path, seed: int, split: str, index: int) -> tuple[dict, list[dict]]:
    """Write one file; return its entries of `images` and `annotations`."""
    rng = np.random.RandomState([seed, zlib.crc32(split.encode()), index])
    picture, items = _draw_image(rng, index)
    file_name = f'{index + 1:05d}.jpg'
    encoded = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    (folder / file_name).write_bytes(encoded.tobytes())
    height, width = picture.shape[:2]
    image = {'id': index + 1, 'file_name': file_name, 'height': height, 'width': width}
    return image, [_annotate_item(item, index + 1) for item in items]


def _draw_image(rng: np.random.RandomState, index: int) -> tuple[np.ndarray, list[_Item]]:
    """Draw one BGR uint8 image (h, w, 3) and list its objects, later ones in front."""
    width, height = _SIZES_WH[rng.randint(2)]
    picture = _draw_background(rng, width, height)
    items: list[_Item] = []
    if index % _CROWD_EVERY == 0:
        items.append(_draw_crowd(rng, picture))
    if index % _EMPTY_EVERY != _EMPTY_EVERY // 2 - 1:
        for _ in range(rng.randint(1, 6)):
            _draw_object(rng, picture, items)
    noise = rng.randint(-14, 15, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8), items


def _draw_background(rng: np.random.RandomState, width: int, height: int) -> np.ndarray:
    """Draw a gradient of two colours in any direction, (h, w, 3)."""
    first, last = rng.randint(60, 196, (2, 1)) + rng.randint(-25, 26, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[:height, :width]
    along = xs * np.cos(angle) + ys * np.sin(angle)
    along = (along - along.min()) / np.ptp(along)
    return first + along[..., None] * (last - first)


def _draw_object(rng: np.random.RandomState, picture: np.ndarray, items: list[_Item]) -> None:
    """Draw one object that does not hide too much of another, with at most 20 tries."""
    height, width = picture.shape[:2]
    smallest, largest = _DIAMETERS
    for _ in range(20):
        label = rng.randint(len(SHAPES_CLASSES))
        radius = smallest * (largest / smallest) ** rng.uniform() / 2
        # Up to 0.3 of the radius may lie beyond the border.
        centre = rng.uniform(0.7 * radius, np.array([width, height]) - 0.7 * radius)
        mask = _draw_mask(label, centre, radius, rng.uniform(-0.4, 0.4), picture.shape[:2])
        left = [(item, item.visible & ~mask) for item in items]
        if all(np.count_nonzero(seen) >= _MIN_VISIBLE * item.num_pixels for item, seen in left):
            for item, seen in left:
                item.visible = seen
            _paint_mask(rng, picture, mask, label)
            items.append(_Item(label, mask, int(mask.sum())))
            return


def _draw_crowd(rng: np.random.RandomState, picture: np.ndarray) -> _Item:
    """Draw a grid of 4 x 5 small overlapping shapes of one class."""
    height, width = picture.shape[:2]
    label = rng.randint(len(SHAPES_CLASSES))
    corner = rng.uniform(10, np.array([width - 80, height - 65]))
    whole = np.zeros((height, width), dtype=bool)
    for row in range(4):
        for column in range(5):
            centre = corner + np.array([column, row]) * 14 + rng.uniform(-2, 2, 2)
            mask = _draw_mask(label, centre, rng.uniform(6, 9), rng.uniform(-3, 3), whole.shape)
            _paint_mask(rng, picture, mask, label)
            whole |= mask
    return _Item(label, whole, int(whole.sum()), is_crowd=True)


def _draw_mask(
    label: int, centre: np.ndarray, radius: float, turn: float, size_hw: tuple[int, ...]
) -> np.ndarray:
    """Fill a regular polygon: bool (h, w). `turn` is in radians; 0 puts squares on a side."""
    corners = _CORNERS[label]
    angles = turn - np.pi / 2 + (np.arange(corners) + (corners % 2 == 0) / 2) * 2 * np.pi / corners
    outline = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros(size_hw[:2], dtype=np.uint8)
    cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _paint_mask(
    rng: np.random.RandomState, picture: np.ndarray, mask: np.ndarray, label: int
) -> None:
    """Paint with one of eight shades of the class's colour, the one that contrasts most."""
    colours = _COLOURS[label] + rng.randint(-40, 41, (8, 3))
    below = picture[mask].mean(axis=0)
    picture[mask] = colours[np.linalg.norm(colours - below, axis=1).argmax()]


def _annotate_item(item: _Item, image_id: int) -> dict:
    ys, xs = np.nonzero(item.visible)
    x, y = int(xs.min()), int(ys.min())
    return {
        'image_id': image_id,
        'category_id': item.label + 1,
        'bbox': [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
        'area': len(xs),
        'iscrowd': int(item.is_crowd),
    }

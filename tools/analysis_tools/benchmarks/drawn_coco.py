"""Draws COCO annotation files and photograph-like images, so that no data set is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ghmdet.datasets import CocoDataset

CLASSES = CocoDataset.METAINFO['classes']
_SIZES = [(640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (640, 640)]
# Outlines are taken from a pool: drawing one for each box would take minutes.
_NUM_OUTLINES = 2000
# About 23 corners each, so that 860,001 boxes make the 464 MB of train2017. Noise of several widths
# looks, and compresses, like a photo.
_CORNERS = dict(mean=3.02, sigma=0.55)
_NOISE = [(4, 60), (16, 30), (64, 18), (160, 12)]
_JPEG_QUALITY = 85


def draw_annotations(
    path: Path, num_images: int, num_boxes: int, *, outlines: bool, one_size: bool = False
) -> None:
    """Write a COCO annotation file, entry by entry.

    Args:
        path: file to write.
        num_images: images, with ids in no order; about 1 % of them have no box.
        num_boxes: boxes of the 80 COCO classes, in no order; 1 % are crowd regions.
        outlines: give each box a polygon of the length usual in COCO.
        one_size: all images are 640x480, else they are of six sizes.
    """
    rng = np.random.default_rng(0)
    image_ids = rng.permutation(np.arange(1, 5 * num_images))[:num_images].tolist()
    sizes = np.array(_SIZES)[rng.integers(0, 1 if one_size else len(_SIZES), num_images)]
    owners = rng.integers(0, max(1, round(0.99 * num_images)), num_boxes)
    sides = rng.random((num_boxes, 2)) ** 2 * (sizes[owners] - 8) + 4
    corners = rng.random((num_boxes, 2)) * (sizes[owners] - sides)
    boxes = np.concatenate([corners, sides], axis=1).round(2).tolist()
    classes = rng.integers(1, len(CLASSES) + 1, num_boxes).tolist()
    crowds = (rng.random(num_boxes) < 0.01).astype(int).tolist()
    polygons = _draw_outlines(rng) if outlines else ['']

    images = (
        f'{{"license": 3, "file_name": "{image_id:012d}.jpg", "coco_url": '
        f'"http://images.cocodataset.org/train2017/{image_id:012d}.jpg", "height": {h}, '
        f'"width": {w}, "date_captured": "2013-11-14 17:02:52", "flickr_url": '
        f'"http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg", "id": {image_id}}}'
        for image_id, (w, h) in zip(image_ids, sizes.tolist(), strict=True)
    )
    annotations = (
        f'{{{polygons[i % len(polygons)]}"area": {box[2] * box[3] * 0.6:.4f}, "iscrowd": {crowd}, '
        f'"image_id": {image_ids[owner]}, "bbox": {box}, "category_id": {label}, "id": {i + 1}}}'
        for i, (box, crowd, owner, label) in enumerate(
            zip(boxes, crowds, owners.tolist(), classes, strict=True)
        )
    )
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    with path.open('w') as file:
        file.write('{"info": {"year": 2017}, "images": [')
        _write_list(file, images)
        file.write('], "annotations": [')
        _write_list(file, annotations)
        file.write(f'], "categories": {json.dumps(categories)}}}')


def draw_images(folder: Path, file_names: Iterable[str]) -> None:
    """Write JPEGs of 640x480 pixels and about 75 kB: noise that is smooth at several scales."""
    rng = np.random.default_rng(0)
    for name in file_names:
        image = np.full((480, 640, 3), 115, np.float32)
        for columns, contrast in _NOISE:
            noise = rng.normal(0, contrast, (columns * 3 // 4, columns, 3)).astype(np.float32)
            image += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
        image += rng.normal(0, 5, (480, 640, 1)).astype(np.float32)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / name), pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def _draw_outlines(rng: np.random.Generator) -> list[str]:
    counts = np.clip(rng.lognormal(**_CORNERS, size=_NUM_OUTLINES), 3, 200).astype(int)
    points = [(rng.random(2 * count) * 600 + 20).round(2).tolist() for count in counts]
    return [f'"segmentation": [{numbers}], ' for numbers in points]


def _write_list(file, entries: Iterable[str]) -> None:
    for i, entry in enumerate(entries):
        file.write(f', {entry}' if i else entry)

"""Crops at random places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ghmdet.argument_checks import check_numbers, check_range
from ghmdet.datasets.transforms.annotations import place_bboxes, read_bboxes
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.registry import TRANSFORMS

_CROP_TYPES = ('relative_range', 'relative', 'absolute', 'absolute_range')


@TRANSFORMS.register_module()
class RandomCrop(Transform):
    """Crop an image (h, w) at a random place; boxes outside are dropped with labels and flags.

    Height and width of the crop, for `crop_size=(a, b)`, by `crop_type`:

    - `'absolute'`: min(b, h) and min(a, w) pixels: `crop_size` is (width, height);
    - `'absolute_range'`: each drawn from min(a, side) to min(b, side) pixels;
    - `'relative'`: b h and a w, rounded: `crop_size` is (width, height);
    - `'relative_range'`: h times a number in [a, 1], w times one in [b, 1]: (height, width).

    This is what MMDetection does, which describes `'relative'` in two ways. A crop has at least one
    pixel, where MMDetection fails.

    Args:
        crop_size: two integers of at least 1, or for relative crops two numbers in (0, 1].
        crop_type: see above.
        allow_negative_crop: whether to keep a crop without a box. Else another image is asked for.
            An image without `gt_bboxes` is kept.
        recompute_bbox: makes no difference; it would take boxes from masks.
        bbox_clip_border: whether to cut off boxes at the edges of the crop.
        box_prob: probability that the crop is put around a box, drawn from those of the image, so
            that few small objects in large images are seen often: it contains the box or, if that
            is larger, lies within it. Not in MMDetection; 0 is its RandomCrop.
    """

    moves_boxes = True

    def __init__(
        self,
        crop_size: Sequence[float],
        crop_type: str = 'absolute',
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
        box_prob: float = 0,
    ) -> None:
        if crop_type not in _CROP_TYPES:
            raise ValueError(f'RandomCrop.crop_type: one of {_CROP_TYPES}, got {crop_type!r}')
        whole, rising = crop_type.startswith('absolute'), crop_type == 'absolute_range'
        low, high = (1, math.inf) if whole else (1e-6, 1)
        check_numbers('RandomCrop.crop_size', crop_size, 2, low, high, whole=whole, rising=rising)
        self.crop_size, self.crop_type = crop_size, crop_type
        check_range('RandomCrop.box_prob', box_prob, 0, 1)
        self.allow_negative_crop, self.bbox_clip_border = allow_negative_crop, bbox_clip_border
        self.box_prob = box_prob

    def _get_crop_size(self, image_hw: Sequence[int]) -> tuple[int, ...]:
        (h, w), (a, b) = image_hw, self.crop_size
        if self.crop_type == 'absolute':
            return min(int(b), h), min(int(a), w)
        if self.crop_type == 'absolute_range':
            limits = [(min(side, int(a)), min(side, int(b)) + 1) for side in (h, w)]
            return tuple(np.random.randint(low, high) for low, high in limits)
        share_h, share_w = b, a
        if self.crop_type == 'relative_range':
            low = np.array([a, b], dtype=np.float32)
            share_h, share_w = low + np.random.rand(2) * (1 - low)
        return max(1, int(h * share_h + 0.5)), max(1, int(w * share_w + 0.5))

    def transform(self, results: dict) -> dict | None:
        """Crop `img` and its boxes; None asks for another image."""
        img, bboxes = results['img'], read_bboxes(results)
        h, w = self._get_crop_size(img.shape[:2])
        low, high = np.zeros(2, dtype=int), np.array(img.shape[:2]) - (h, w)
        boxes = () if bboxes is None else bboxes
        if self.box_prob and len(boxes) and np.random.rand() < self.box_prob:
            x1, y1, x2, y2 = boxes[np.random.randint(len(boxes))]
            ends = np.sort([(y2 - h, x2 - w), (y1, x1)], axis=0)
            low, high = np.clip([np.ceil(ends[0]), np.floor(ends[1])], low, high).astype(int)
            high = np.maximum(low, high)  # where a box is as large as the crop
        top, left = (np.random.randint(a, b + 1) for a, b in zip(low, high, strict=True))
        results['img'], results['img_shape'] = img[top : top + h, left : left + w], (h, w)
        if bboxes is None:
            return results
        bboxes = bboxes - np.array([left, top, left, top], dtype=np.float32)
        left_over = place_bboxes(results, bboxes, self.bbox_clip_border)
        return results if left_over or self.allow_negative_crop else None


@TRANSFORMS.register_module()
class MinIoURandomCrop(Transform):
    """Crop an image so that each box has at least a drawn IoU with the crop, as SSD does.

    The IoU is drawn from `min_ious`, 0 (any crop) and 1 (the image is kept). For each, up to 50
    crops are tried, with a ratio of height to width in [0.5, 2]; then another IoU is drawn. Boxes
    whose centre is outside the crop are dropped with their labels and flags; at least one is left,
    unless there was none.

    As in MMDetection a crop begins at pixel 1 or later in each direction, unless it is less than
    1 pixel smaller than the image: its `uniform(w - new_w)` draws from 1, not 0, to w - new_w.

    Args:
        min_ious: the IoUs, in [0, 1].
        min_crop_size: the smallest share of each side.
        bbox_clip_border: whether to cut off boxes at the edges of the crop.
    """

    moves_boxes = True

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        bbox_clip_border: bool = True,
    ) -> None:
        check_numbers('MinIoURandomCrop.min_ious', min_ious, len(min_ious), 0, 1)
        check_range('MinIoURandomCrop.min_crop_size', min_crop_size, 0, 1)
        self.min_ious, self.min_crop_size = min_ious, min_crop_size
        self.bbox_clip_border = bbox_clip_border

    def transform(self, results: dict) -> dict:
        """Crop `img` and its boxes."""
        img, bboxes = results['img'], read_bboxes(results)
        if bboxes is None:
            bboxes = np.zeros((0, 4), dtype=np.float32)
        centers = (bboxes[:, :2] + bboxes[:, 2:]) / 2
        while (min_iou := np.random.choice((1, *self.min_ious, 0))) != 1:
            for _ in range(50):
                patch = self._draw_patch(*img.shape[:2])
                if patch is None:
                    continue
                inside = ((centers > patch[:2]) & (centers < patch[2:])).all(axis=1)
                if len(bboxes) and (_ious(patch, bboxes).min() < min_iou or not inside.any()):
                    continue
                x1, y1, x2, y2 = patch.tolist()
                results['img'], results['img_shape'] = img[y1:y2, x1:x2], (y2 - y1, x2 - x1)
                if len(bboxes):
                    moved = bboxes - np.array([x1, y1, x1, y1], dtype=np.float32)
                    place_bboxes(results, moved, self.bbox_clip_border, inside)
                return results
        return results

    def _draw_patch(self, h: int, w: int) -> np.ndarray | None:
        """Return a crop x1, y1, x2, y2 in pixels, None if the one that was drawn is not allowed."""
        new_w = np.random.uniform(self.min_crop_size * w, w)
        new_h = np.random.uniform(self.min_crop_size * h, h)
        if not 0.5 <= new_h / new_w <= 2:
            return None
        left, top = np.random.uniform(w - new_w), np.random.uniform(h - new_h)
        patch = np.array([int(left), int(top), int(left + new_w), int(top + new_h)])
        return None if (patch[:2] == patch[2:]).any() else patch


def _ious(patch: np.ndarray, bboxes: np.ndarray) -> np.ndarray:
    """IoU of a crop (4,) with each box (n,), float32."""
    patch = patch.astype(np.float32)
    sides = np.minimum(patch[2:], bboxes[:, 2:]) - np.maximum(patch[:2], bboxes[:, :2])
    overlaps = np.clip(sides, 0, None).prod(axis=1)
    areas = (bboxes[:, 2:] - bboxes[:, :2]).prod(axis=1)
    unions = (patch[2:] - patch[:2]).prod() + areas - overlaps
    return overlaps / np.maximum(unions, np.float32(1e-6))

"""Crops at random places."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from mmcv.transforms.utils import cache_randomness

from ghmdet.argument_checks import check_flag, check_numbers, check_range, is_number
from ghmdet.datasets.transforms.annotations import (
    clip_bboxes,
    find_inside,
    keep_annotations,
    read_bboxes,
    shift_bboxes,
)
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.messages import shorten
from ghmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomCrop(Transform):
    """Crop an image (h, w) at a random place; boxes outside are dropped with labels and flags.

    | `crop_type` | height and width of the crop, for `crop_size=(a, b)` |
    |---|---|
    | `'absolute'` | min(b, h) and min(a, w) pixels: `crop_size` is (width, height) |
    | `'absolute_range'` | each drawn from min(a, side) to min(b, side) pixels |
    | `'relative'` | round(b h) and round(a w): `crop_size` is (width, height) |
    | `'relative_range'` | h times a number in [a, 1], and w times one in [b, 1] |

    The last one has the height first, in MMDetection too. A crop has at least one pixel, where
    MMDetection fails.

    Args:
        crop_size: two integers of at least 1, for 'relative' ones two numbers in (0, 1].
        crop_type: see the table.
        allow_negative_crop: whether to keep a crop without a box. Else another image is asked for.
            An image without `gt_bboxes` is kept.
        recompute_bbox: makes no difference; it would take boxes from masks.
        bbox_clip_border: whether to cut off boxes at the edges of the crop.
    """

    moves_boxes = True

    def __init__(
        self,
        crop_size: Sequence[float],
        crop_type: str = 'absolute',
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
    ) -> None:
        kinds = ['relative_range', 'relative', 'absolute', 'absolute_range']
        if crop_type not in kinds:
            raise ValueError(f'RandomCrop.crop_type must be one of {kinds}, got {crop_type!r}')
        valid, expected = _is_share, f'2 numbers in (0, 1] for crop_type={crop_type!r}'
        if crop_type.startswith('absolute'):
            valid, expected = _is_count, f'2 integers of at least 1 for crop_type={crop_type!r}'
        check_numbers('RandomCrop.crop_size', crop_size, expected, valid)
        if crop_type == 'absolute_range':
            check_numbers('RandomCrop.crop_size', crop_size, 'a range (low, high)', _is_range)
        for key, value in (
            ('allow_negative_crop', allow_negative_crop),
            ('recompute_bbox', recompute_bbox),
            ('bbox_clip_border', bbox_clip_border),
        ):
            check_flag(f'RandomCrop.{key}', value)
        self.crop_size, self.crop_type = crop_size, crop_type
        self.allow_negative_crop, self.bbox_clip_border = allow_negative_crop, bbox_clip_border

    @cache_randomness
    def _get_crop_size(self, image_hw: Sequence[int]) -> tuple[int, ...]:
        (h, w), (a, b) = image_hw, self.crop_size
        if self.crop_type == 'absolute':
            return min(int(b), h), min(int(a), w)
        if self.crop_type == 'absolute_range':
            return tuple(
                np.random.randint(min(side, int(a)), min(side, int(b)) + 1) for side in (h, w)
            )
        share_h, share_w = b, a
        if self.crop_type == 'relative_range':
            low = np.array([a, b], dtype=np.float32)
            share_h, share_w = low + np.random.rand(2) * (1 - low)
        return max(1, int(h * share_h + 0.5)), max(1, int(w * share_w + 0.5))

    @cache_randomness
    def _rand_offset(self, margin_hw: Sequence[int]) -> tuple[int, int]:
        return np.random.randint(0, margin_hw[0] + 1), np.random.randint(0, margin_hw[1] + 1)

    def transform(self, results: dict) -> dict | None:
        """Crop `img` and its boxes; None asks for another image."""
        image_hw = results['img'].shape[:2]
        h, w = self._get_crop_size(image_hw)
        top, left = self._rand_offset((image_hw[0] - h, image_hw[1] - w))
        results['img'] = results['img'][top : top + h, left : left + w]
        results['img_shape'] = (h, w)
        bboxes = read_bboxes(results)
        if bboxes is None:
            return results
        bboxes = shift_bboxes(bboxes, -left, -top)
        if self.bbox_clip_border:
            bboxes = clip_bboxes(bboxes, (h, w))
        inside = find_inside(bboxes, (h, w))
        if not inside.any() and not self.allow_negative_crop:
            return None
        results['gt_bboxes'] = bboxes
        keep_annotations(results, inside)
        return results


@TRANSFORMS.register_module()
class MinIoURandomCrop(Transform):
    """Crop an image so that each box has at least a drawn IoU with the crop, as SSD does.

    The IoU is drawn from `min_ious`, 0 (any crop) and 1 (the image is kept). For each, up to 50
    crops are tried, with sides from `min_crop_size` to 1 of the image's and a ratio of height to
    width in [0.5, 2]; then another IoU is drawn. Boxes whose centre is outside the crop are dropped
    with their labels and flags; at least one is left, unless there was none.

    As in MMDetection the crop begins at pixel 1 or later in each direction, unless it is less than
    1 pixel smaller than the image: its `uniform(w - new_w)` draws from 1 to w - new_w, not from 0.

    Args:
        min_ious: the IoUs, in [0, 1].
        min_crop_size: the smallest share of the sides, in (0, 1].
        bbox_clip_border: whether to cut off boxes at the edges of the crop.
    """

    moves_boxes = True

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        bbox_clip_border: bool = True,
    ) -> None:
        if isinstance(min_ious, str) or not all(is_number(iou, 0, 1) for iou in min_ious):
            raise ValueError(
                f'MinIoURandomCrop.min_ious must be numbers in [0, 1], got {shorten(min_ious)}'
            )
        check_range('MinIoURandomCrop.min_crop_size', min_crop_size, 0, 1)
        check_flag('MinIoURandomCrop.bbox_clip_border', bbox_clip_border)
        self.min_ious, self.min_crop_size = min_ious, min_crop_size
        self.bbox_clip_border = bbox_clip_border

    @cache_randomness
    def _random_mode(self) -> float:
        return np.random.choice((1, *self.min_ious, 0))

    def transform(self, results: dict) -> dict:
        """Crop `img` and its boxes."""
        bboxes = read_bboxes(results)
        if bboxes is None:
            bboxes = np.zeros((0, 4), dtype=np.float32)
        centers = (bboxes[:, :2] + bboxes[:, 2:]) / 2
        while (min_iou := self._random_mode()) != 1:
            for _ in range(50):
                patch = self._draw_patch(results['img'].shape[:2])
                if patch is None:
                    continue
                inside = ((centers > patch[:2]) & (centers < patch[2:])).all(axis=1)
                if len(bboxes) and (_ious(patch, bboxes).min() < min_iou or not inside.any()):
                    continue
                return self._crop(results, patch, bboxes, inside)
        return results

    def _draw_patch(self, image_hw: Sequence[int]) -> np.ndarray | None:
        """Return a crop x1, y1, x2, y2 in pixels, None if the one that was drawn is not allowed."""
        h, w = image_hw
        new_w = np.random.uniform(self.min_crop_size * w, w)
        new_h = np.random.uniform(self.min_crop_size * h, h)
        if not 0.5 <= new_h / new_w <= 2:
            return None
        left, top = np.random.uniform(w - new_w), np.random.uniform(h - new_h)
        patch = np.array([int(left), int(top), int(left + new_w), int(top + new_h)])
        return None if (patch[:2] == patch[2:]).any() else patch

    def _crop(
        self, results: dict, patch: np.ndarray, bboxes: np.ndarray, inside: np.ndarray
    ) -> dict:
        x1, y1, x2, y2 = patch.tolist()
        results['img'] = results['img'][y1:y2, x1:x2]
        results['img_shape'] = results['img'].shape[:2]
        if len(bboxes):
            bboxes = shift_bboxes(bboxes, -x1, -y1)
            if self.bbox_clip_border:
                bboxes = clip_bboxes(bboxes, (y2 - y1, x2 - x1))
            results['gt_bboxes'] = bboxes
            keep_annotations(results, inside)
        return results


def _ious(patch: np.ndarray, bboxes: np.ndarray) -> np.ndarray:
    """IoU of a crop (4,) with each box (n,), float32."""
    patch = patch.astype(np.float32)
    sides = np.minimum(patch[2:], bboxes[:, 2:]) - np.maximum(patch[:2], bboxes[:, :2])
    overlaps = np.clip(sides, 0, None).prod(axis=1)
    areas = (bboxes[:, 2:] - bboxes[:, :2]).prod(axis=1)
    unions = (patch[2:] - patch[:2]).prod() + areas - overlaps
    return overlaps / np.maximum(unions, np.float32(1e-6))


def _is_count(*values: float) -> bool:
    return all(isinstance(value, Integral) and value >= 1 for value in values)


def _is_share(*values: float) -> bool:
    return all(0 < value <= 1 for value in values)


def _is_range(low: float, high: float) -> bool:
    return low <= high

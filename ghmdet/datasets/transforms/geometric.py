"""Changes of the place of everything in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import cv2
import numpy as np
from mmcv.transforms.utils import cache_randomness

from ghmdet.argument_checks import check_factor, check_flag, check_numbers, check_range
from ghmdet.datasets.transforms.annotations import (
    clip_bboxes,
    find_inside,
    keep_annotations,
    read_bboxes,
    shift_bboxes,
)
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Expand(Transform):
    """Put the image at a random place of a larger canvas, as SSD does.

    Args:
        mean: three values, in RGB if `to_rgb`, of the pixels around the image. An image of integers
            has them without decimals, a grey image their average.
        to_rgb: whether `mean` is in RGB; else it is in BGR, as the image is.
        ratio_range: lowest and highest ratio of the sides of the canvas to those of the image, at
            least 1.
        seg_ignore_label: not used; ghmdet has no segmentation.
        prob: the probability of a change.
    """

    moves_boxes = True

    def __init__(
        self,
        mean: Sequence[float] = (0, 0, 0),
        to_rgb: bool = True,
        ratio_range: Sequence[float] = (1, 4),
        seg_ignore_label: int | None = None,
        prob: float = 0.5,
    ) -> None:
        check_numbers('Expand.mean', mean, '3 numbers in [0, 255]', _are_pixels, count=3)
        check_flag('Expand.to_rgb', to_rgb)
        expected = '2 numbers of at least 1 in rising order'
        check_numbers('Expand.ratio_range', ratio_range, expected, lambda a, b: 1 <= a <= b)
        check_range('Expand.prob', prob, 0, 1)
        self.mean = mean[::-1] if to_rgb else mean  # in BGR
        self.to_rgb, self.ratio_range, self.prob = to_rgb, ratio_range, prob

    @cache_randomness
    def _random_prob(self) -> float:
        return np.random.uniform(0, 1)

    @cache_randomness
    def _random_ratio(self) -> float:
        low, high = self.ratio_range
        return np.random.uniform(low, high)

    @cache_randomness
    def _random_left_top(self, ratio: float, h: int, w: int) -> tuple[int, int]:
        left = int(np.random.uniform(0, w * ratio - w))
        return left, int(np.random.uniform(0, h * ratio - h))

    def transform(self, results: dict) -> dict:
        """Expand `img`, and move its boxes."""
        if self._random_prob() > self.prob:
            return results
        img = results['img']
        h, w = img.shape[:2]
        ratio = self._random_ratio()
        left, top = self._random_left_top(ratio, h, w)
        shape = (int(h * ratio), int(w * ratio), *img.shape[2:])
        fill = self.mean if img.ndim == 3 else np.mean(self.mean)
        results['img'] = np.full(shape, fill, dtype=img.dtype)
        results['img'][top : top + h, left : left + w] = img
        results['img_shape'] = shape[:2]
        bboxes = read_bboxes(results)
        if bboxes is not None:
            results['gt_bboxes'] = shift_bboxes(bboxes, left, top)
        return results


@TRANSFORMS.register_module()
class RandomAffine(Transform):
    """Scale, rotate, shear and move an image, in this order, as YOLOX does.

    As in MMDetection this is done around the top left corner of the image, not its centre. A box
    becomes the smallest box around its four corners. Boxes outside are dropped with their labels
    and flags; the image may be left without boxes.

    Args:
        max_rotate_degree: the largest rotation, clockwise or not.
        max_translate_ratio: the largest move, as a share of the side, in [0, 1].
        scaling_ratio_range: the lowest and the highest factor.
        max_shear_degree: the largest shear of each direction.
        border: pixels (width, height) that are added at each side of the output; may be negative.
        border_val: three values, in BGR, of pixels from outside the image.
        bbox_clip_border: whether to cut off boxes at the edges of the output.
    """

    moves_boxes = True

    def __init__(
        self,
        max_rotate_degree: float = 10.0,
        max_translate_ratio: float = 0.1,
        scaling_ratio_range: Sequence[float] = (0.5, 1.5),
        max_shear_degree: float = 2.0,
        border: Sequence[int] = (0, 0),
        border_val: Sequence[float] = (114, 114, 114),
        bbox_clip_border: bool = True,
    ) -> None:
        check_factor('RandomAffine.max_rotate_degree', max_rotate_degree)
        check_range('RandomAffine.max_translate_ratio', max_translate_ratio, 0, 1)
        expected = '2 positive numbers in rising order'
        check_numbers(
            'RandomAffine.scaling_ratio_range',
            scaling_ratio_range,
            expected,
            lambda a, b: 0 < a <= b,
        )
        check_factor('RandomAffine.max_shear_degree', max_shear_degree)
        check_numbers('RandomAffine.border', border, '2 integers', _are_integers)
        expected = '3 numbers in [0, 255]'
        check_numbers('RandomAffine.border_val', border_val, expected, _are_pixels, count=3)
        check_flag('RandomAffine.bbox_clip_border', bbox_clip_border)
        self.max_rotate_degree, self.max_translate_ratio = max_rotate_degree, max_translate_ratio
        self.scaling_ratio_range, self.max_shear_degree = scaling_ratio_range, max_shear_degree
        self.border, self.border_val, self.bbox_clip_border = border, border_val, bbox_clip_border

    @cache_randomness
    def _get_random_homography_matrix(self, height: int, width: int) -> np.ndarray:
        """Draw the matrix (3, 3), float32, from the pixels of the input to those of the output."""
        degree, shear, share = (
            (-limit, limit)
            for limit in (self.max_rotate_degree, self.max_shear_degree, self.max_translate_ratio)
        )
        angle = math.radians(np.random.uniform(*degree))
        low, high = self.scaling_ratio_range
        scale = np.random.uniform(low, high)
        shear_x, shear_y = (np.tan(math.radians(np.random.uniform(*shear))) for _ in 'xy')
        x, y = (np.random.uniform(*share) * side for side in (width, height))
        cos, sin = np.cos(angle), np.sin(angle)
        move, shear_, rotate, enlarge = (
            np.array([*rows, [0, 0, 1]], dtype=np.float32)
            for rows in (
                [[1, 0, x], [0, 1, y]],
                [[1, shear_x, 0], [shear_y, 1, 0]],
                [[cos, -sin, 0], [sin, cos, 0]],
                [[scale, 0, 0], [0, scale, 0]],
            )
        )
        return move @ shear_ @ rotate @ enlarge

    def transform(self, results: dict) -> dict:
        """Warp `img` and its boxes."""
        img = results['img']
        height, width = (
            side + 2 * border for side, border in zip(img.shape, self.border[::-1], strict=False)
        )
        if min(height, width) < 1:
            raise ValueError(
                f'RandomAffine.border={tuple(self.border)} leaves nothing of an image of '
                f'{img.shape[1]}x{img.shape[0]} (width x height)'
            )
        matrix = self._get_random_homography_matrix(height, width)
        results['img'] = cv2.warpPerspective(
            img, matrix, dsize=(width, height), borderValue=tuple(self.border_val)
        )
        results['img_shape'] = (height, width)
        bboxes = read_bboxes(results)
        if bboxes is not None and len(bboxes):
            bboxes = _project(bboxes, matrix)
            if self.bbox_clip_border:
                bboxes = clip_bboxes(bboxes, (height, width))
            results['gt_bboxes'] = bboxes
            keep_annotations(results, find_inside(bboxes, (height, width)))
        return results


def _project(bboxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the smallest boxes (n, 4) around the corners of boxes after an affine map."""
    xs, ys = bboxes[:, [0, 2, 0, 2]], bboxes[:, [1, 1, 3, 3]]
    corners = matrix @ np.stack([xs, ys, np.ones_like(xs)], axis=1)  # (n, 3, 4)
    return np.concatenate([corners[:, :2].min(axis=2), corners[:, :2].max(axis=2)], axis=1)


def _are_pixels(*values: float) -> bool:
    return all(0 <= value <= 255 for value in values)


def _are_integers(*values: float) -> bool:
    return all(isinstance(value, Integral) for value in values)

"""Changes of the place of everything in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ghmdet.argument_checks import check_factor, check_numbers, check_range
from ghmdet.datasets.transforms.annotations import place_bboxes, read_bboxes
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Expand(Transform):
    """Put the image at a random place of a larger canvas, as SSD does.

    Args:
        mean: three values, in RGB if `to_rgb`, of the pixels around the image. An image of integers
            has them without decimals, a grey image their average.
        to_rgb: whether `mean` is in RGB; else it is in BGR, as the image is.
        ratio_range: lowest and highest ratio of the sides of the canvas to those of the image.
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
        check_numbers('Expand.mean', mean, 3, 0, 255)
        check_numbers('Expand.ratio_range', ratio_range, low=1, rising=True)
        check_range('Expand.prob', prob, 0, 1)
        self.bgr = mean[::-1] if to_rgb else mean
        self.ratio_range, self.prob = ratio_range, prob

    def transform(self, results: dict) -> dict:
        """Expand `img`, and move its boxes."""
        if np.random.uniform(0, 1) > self.prob:
            return results
        img, bboxes = results['img'], read_bboxes(results)
        (h, w), (low, high) = img.shape[:2], self.ratio_range
        ratio = np.random.uniform(low, high)
        left, top = (int(np.random.uniform(0, side * ratio - side)) for side in (w, h))
        shape = (int(h * ratio), int(w * ratio), *img.shape[2:])
        fill = self.bgr if img.ndim == 3 else np.mean(self.bgr)
        results['img'], results['img_shape'] = np.full(shape, fill, dtype=img.dtype), shape[:2]
        results['img'][top : top + h, left : left + w] = img
        if bboxes is not None:
            results['gt_bboxes'] = bboxes + np.array([left, top, left, top], dtype=np.float32)
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
        ratios = scaling_ratio_range
        check_factor('RandomAffine.max_rotate_degree', max_rotate_degree)
        check_range('RandomAffine.max_translate_ratio', max_translate_ratio, 0, 1)
        check_numbers('RandomAffine.scaling_ratio_range', ratios, low=1e-6, rising=True)
        check_factor('RandomAffine.max_shear_degree', max_shear_degree)
        check_numbers('RandomAffine.border', border, whole=True)
        check_numbers('RandomAffine.border_val', border_val, 3, 0, 255)
        self.max_rotate_degree, self.max_shear_degree = max_rotate_degree, max_shear_degree
        self.max_translate_ratio, self.scaling_ratio_range = max_translate_ratio, ratios
        self.border, self.border_val, self.bbox_clip_border = border, border_val, bbox_clip_border

    def _draw_matrix(self, height: int, width: int) -> np.ndarray:
        """Draw the matrix (3, 3), float32, from the pixels of the input to those of the output."""
        shear, share = self.max_shear_degree, self.max_translate_ratio
        angle = math.radians(np.random.uniform(-self.max_rotate_degree, self.max_rotate_degree))
        low, high = self.scaling_ratio_range
        scale = np.random.uniform(low, high)
        shear_x, shear_y = (np.tan(math.radians(np.random.uniform(-shear, shear))) for _ in 'xy')
        x, y = (np.random.uniform(-share, share) * side for side in (width, height))
        cos, sin = np.cos(angle), np.sin(angle)
        rows = (
            [[1, 0, x], [0, 1, y]],
            [[1, shear_x, 0], [shear_y, 1, 0]],
            [[cos, -sin, 0], [sin, cos, 0]],
            [[scale, 0, 0], [0, scale, 0]],
        )
        move, slant, rotate, scale_up = (np.array([*r, [0, 0, 1]], dtype=np.float32) for r in rows)
        return move @ slant @ rotate @ scale_up

    def transform(self, results: dict) -> dict:
        """Warp `img` and its boxes."""
        img, bboxes = results['img'], read_bboxes(results)
        (h, w), (border_w, border_h) = img.shape[:2], self.border
        height, width = h + 2 * border_h, w + 2 * border_w
        if min(height, width) < 1:
            raise ValueError(
                f'RandomAffine.border={tuple(self.border)} leaves nothing of an image of '
                f'{w}x{h} (width x height)'
            )
        matrix = self._draw_matrix(height, width)
        results['img'] = cv2.warpPerspective(
            img, matrix, dsize=(width, height), borderValue=tuple(self.border_val)
        )
        results['img_shape'] = (height, width)
        if bboxes is not None:
            xs, ys = bboxes[:, [0, 2, 0, 2]], bboxes[:, [1, 1, 3, 3]]
            corners = (matrix @ np.stack([xs, ys, np.ones_like(xs)], axis=1))[:, :2]  # (n, 2, 4)
            moved = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=1)
            place_bboxes(results, moved, self.bbox_clip_border)
        return results

"""Boxes, labels and ignore flags that stay aligned, and FilterAnnotations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ghmdet.argument_checks import check_flag, check_numbers
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.registry import TRANSFORMS

_ALIGNED = ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags')


def read_bboxes(results: dict) -> np.ndarray | None:
    """Return the boxes as a new float32 array (n, 4), None where there are none to move.

    They are float64 after mmcv's Resize.
    """
    bboxes = results.get('gt_bboxes')
    return None if bboxes is None else np.array(bboxes, dtype=np.float32).reshape(-1, 4)


def keep_annotations(results: dict, kept: np.ndarray) -> None:
    """Keep the boxes, labels and flags at `kept`, a mask (n,) or indices."""
    for key in _ALIGNED:
        if results.get(key) is not None:
            results[key] = np.asarray(results[key])[kept]


def shift_bboxes(bboxes: np.ndarray, left: float, top: float) -> np.ndarray:
    """Return boxes (n, 4) moved to the right and down."""
    return bboxes + np.array([left, top, left, top], dtype=np.float32)


def clip_bboxes(bboxes: np.ndarray, hw: Sequence[int]) -> np.ndarray:
    """Return boxes (n, 4) cut off at the edges of an image."""
    return np.clip(bboxes, np.float32(0), np.array([*hw[1::-1], *hw[1::-1]], dtype=np.float32))


def find_inside(bboxes: np.ndarray, hw: Sequence[int]) -> np.ndarray:
    """Return which boxes (n,) are at least partly inside an image; touching its edge is not."""
    x1, y1, x2, y2 = bboxes.T
    return (x1 < hw[1]) & (y1 < hw[0]) & (x2 > 0) & (y2 > 0)


@TRANSFORMS.register_module()
class FilterAnnotations(Transform):
    """Drop boxes that are too small, with their labels and ignore flags.

    Without `gt_bboxes` nothing is changed.

    Args:
        min_gt_bbox_wh: a box is kept if it is wider and higher than this, in pixels.
        min_gt_mask_area: not used; ghmdet has no masks.
        by_box: only True.
        by_mask: only False.
        keep_empty: what its description in MMDetection says, not what its name says: True asks for
            another image when all boxes are dropped, False keeps the image without boxes. An image
            that had no box before is kept either way.
    """

    def __init__(
        self,
        min_gt_bbox_wh: Sequence[float] = (1, 1),
        min_gt_mask_area: int = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        check_numbers('FilterAnnotations.min_gt_bbox_wh', min_gt_bbox_wh, '2 numbers')
        check_flag('FilterAnnotations.by_box', by_box, (True,))
        check_flag('FilterAnnotations.by_mask', by_mask, (False,))
        check_flag('FilterAnnotations.keep_empty', keep_empty)
        self.min_gt_bbox_wh, self.keep_empty = min_gt_bbox_wh, keep_empty

    def transform(self, results: dict) -> dict | None:
        """Filter the annotations; None asks for another image."""
        bboxes = read_bboxes(results)
        if bboxes is None or not len(bboxes):
            return results
        sides = bboxes[:, 2:] - bboxes[:, :2]
        kept = (sides > np.array(self.min_gt_bbox_wh, dtype=np.float32)).all(axis=1)
        if self.keep_empty and not kept.any():
            return None
        keep_annotations(results, kept)
        return results

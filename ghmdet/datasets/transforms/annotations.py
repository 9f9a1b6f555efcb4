"""Boxes, labels and ignore flags that stay aligned, and FilterAnnotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ghmdet.argument_checks import check_flag, check_numbers
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.registry import TRANSFORMS


def read_bboxes(results: dict) -> np.ndarray | None:
    """Return the boxes as float32 (n, 4), None without the key; mmcv's Resize makes float64."""
    bboxes = results.get('gt_bboxes')
    return None if bboxes is None else np.asarray(bboxes, dtype=np.float32).reshape(-1, 4)


def keep_annotations(results: dict, kept: np.ndarray) -> None:
    """Keep the boxes, labels and flags at `kept`, a mask (n,) or indices."""
    for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'):
        if results.get(key) is not None:
            results[key] = np.asarray(results[key])[kept]


def place_bboxes(
    results: dict, bboxes: np.ndarray, clips: bool, kept: np.ndarray | None = None
) -> int:
    """Set the boxes (n, 4) after a move, and return how many are left.

    They are cut off at the edges of the image if `clips`. Those `kept`, a mask (n,), stay with
    their labels and flags, by default those at least partly inside; touching an edge is not.
    """
    h, w = results['img_shape']
    if clips:
        bboxes = np.clip(bboxes, 0, np.array([w, h, w, h], dtype=np.float32))
    inside: Any = ((bboxes[:, :2] < (w, h)) & (bboxes[:, 2:] > 0)).all(axis=1)
    results['gt_bboxes'] = bboxes
    keep_annotations(results, inside if kept is None else kept)
    return len(results['gt_bboxes'])


@TRANSFORMS.register_module()
class FilterAnnotations(Transform):
    """Drop boxes that are too small, with their labels and ignore flags.

    Args:
        min_gt_bbox_wh: a box is kept if it is wider and higher than this, in pixels.
        min_gt_mask_area: not used; ghmdet has no masks.
        by_box: only True.
        by_mask: only False.
        keep_empty: as MMDetection describes it, against its name: True asks for another image when
            all boxes are dropped, False keeps the image. One that had no box is kept either way.
    """

    def __init__(
        self,
        min_gt_bbox_wh: Sequence[float] = (1, 1),
        min_gt_mask_area: int = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        check_numbers('FilterAnnotations.min_gt_bbox_wh', min_gt_bbox_wh)
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
        keep_annotations(results, kept)
        return None if self.keep_empty and not kept.any() else results

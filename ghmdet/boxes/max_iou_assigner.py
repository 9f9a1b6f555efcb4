"""Matches anchors to objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ghmdet.argument_checks import is_number
from ghmdet.registry import TASK_UTILS

# Pairs of gt and prior compared at a time; bounds the memory for images with many objects.
_MAX_PAIRS = 2**20


class AssignResult(NamedTuple):
    """Result of `MaxIoUAssigner.assign` for P priors."""

    gt_inds: Tensor  # int64 (P,): -1 ignored, 0 background, i + 1 gt i
    # float32 (P,): best IoU with any gt; -1 inside an ignored region, 0 without gts
    max_overlaps: Tensor


@TASK_UTILS.register_module()
class MaxIoUAssigner:
    """Matches priors to ground truth by intersection over union (IoU).

    In this order: a prior whose best IoU is below `neg_iou_thr` is background; one whose best IoU
    is at least `pos_iou_thr` is assigned that gt; with `match_low_quality` each gt is assigned the
    priors of its best IoU if that is at least `min_pos_iou`, a later gt replacing an earlier one.
    All other priors are ignored.

    Args:
        pos_iou_thr: minimum IoU of a positive.
        neg_iou_thr: background below it; with a pair (low, high) only [low, high) is background.
        min_pos_iou: minimum IoU for `match_low_quality`.
        gt_max_assign_all: assign a gt all priors of its best IoU, not only the first.
        ignore_iof_thr: a prior is ignored if more than this fraction of it is in one ignored
            region. -1: ignored regions count as background.
        match_low_quality: see above.

    Raises:
        ValueError: a threshold is no number in [0, 1], or neg_iou_thr is above pos_iou_thr.

    Example:
        >>> assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
        >>> priors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
        >>> assigner.assign(priors, gt_bboxes=torch.tensor([[0.0, 0.0, 10.0, 12.0]])).gt_inds
        tensor([1, 0])
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float | tuple[float, float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        match_low_quality: bool = True,
    ) -> None:
        is_pair = isinstance(neg_iou_thr, list | tuple) and len(neg_iou_thr) == 2
        pair: Any = neg_iou_thr if is_pair else (0.0, neg_iou_thr)
        low, high = pair
        are_numbers = all(is_number(value, 0, 1) for value in (low, high, pos_iou_thr, min_pos_iou))
        if not are_numbers or not low <= high <= pos_iou_thr:
            raise ValueError(
                'train_cfg.assigner: expected 0 <= neg_iou_thr <= pos_iou_thr <= 1 and min_pos_iou '
                f'in [0, 1], got neg_iou_thr={neg_iou_thr!r}, pos_iou_thr={pos_iou_thr!r}, '
                f'min_pos_iou={min_pos_iou!r}'
            )
        if not is_number(ignore_iof_thr, high=1):
            raise ValueError(
                'train_cfg.assigner.ignore_iof_thr must be a number in [0, 1], or -1 to turn it '
                f'off, got {ignore_iof_thr!r}'
            )
        self.pos_iou_thr = pos_iou_thr
        self.neg_iou_range = (low, high)
        self.min_pos_iou = min_pos_iou
        self.gt_max_assign_all = gt_max_assign_all
        self.ignore_iof_thr = ignore_iof_thr
        self.match_low_quality = match_low_quality

    def assign(
        self, priors: Tensor, gt_bboxes: Tensor, gt_bboxes_ignore: Tensor | None = None
    ) -> AssignResult:
        """Match priors (P, 4) to gts (G, 4), leaving out ignored regions (I, 4).

        All boxes are x1 y1 x2 y2 in one frame. Without gts every prior is background, also inside
        an ignored region, as in MMDetection; `find_ignored` returns which these are.
        """
        if len(gt_bboxes) == 0 or len(priors) == 0:
            background = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
            return AssignResult(background, priors.new_zeros(len(priors)))
        ignored = gt_bboxes.new_zeros(0, 4) if gt_bboxes_ignore is None else gt_bboxes_ignore
        parts = priors.split(max(1, _MAX_PAIRS // (len(gt_bboxes) + len(ignored))))
        by_prior, by_gt = [], []
        for part in parts:
            overlaps = self._compare(gt_bboxes, part, ignored)
            by_prior.append(overlaps.max(dim=0))
            by_gt.append(overlaps.max(dim=1))
        max_overlaps, argmax_overlaps = map(torch.cat, zip(*by_prior, strict=True))
        gt_inds = torch.full_like(argmax_overlaps, -1)
        low, high = self.neg_iou_range
        gt_inds[(max_overlaps >= low) & (max_overlaps < high)] = 0
        positive = max_overlaps >= self.pos_iou_thr
        gt_inds[positive] = argmax_overlaps[positive] + 1
        if self.match_low_quality:
            best, argbest = map(torch.stack, zip(*by_gt, strict=True))
            low_quality = self._find_best_priors(parts, gt_bboxes, ignored, best, argbest)
            gt_inds = torch.where(low_quality > 0, low_quality, gt_inds)
        return AssignResult(gt_inds, max_overlaps)

    def _compare(self, gt_bboxes: Tensor, priors: Tensor, ignored: Tensor) -> Tensor:
        """Return the IoU (G, P), -1 for priors inside an ignored region."""
        overlaps = bbox_overlaps(gt_bboxes, priors)
        if self.ignore_iof_thr > 0 and len(ignored) > 0:
            overlaps[:, self.find_ignored(priors, ignored)] = -1
        return overlaps

    def find_ignored(self, priors: Tensor, ignored: Tensor) -> Tensor:
        """Return which priors (P, 4) are in ignored regions (I, 4): bool (P,)."""
        if self.ignore_iof_thr <= 0 or len(ignored) == 0:
            return torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
        parts = priors.split(max(1, _MAX_PAIRS // len(ignored)))
        shares = [bbox_overlaps(part, ignored, mode='iof').amax(dim=1) for part in parts]
        return torch.cat(shares) > self.ignore_iof_thr

    def _find_best_priors(
        self,
        parts: Sequence[Tensor],
        gt_bboxes: Tensor,
        ignored: Tensor,
        best: Tensor,
        argbest: Tensor,
    ) -> Tensor:
        """Return for each prior the gt (i + 1) that it is the best of, the last of several, or 0.

        The priors come in K parts; `best` and `argbest` (K, G) are the best IoU of each gt in each
        part and its first index there.
        """
        overall, first_part = best.max(dim=0)
        low_quality = []
        for k, part in enumerate(parts):
            takes = (best[k] == overall) & (overall >= self.min_pos_iou)
            if not self.gt_max_assign_all:
                takes &= first_part == k
            gts = takes.nonzero().squeeze(1)
            if self.gt_max_assign_all:
                # Computed again, but only for the few gts whose best prior is in this part.
                overlaps = self._compare(gt_bboxes[gts], part, ignored)
                rows, inds = (overlaps == overall[gts, None]).nonzero(as_tuple=True)
                gts = gts[rows]
            else:
                inds = argbest[k, gts]
            none = torch.zeros(len(part), dtype=torch.int64, device=part.device)
            low_quality.append(none.scatter_reduce(0, inds, gts + 1, 'amax'))
        return torch.cat(low_quality)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, mode: str = 'iou') -> Tensor:
    """Overlaps (m, n) in [0, 1] of boxes (m, 4) and (n, 4) in one frame; 0 where both are empty.

    Mode 'iou' divides by the union, 'iof' by the area of the box of `bboxes1`.
    """
    top_left = torch.maximum(bboxes1[:, None, :2], bboxes2[None, :, :2])
    bottom_right = torch.minimum(bboxes1[:, None, 2:], bboxes2[None, :, 2:])
    sizes = (bottom_right - top_left).clamp(min=0)
    intersection = sizes[..., 0] * sizes[..., 1]
    area1 = ((bboxes1[:, 2] - bboxes1[:, 0]) * (bboxes1[:, 3] - bboxes1[:, 1]))[:, None]
    if mode == 'iof':
        return intersection / area1.clamp(min=1e-6)
    area2 = ((bboxes2[:, 2] - bboxes2[:, 0]) * (bboxes2[:, 3] - bboxes2[:, 1]))[None, :]
    return intersection / (area1 + area2 - intersection).clamp(min=1e-6)

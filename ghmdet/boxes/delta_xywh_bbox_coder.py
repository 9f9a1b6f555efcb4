"""Boxes as offsets from anchors, the form in which the network predicts them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ghmdet.registry import TASK_UTILS


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder:
    """Codes a box as (dx, dy, dw, dh) relative to its anchor (R-CNN, arXiv:1311.2524, app. C).

    dx, dy are the centre's shift in anchor widths and heights, dw, dh the logarithm of the size
    ratio; `target_means` are then subtracted and the rest is divided by `target_stds`.

    Args:
        target_means: one value for each of dx, dy, dw, dh.
        target_stds: likewise, positive.
        clip_border: whether `decode` clips to `max_shape`.

    Example:
        >>> coder = DeltaXYWHBBoxCoder()
        >>> anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> deltas = coder.encode(anchor, torch.tensor([[1.0, 0.0, 11.0, 20.0]]))
        >>> deltas
        tensor([[0.1000, 0.5000, 0.0000, 0.6931]])
        >>> coder.decode(anchor, deltas)
        tensor([[ 1.,  0., 11., 20.]])
    """

    def __init__(
        self,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        clip_border: bool = True,
    ) -> None:
        if len(target_means) != 4 or len(target_stds) != 4 or min(target_stds) <= 0:
            raise ValueError(
                'bbox_coder needs four target_means and four positive target_stds, got '
                f'target_means={tuple(target_means)}, target_stds={tuple(target_stds)}'
            )
        self.means, self.stds = tuple(target_means), tuple(target_stds)
        self.clip_border = clip_border

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Return deltas (n, 4) from anchors `bboxes` (n, 4) to `gt_bboxes` (n, 4)."""
        centers, sizes = _centers_and_sizes(bboxes.float())
        gt_centers, gt_sizes = _centers_and_sizes(gt_bboxes.float())
        deltas = torch.cat([(gt_centers - centers) / sizes, torch.log(gt_sizes / sizes)], dim=-1)
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
        wh_ratio_clip: float = 16 / 1000,
    ) -> Tensor:
        """Return boxes (n, 4), x1 y1 x2 y2 in the anchors' frame.

        Args:
            bboxes: anchors (n, 4).
            pred_bboxes: predicted deltas (n, 4).
            max_shape: (h, w, ...) to clip to when `clip_border`; None leaves boxes as they are.
            wh_ratio_clip: sizes change at most by this factor or its inverse.
        """
        means, stds = map(pred_bboxes.new_tensor, (self.means, self.stds))
        deltas = pred_bboxes * stds + means
        centers, sizes = _centers_and_sizes(bboxes)
        max_log = abs(math.log(wh_ratio_clip))
        new_centers = centers + sizes * deltas[:, :2]
        half_sizes = sizes * deltas[:, 2:].clamp(-max_log, max_log).exp() * 0.5
        decoded = torch.cat([new_centers - half_sizes, new_centers + half_sizes], dim=-1)
        if self.clip_border and max_shape is not None:
            decoded = clip_bboxes(decoded, decoded.new_tensor(max_shape[:2]))
        return decoded


def clip_bboxes(bboxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes (..., 4) to images of the sizes (..., 2), each (h, w)."""
    return bboxes.clamp(min=0).minimum(sizes[..., [1, 0, 1, 0]])


def _centers_and_sizes(bboxes: Tensor) -> tuple[Tensor, Tensor]:
    """Split boxes (n, 4) into centres (n, 2) and widths and heights (n, 2)."""
    top_left, bottom_right = bboxes[:, :2], bboxes[:, 2:]
    return (top_left + bottom_right) * 0.5, bottom_right - top_left

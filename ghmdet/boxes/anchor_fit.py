"""How well anchors fit boxes, computed without generating all anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class AnchorFit(NamedTuple):
    """IoU float32 (n,) and pyramid level int64 (n,), the first of several, of n best anchors."""

    ious: Tensor
    levels: Tensor


def fit_anchors(
    bboxes: Tensor,
    input_wh: Tensor,
    base_anchors: Sequence[Tensor],
    strides: Sequence[tuple[int, int]],
) -> AnchorFit:
    """Find the best IoU of every box with any anchor on its image.

    Of the anchors of one shape, the one with the nearest centre has the highest IoU: only one cell
    is compared.

    Args:
        bboxes: (n, 4) x1 y1 x2 y2 in pixels of the network's input.
        input_wh: (n, 2), size of each box's image there, padded to the size divisor.
        base_anchors: anchors (A, 4) of the cell at the origin, one tensor per level.
        strides: (w, h) of a cell, one per level.
    """
    bboxes = bboxes.float()
    centers, sizes = (bboxes[:, :2] + bboxes[:, 2:]) / 2, bboxes[:, 2:] - bboxes[:, :2]
    areas = sizes.prod(1)
    best_of_levels = []
    for anchors, stride in zip(base_anchors, strides, strict=True):
        step = torch.tensor(stride, dtype=torch.float32)
        last_cell = (torch.ceil(input_wh / step) - 1).clamp(min=0)[:, None]
        offsets = ((anchors[:, :2] + anchors[:, 2:]) / 2)[None]
        anchor_sizes = (anchors[:, 2:] - anchors[:, :2])[None]
        cells = torch.round((centers[:, None] - offsets) / step).clamp(min=0).minimum(last_cell)
        apart = (centers[:, None] - offsets - cells * step).abs()
        shared = torch.minimum(sizes[:, None], anchor_sizes)
        shared = shared.minimum((sizes[:, None] + anchor_sizes) / 2 - apart).clamp(min=0)
        intersection = shared.prod(2)
        union = areas[:, None] + anchor_sizes.prod(2) - intersection
        best_of_levels.append((intersection / union.clamp(min=1e-6)).amax(1))
    ious, levels = torch.stack(best_of_levels).max(0)
    return AnchorFit(ious, levels)

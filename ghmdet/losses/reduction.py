"""Weights and reduces the entries of focal, L1 and smooth L1 loss; GHM does it differently."""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ('none', 'mean', 'sum')


def resolve_reduction(reduction: str, override: str | None, loss_name: str) -> str:
    """Return the reduction to use, `override` first; raise a ValueError if it is unknown."""
    chosen = override or reduction
    if chosen not in REDUCTIONS:
        raise ValueError(f'{loss_name}.reduction must be one of {REDUCTIONS}, got {chosen!r}')
    return chosen


def weight_reduce(
    loss: Tensor,
    weight: Tensor | None = None,
    reduction: str = 'mean',
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Multiply entries by their weight, which broadcasts to them, and reduce.

    'mean' divides by `avg_factor` instead of the number of entries; with 'sum' it is a ValueError.
    """
    if weight is not None:
        loss = loss * weight
    if reduction == 'none':
        return loss
    if reduction == 'sum':
        if avg_factor is not None:
            raise ValueError("avg_factor is for reduction='mean'; with 'sum' leave it out")
        return loss.sum()
    if avg_factor is None:
        return loss.mean()
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)


def expand_one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Turn labels (n,) into float32 targets (n, C); a label outside [0, C) is background, all 0."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()

"""Entries of the losses by the norm of their gradient, before and after GHM harmonises them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghmdet.losses.gradient_density import GradientDensityLoss


class GradientCounts:
    """Entries of a loss by the norm of their gradient, counted and weighted by GHM's own code.

    Args:
        loss: of the model. A GHM loss, which is copied, counts in its bins, and weighs entries by
            its running counts as in eval mode: scaled to the entries of a call.
        default: counts in place of a `loss` of another type; with momentum 0, entries are weighed
            by the counts of their own call.
    """

    def __init__(self, loss: nn.Module, default: GradientDensityLoss) -> None:
        self.is_own = isinstance(loss, type(default))
        self.loss: Any = copy.deepcopy(loss if self.is_own else default).eval()
        self._levels: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def add(self, level: str, pred: Tensor, target: Tensor, weight: Tensor) -> None:
        """Count the entries of one call of the loss."""
        self.loss.bin_records = []
        self.loss(pred, target, weight)
        ((counts, weights),) = self.loss.bin_records
        target, weight = self.loss._prepare(pred, target, weight)
        norms = self.loss._gradient(pred.float(), target).abs()
        bins = self.loss._find_bins(norms, weight <= 0).flatten()
        gradients = {'smooth L1 (ASL1)': norms}
        if target.dim() < pred.dim():
            gradients = {'cross entropy': norms, 'focal loss': focal_gradient(norms, target)}
        sums = {'counts': counts.double(), 'harmonised': counts * weights.double()}
        for name, values in gradients.items():
            summed = torch.bincount(bins, values.flatten().double(), self.loss.bins + 1)
            sums[name] = summed[:-1]
        sums['GHM'] = sums[next(iter(gradients))] * weights
        found = self._levels.setdefault(level, {})
        for name, values in sums.items():
            found[name] = found.get(name, 0) + values.cpu()

    def content(self) -> dict[str, Any]:
        """Return the sums over all calls, as JSON: `counts` and `harmonised` have a row per level.

        `shares` are the sums of |dL/dx| of all levels, each loss divided by its total.
        """
        levels = list(self._levels.values())
        rows = {name: torch.stack([level[name] for level in levels]) for name in levels[0]}
        counts, harmonised = rows.pop('counts'), rows.pop('harmonised')
        totals = {name: row.sum(0) / max(row.sum().item(), 1e-12) for name, row in rows.items()}
        return {
            'own_loss': self.is_own,
            'momentum': self.loss.momentum,
            'acc_sum': self.loss.acc_sum.tolist() if self.loss.momentum else None,
            'edges': np.linspace(0, 1, self.loss.bins + 1).tolist(),
            'levels': list(self._levels),
            'counts': counts.long().tolist(),
            'harmonised': harmonised.tolist(),
            'shares': {name: row.tolist() for name, row in totals.items()},
        }


def focal_gradient(norms: Tensor, labels: Tensor) -> Tensor:
    """Return |dL/dx| (n, C) of focal loss, gamma 2 and alpha 0.25, from g = |p - target|.

    It is alpha_t g^2 (g - 2 (1 - g) ln(1 - g)); `labels` are (n,).
    """
    easy = 1 - norms
    value = norms**2 * (norms - 2 * torch.xlogy(easy, easy))
    positive = labels[:, None] == torch.arange(norms.size(1), device=labels.device)
    return value * torch.where(positive, 0.25, 0.75)

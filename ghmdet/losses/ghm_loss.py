"""The gradient harmonizing mechanism (GHM): losses that even out the gradient histogram.

"Gradient Harmonized Single-stage Detector", Li, Liu, Wang, AAAI 2019, arXiv:1811.05181. An entry's
gradient length g says how hard it is. Entries crowd at easy g (background) and at outlying g, and
by number they rule the training; GHM divides each entry's weight by the gradient density around it.
Density is counted in `bins` equal steps of g (section "Unit Region Approximation"), smoothed over
calls by `momentum` (section "EMA").

Differences from the paper, kept because the published models were trained so: weights are divided
by the number n of non-empty bins, not of all bins; an empty bin keeps its running count.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghmdet.registry import MODELS

_REDUCTIONS = ('none', 'mean', 'sum')


class _GradientDensity(nn.Module):
    """Weights entries by the inverse of their gradient density; what GHMC and GHMR share."""

    edges: Tensor
    acc_sum: Tensor

    def __init__(
        self, bins: int, momentum: float, loss_weight: float, reduction: str, last_edge: float
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(bins, int) or bins < 1:
            raise ValueError(f'{name}.bins must be an integer of at least 1, got {bins!r}')
        if not 0 <= momentum < 1:
            raise ValueError(f'{name}.momentum must lie in [0, 1), got {momentum!r}')
        if not 0 <= loss_weight < float('inf'):
            raise ValueError(f'{name}.loss_weight must be finite and not negative: {loss_weight!r}')
        self.bins = bins
        self.momentum = momentum
        self.loss_weight = loss_weight
        self.reduction = reduction
        self._choose_reduction(None)
        edges = torch.arange(bins + 1).float() / bins
        edges[-1] = last_edge
        self.register_buffer('edges', edges)
        if momentum > 0:
            self.register_buffer('acc_sum', torch.zeros(bins))

    def _choose_reduction(self, override: str | None) -> str:
        reduction = override or self.reduction
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f'{type(self).__name__}.reduction must be one of {_REDUCTIONS}, got {reduction!r}'
            )
        return reduction

    def _harmonize(self, gradient_length: Tensor, valid: Tensor, total: Tensor) -> Tensor:
        """Return weights total / density / n (eq. 8), 0 where not valid; move the running counts.

        Args:
            gradient_length: any shape; entry of bin i where edges[i] <= g < edges[i + 1].
            valid: bool, of that shape.
            total: scalar, the number N of the paper.
        """
        # Bin 0 and bin `bins + 1` of the table are no bins: invalid entries, and NaN.
        table_inds = (
            torch.bucketize(gradient_length, self.edges, out_int32=True, right=True) * valid
        )
        counts = torch.bincount(table_inds.flatten(), minlength=self.bins + 2)
        counts = counts[1 : self.bins + 1].to(self.edges.dtype)
        filled = counts > 0
        density = counts
        if self.momentum > 0:
            moved = self.momentum * self.acc_sum + (1 - self.momentum) * counts
            self.acc_sum.copy_(torch.where(filled, moved, self.acc_sum))
            density = self.acc_sum
        weights = torch.where(filled, total / density / filled.sum().clamp(min=1), 0.0)
        return F.pad(weights, (1, 1))[table_inds]

    def _reduce(self, loss: Tensor, total: Tensor, reduction: str) -> Tensor:
        if reduction != 'none':
            loss = loss.sum()
        if reduction == 'mean':
            loss = loss / total
        return self.loss_weight * loss


@MODELS.register_module()
class GHMC(_GradientDensity):
    """GHM classification loss (section "GHM-C Loss", eq. 9), on sigmoid cross entropy.

    The gradient length of an entry is g = |sigmoid(pred) - target|.

    Args:
        bins: number of steps of g in [0, 1].
        momentum: of the running counts, in [0, 1); 0 uses each call's own counts.
        use_sigmoid: only True is defined.
        loss_weight: factor on the result.
        reduction: 'mean' divides the sum by the number of valid entries, 'none' keeps the entries.

    Raises:
        ValueError: a hyper-parameter out of its range, named.

    Example:
        >>> loss_cls = GHMC(bins=10)
        >>> pred = torch.tensor([[0.0, -2.0], [1.0, -3.0]])  # 2 samples, 2 classes
        >>> labels = torch.tensor([0, 2])  # class 0, background
        >>> loss_cls(pred, labels, torch.ones(2))
        tensor(0.5455)
    """

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__(bins, momentum, loss_weight, reduction, last_edge=1 + 1e-6)
        if not use_sigmoid:
            raise ValueError('GHMC.use_sigmoid: only True is defined, GHM-C is a sigmoid loss')
        self.use_sigmoid = use_sigmoid

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, or (n, C) with reduction 'none'.

        Args:
            pred: logits (n, C).
            target: labels int64 (n,) in [0, C], C being background, or targets (n, C) in [0, 1].
            label_weight: (n,) or (n, C); an entry takes part where it is positive.
            avg_factor: ignored, the loss divides by its own count of valid entries.
            reduction_override: in place of `reduction`.
        """
        reduction = self._choose_reduction(reduction_override)
        if target.dim() != pred.dim():
            classes = torch.arange(pred.size(-1), device=pred.device)
            target = target[:, None] == classes
            label_weight = label_weight.unsqueeze(-1).expand_as(pred)
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = pred.float(), target.float()
            valid = label_weight > 0
            total = valid.sum().clamp(min=1).float()
            gradient_length = (pred.detach().sigmoid() - target).abs()
            weights = self._harmonize(gradient_length, valid, total)
            loss = F.binary_cross_entropy_with_logits(pred, target, reduction='none')
            return self._reduce(loss * weights, total, reduction)


@MODELS.register_module()
class GHMR(_GradientDensity):
    """GHM regression loss (section "GHM-R Loss", eqs. 10 to 13), on the authentic smooth L1 loss.

    ASL1(d) = sqrt(d^2 + mu^2) - mu with d = pred - target, whose gradient length is
    g = |d| / sqrt(d^2 + mu^2).

    Args:
        mu: positive; where the loss turns from square to linear, in units of the deltas.
        bins: number of steps of g in [0, 1).
        momentum: of the running counts, in [0, 1); 0 uses each call's own counts.
        loss_weight: factor on the result.
        reduction: 'mean' divides the sum by the sum of the label weights, 'none' keeps the entries.

    Raises:
        ValueError: a hyper-parameter out of its range, named.

    Example:
        >>> loss_bbox = GHMR(mu=1.0, bins=2)
        >>> pred = torch.tensor([[0.0, 3**0.5, 0.0, 0.0]])
        >>> loss_bbox(pred, torch.zeros(1, 4), torch.ones(1, 4))  # 1 hard entry as heavy as 3 easy
        tensor(0.5000)
    """

    def __init__(
        self,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__(bins, momentum, loss_weight, reduction, last_edge=1e3)
        if not 0 < mu < float('inf'):
            raise ValueError(f'GHMR.mu must be finite and positive, got {mu!r}')
        self.mu = mu

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, or (n, 4) with reduction 'none'.

        Args:
            pred: deltas (n, 4).
            target: deltas (n, 4).
            label_weight: (n, 4); an entry takes part where it is positive.
            avg_factor: ignored, the loss divides by the sum of label_weight.
            reduction_override: in place of `reduction`.
        """
        reduction = self._choose_reduction(reduction_override)
        with torch.autocast(pred.device.type, enabled=False):
            diff = pred.float() - target.float()
            length = torch.sqrt(diff * diff + self.mu * self.mu)
            total = label_weight.float().sum().clamp(min=1)
            gradient_length = (diff / length).detach().abs()
            weights = self._harmonize(gradient_length, label_weight > 0, total)
            return self._reduce((length - self.mu) * weights, total, reduction)

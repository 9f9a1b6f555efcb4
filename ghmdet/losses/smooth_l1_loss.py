"""L1 and smooth L1, the baselines that GHM-R is compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ghmdet.argument_checks import check_factor, check_positive
from ghmdet.registry import MODELS

from .reduction import resolve_reduction, weight_reduce


class _BoxLoss(nn.Module):
    """Base of both losses; subclasses define the loss of an entry."""

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        check_factor(f'{type(self).__name__}.loss_weight', loss_weight)
        self.reduction = resolve_reduction(reduction, None, type(self).__name__)
        self.loss_weight = loss_weight

    def _entries(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each entry, before weights."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return the loss of `pred` against `target`, both (n, 4); `weight` likewise or None."""
        reduction = resolve_reduction(self.reduction, reduction_override, type(self).__name__)
        loss = self._entries(pred.float(), target.float())
        return self.loss_weight * weight_reduce(loss, weight, reduction, avg_factor)


@MODELS.register_module()
class SmoothL1Loss(_BoxLoss):
    """Smooth L1 loss (Fast R-CNN, arXiv:1504.08083, eq. 3): square below `beta`, linear above.

    Args:
        beta: positive, in units of the deltas.
        reduction: 'none', 'mean' or 'sum'.
        loss_weight: factor on the result.
    """

    def __init__(
        self, beta: float = 1.0, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__(reduction, loss_weight)
        check_positive('SmoothL1Loss.beta', beta, ' (for 0 use L1Loss)')
        self.beta = beta

    def _entries(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(pred, target, reduction='none', beta=self.beta)


@MODELS.register_module()
class L1Loss(_BoxLoss):
    """Absolute difference; arguments as in `SmoothL1Loss`."""

    def _entries(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).abs()

"""Focal loss, the baseline that GHM-C is compared with."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from ghmdet.argument_checks import check_factor, check_flag, check_range
from ghmdet.registry import MODELS

from .ghm_loss import check_labels
from .reduction import expand_one_hot, resolve_reduction, weight_reduce


@MODELS.register_module()
class FocalLoss(nn.Module):
    """Sigmoid focal loss ("Focal Loss for Dense Object Detection", arXiv:1708.02002, eq. 5).

    Args:
        use_sigmoid: only True is defined.
        gamma: how fast well-classified entries lose weight, not negative.
        alpha: weight of positive entries in [0, 1], negative ones get 1 - alpha.
        reduction: 'none', 'mean' or 'sum'.
        loss_weight: factor on the result.

    Example:
        >>> import torch
        >>> FocalLoss()(torch.zeros(1, 1), torch.tensor([0]), avg_factor=1)  # 0.25 * 0.5**2 * ln 2
        tensor(0.0433)
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_flag('FocalLoss.use_sigmoid', use_sigmoid, allowed=(True,))
        check_factor('FocalLoss.gamma', gamma)
        check_range('FocalLoss.alpha', alpha, 0, 1)
        check_factor('FocalLoss.loss_weight', loss_weight)
        self.use_sigmoid, self.gamma, self.alpha = use_sigmoid, gamma, alpha
        self.reduction = resolve_reduction(reduction, None, 'FocalLoss')
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, or (n, C) with reduction 'none'.

        Args:
            pred: logits (n, C).
            target: labels int64 (n,) in [0, C], C being background, or targets (n, C) of 0 and 1.
            weight: (n,) or (n, C); None weighs all entries 1.
            avg_factor: what 'mean' divides by, usually the number of positives.
            reduction_override: instead of `reduction`.

        Raises:
            ValueError: an unknown reduction, or labels that are no integers or, on a CPU, outside
                [0, C], unless their weight is 0. On other devices these are background.
        """
        reduction = resolve_reduction(self.reduction, reduction_override, 'FocalLoss')
        pred = pred.float()
        if target.dim() != pred.dim():
            target = check_labels('FocalLoss', target, pred.size(-1), weight)
            target = expand_one_hot(target, pred.size(-1))
        if weight is not None and weight.dim() != pred.dim():
            weight = weight.unsqueeze(-1)
        loss = sigmoid_focal_loss(pred, target.float(), alpha=self.alpha, gamma=self.gamma)
        return self.loss_weight * weight_reduce(loss, weight, reduction, avg_factor)

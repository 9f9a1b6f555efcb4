"""Sigmoid cross entropy, whose gradients GHM-C harmonises and focal loss changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ghmdet.argument_checks import check_factor, check_flag
from ghmdet.registry import MODELS

from .ghm_loss import check_labels
from .reduction import expand_one_hot, resolve_reduction, weight_reduce

_NAME = 'CrossEntropyLoss'


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Binary cross entropy of each class, with MMDetection's arguments and numbers.

    Args:
        use_sigmoid: only True is defined. False, MMDetection's default, is softmax.
        use_mask: only False, there are no masks.
        reduction: 'none', 'mean' or 'sum'.
        class_weight: C factors on the loss of positive entries (not of negative ones); None is 1.
        ignore_index: a label whose rows weigh 0, as those of negative labels always do.
        loss_weight: factor on the result.
        avg_non_ignore: 'mean' divides by the number of entries whose label is not ignored. No
            effect where there is an `avg_factor`, as in `RetinaHead`.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = 'mean',
        class_weight: Sequence[float] | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid is not True:
            raise ValueError(
                f'{_NAME}: use_sigmoid must be True, got {use_sigmoid!r}: softmax needs a logit '
                'for background, which a RetinaNet head does not have'
            )
        check_flag(f'{_NAME}.use_mask', use_mask, allowed=(False,))
        if class_weight is not None and not isinstance(class_weight, list | tuple):
            raise ValueError(f'{_NAME}.class_weight must be a list or None, got {class_weight!r}')
        for number, factor in enumerate(class_weight or ()):
            check_factor(f'{_NAME}.class_weight.{number}', factor)
        if ignore_index is not None and type(ignore_index) is not int:
            raise ValueError(f'{_NAME}.ignore_index must be an int or None, got {ignore_index!r}')
        check_factor(f'{_NAME}.loss_weight', loss_weight)
        check_flag(f'{_NAME}.avg_non_ignore', avg_non_ignore)
        self.reduction = resolve_reduction(reduction, None, _NAME)
        self.use_sigmoid, self.class_weight = use_sigmoid, class_weight
        self.ignore_index = ignore_index
        self.loss_weight, self.avg_non_ignore = loss_weight, avg_non_ignore

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, or (n, C) with reduction 'none'.

        Args:
            cls_score: logits (n, C).
            label: labels int64 (n,), C being background, or targets (n, C) in [0, 1].
            weight: (n,) or (n, C); None weighs all entries 1.
            avg_factor: what 'mean' divides by, usually the number of positives.
            reduction_override: instead of `reduction`.
            ignore_index: instead of that of the constructor.

        Raises:
            ValueError: an unknown reduction, labels that are no integers or, on a CPU, above C with
                a weight, or a `class_weight` that has not C numbers.
        """
        reduction = resolve_reduction(self.reduction, reduction_override, _NAME)
        pred, ignored = cls_score.float(), self.ignore_index
        ignored = ignored if ignore_index is None else ignore_index
        kept = (label >= 0) & (label != (-100 if ignored is None else ignored))
        weight = kept if weight is None else weight
        if label.dim() != pred.dim():
            used = weight.reshape(len(label), -1) * kept[:, None]
            label = expand_one_hot(check_labels(_NAME, label, pred.size(-1), used), pred.size(-1))
            kept = kept[:, None]
        if weight.dim() != pred.dim():
            weight = weight[:, None]
        if avg_factor is None and self.avg_non_ignore and reduction == 'mean':
            avg_factor = kept.expand_as(pred).sum()
        factors = None if self.class_weight is None else pred.new_tensor(self.class_weight)
        if factors is not None and len(factors) != pred.size(-1):
            raise ValueError(
                f'{_NAME}.class_weight must have one number for each class, {pred.size(-1)}, got '
                f'{len(factors)}'
            )
        loss = F.binary_cross_entropy_with_logits(
            pred, label.float(), pos_weight=factors, reduction='none'
        )
        return self.loss_weight * weight_reduce(loss, weight * kept, reduction, avg_factor)

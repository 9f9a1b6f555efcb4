"""The gradient harmonizing mechanism (GHM): losses that even out the distribution of gradients.

"Gradient Harmonized Single-stage Detector", Li, Liu, Wang, AAAI 2019, arXiv:1811.05181. The
gradient norm g of an entry is a measure of how hard it is. Most entries are easy (background) or
outliers, and dominate the training; GHM divides the weight of each entry by the gradient density
around its g. Density is counted in `bins` equal steps of g (section "Unit Region Approximation"),
smoothed over calls by `momentum` (section "EMA").

Differences from the paper, kept because the published models were trained so: weights are divided
by the number n of non-empty bins, not of all bins; an empty bin keeps its running count.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ghmdet.argument_checks import check_flag, check_positive
from ghmdet.registry import MODELS

from .gradient_density import GradientDensityLoss


@MODELS.register_module()
class GHMC(GradientDensityLoss):
    """GHM classification loss (section "GHM-C Loss", eq. 9), on sigmoid cross entropy.

    The gradient norm of an entry is `g = |sigmoid(pred) - target|`. `pred` are logits (n, C) and
    `target` is labels (n,) in [0, C], C being background, or targets (n, C) in [0, 1]. Logits with
    targets may have any other shape too.

    Args:
        bins: number of steps of g in [0, 1].
        momentum: of the running counts, in [0, 1); 0 uses each call's own counts.
        use_sigmoid: only True is defined.
        loss_weight: factor on the result.
        reduction: 'mean' divides the sum by the number of valid entries, 'none' keeps the entries.
        bias_correct: divide a running count by 1 - momentum ** k after k calls that found entries
            in its bin. Without it counts rise from 0, and the first weights of a bin are
            1 / (1 - momentum) times too large. Adds the buffer `acc_share`.
        max_weight: bound of an entry's weight, 1 being the average at momentum 0, applied before
            loss_weight. Other weights do not grow in return, so the loss gets smaller. None is no
            bound.
        sync: count over all processes of a distributed training, so that it equals training on one
            process with the joined batch. Otherwise each process counts, and keeps running counts,
            for itself. No effect in eval mode.

    Example:
        In any classifier with one logit per class. Label 2 means neither of 2 classes; the same as
        targets of 0 and 1:

        >>> classifier = torch.nn.Linear(8, 2)
        >>> loss_fn = GHMC(bins=10, momentum=0.75)
        >>> labels = torch.tensor([0, 2, 1, 2])
        >>> loss = loss_fn(classifier(torch.randn(4, 8)), labels)
        >>> loss.backward()
        >>> loss_cls = GHMC(bins=10)
        >>> pred = torch.tensor([[0.0, -2.0], [1.0, -3.0]])
        >>> loss_cls(pred, torch.tensor([0, 2])), loss_cls(pred, torch.tensor([[1, 0], [0, 0]]))
        (tensor(0.5455), tensor(0.5455))
    """

    _last_edge = 1 + 1e-6
    _takes_labels = True

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        bias_correct: bool = False,
        max_weight: float | None = None,
        sync: bool = False,
    ) -> None:
        super().__init__(bins, momentum, loss_weight, reduction, bias_correct, max_weight, sync)
        check_flag('GHMC.use_sigmoid', use_sigmoid, allowed=(True,))  # there is no softmax GHM-C
        self.use_sigmoid = use_sigmoid

    def _prepare(
        self, pred: Tensor, target: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        target, weight = super()._prepare(pred, target, weight)
        if target.dim() < pred.dim():
            target = check_labels(type(self).__name__, target, pred.size(-1), weight)
        return target, weight

    def _total(self, weight: Tensor, valid: Tensor) -> Tensor:
        return valid.sum()

    def _gradient(self, pred: Tensor, target: Tensor, out: Tensor | None = None) -> Tensor:
        probability = torch.sigmoid(pred, out=out)
        if target.dim() == pred.dim():
            return torch.sub(probability, target.float(), out=out)
        column, positive = _find_positive(target, pred.size(-1))
        return probability.scatter_add_(1, column, -positive.float())

    def _loss(self, pred: Tensor, target: Tensor) -> Tensor:
        if target.dim() == pred.dim():
            return F.binary_cross_entropy_with_logits(pred, target.float(), reduction='none')
        # (1 - target) * pred - logsigmoid(pred), rounded as binary_cross_entropy_with_logits does.
        column, positive = _find_positive(target, pred.size(-1))
        logsigmoid = F.logsigmoid(pred)
        at_column = pred.gather(1, column) * ~positive - logsigmoid.gather(1, column)
        return (pred - logsigmoid).scatter_(1, column, at_column)

    def _loss_to_sum(self, pred: Tensor, target: Tensor) -> Tensor:
        # max(pred, 0) - target * pred - log(sigmoid(|pred|)). logsigmoid needs log1p, which takes
        # half of the time of both passes on CPUs for which torch has no fast kernel of it.
        size = pred.abs()
        loss = torch.lerp(pred, size, 0.5)  # max(pred, 0), and nan if pred is infinite
        log_term = size.sigmoid_().log_()
        if target.dim() == pred.dim():
            return loss.sub_(pred * target.float()).sub_(log_term)
        column, positive = _find_positive(target, pred.size(-1))
        at_column = loss.gather(1, column) - pred.gather(1, column) * positive
        at_column -= log_term.gather(1, column)
        return loss.sub_(log_term).scatter_(1, column, at_column)


@MODELS.register_module()
class GHMR(GradientDensityLoss):
    """GHM regression loss (section "GHM-R Loss", eqs. 10 to 13), on the authentic smooth L1 loss.

    ASL1(d) = sqrt(d^2 + mu^2) - mu with d = pred - target; the gradient norm is
    `g = |d| / sqrt(d^2 + mu^2)`. `pred` and `target` are deltas (n, 4).

    Args:
        mu: positive; where the loss turns from square to linear, in units of the deltas.
        bins: number of steps of g in [0, 1).
        momentum: of the running counts, in [0, 1); 0 uses each call's own counts.
        loss_weight: factor on the result.
        reduction: 'mean' divides the sum by the sum of the label weights, 'none' keeps the entries.
        bias_correct, max_weight, sync: as in `GHMC`.

    Example:
        >>> loss_bbox = GHMR(mu=1.0, bins=2)
        >>> pred = torch.tensor([[0.0, 3**0.5, 0.0, 0.0]])
        >>> loss_bbox(pred, torch.zeros(1, 4))  # 1 hard entry as heavy as 3 easy
        tensor(0.5000)
    """

    _last_edge = 1e3
    _takes_labels = False

    def __init__(
        self,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = 'mean',
        bias_correct: bool = False,
        max_weight: float | None = None,
        sync: bool = False,
    ) -> None:
        super().__init__(bins, momentum, loss_weight, reduction, bias_correct, max_weight, sync)
        check_positive('GHMR.mu', mu)
        self.mu = mu

    def _total(self, weight: Tensor, valid: Tensor) -> Tensor:
        return weight.float().sum()

    def _gradient(self, pred: Tensor, target: Tensor, out: Tensor | None = None) -> Tensor:
        diff = pred - target.float()
        return torch.div(diff, torch.sqrt(diff * diff + self.mu * self.mu), out=out)

    def _loss(self, pred: Tensor, target: Tensor) -> Tensor:
        diff = pred - target.float()
        return torch.sqrt(diff * diff + self.mu * self.mu) - self.mu


def _find_positive(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the column (n, 1) of each row's class and whether it has one: bool (n, 1).

    A label outside [0, num_classes) is background; its column has no meaning.
    """
    column = labels.clamp(0, num_classes - 1)[:, None]
    return column, column == labels[:, None]


def check_labels(name: str, labels: Tensor, num_classes: int, weight: Tensor | None) -> Tensor:
    """Return labels (n,) as int64; a ValueError, for the loss `name`, unless they are integers.

    On a CPU they must be in [0, C], C being background, where the `weight`, (n,), (n, C) or None,
    is positive. Other devices would have to be waited for, and a compiled graph would break.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f'{name}: expected labels of type int64, got {labels.dtype}; use labels.long()'
        )
    labels = labels.long()
    if not labels.is_cpu or not len(labels) or torch.compiler.is_compiling():
        return labels
    low, high = labels.aminmax()
    if low >= 0 and high <= num_classes:
        return labels
    wrong = (labels < 0) | (labels > num_classes)
    if weight is not None:
        wrong &= (weight.reshape(len(labels), -1) > 0).any(1)
    if wrong.any():
        raise ValueError(
            f'{name}: expected labels from 0 to {num_classes} for pred (n, {num_classes}), got '
            f'{labels[wrong][0]} ({int(wrong.sum()):,} of {len(labels):,} labels are outside). '
            f'Background is {num_classes}; pred needs a column for each class; give entries to '
            'ignore a weight of 0'
        )
    return labels

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

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghmdet.registry import MODELS

_REDUCTIONS = ('none', 'mean', 'sum')
# Bins are told apart by a byte, of which one value is no bin.
_MAX_BINS = 255
# Entries worked on at a time: on a CPU few enough for its cache and enough for its threads.
_CHUNK = {'cpu': 2**18}
_CHUNK_ELSEWHERE = 2**26


class _KnownGradient(torch.autograd.Function):
    """Hands on a value whose gradient with respect to `pred` was computed along with it."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Return `value`; `gradient` has the shape of `pred`."""
        ctx.save_for_backward(gradient)
        ctx.pred_dtype = pred.dtype
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient, which is elementwise: `value` is a sum or has an entry for each."""
        (gradient,) = ctx.saved_tensors
        # In place, where nobody can come back for it: the gradient is as large as the logits.
        scale = torch.mul if _graph_is_kept() else Tensor.mul_
        return scale(gradient, grad_output).to(ctx.pred_dtype), None, None


def _graph_is_kept() -> bool:
    """Whether the backward pass that is running was called with `retain_graph=True`."""
    tell = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return tell is None or tell()


class _GradientDensityLoss(nn.Module):
    """What GHMC and GHMR share: entries weighted by the inverse of their gradient density.

    The slope of an entry's loss is both what is counted (its length g) and, times the weight, the
    gradient; so each is computed once. It takes two passes over the entries, one that counts and
    one that weighs. In plain torch both go through chunks that stay in a CPU's cache, and slopes
    and bins are kept in between. On CUDA each pass is one kernel made by `torch.compile`, and the
    second computes slopes and bins anew, which is cheaper than to read them. Neither waits for the
    device.
    """

    edges: Tensor
    acc_sum: Tensor

    def __init__(
        self, bins: int, momentum: float, loss_weight: float, reduction: str, last_edge: float
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(bins, int) or not 1 <= bins <= _MAX_BINS:
            raise ValueError(f'{name}.bins must be an integer in 1 to {_MAX_BINS}, got {bins!r}')
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
        self._finds_bin_by_product = _product_tells_bin(bins)
        edges[-1] = last_edge
        self.register_buffer('edges', edges)
        if momentum > 0:
            self.register_buffer('acc_sum', torch.zeros(bins))

    def _slope(self, pred: Tensor, target: Tensor) -> Tensor:
        """Derivative of each entry's loss."""
        raise NotImplementedError

    def _loss(self, pred: Tensor, target: Tensor) -> Tensor:
        """Each entry's loss before it is weighted."""
        raise NotImplementedError

    def _choose_reduction(self, override: str | None) -> str:
        reduction = override or self.reduction
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f'{type(self).__name__}.reduction must be one of {_REDUCTIONS}, got {reduction!r}'
            )
        return reduction

    def _harmonized(
        self, pred: Tensor, target: Tensor, valid: Tensor, total: Tensor, reduction: str
    ) -> Tensor:
        """Return the loss, its gradient attached, and move the running counts.

        Args:
            pred: (n, C).
            target: what `_slope` and `_loss` understand, (n, ...).
            valid: bool (n, C) or (n, 1).
            total: scalar, the number N of the paper.
            reduction: 'none', 'mean' or 'sum'.
        """
        passes = self._fused_passes if _can_fuse(pred.device) else self._plain_passes
        with torch.no_grad(), torch.autocast(pred.device.type, enabled=False):
            value, gradient = passes(pred, target, ~valid, total, reduction)
        return _KnownGradient.apply(pred, value, gradient)

    def _plain_passes(
        self, pred: Tensor, target: Tensor, invalid: Tensor, total: Tensor, reduction: str
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient (n, C); chunks bound what is held besides."""
        slopes = torch.empty_like(pred, dtype=torch.float32)
        bin_inds = torch.empty_like(pred, dtype=torch.uint8)
        rows = max(1, _CHUNK.get(pred.device.type, _CHUNK_ELSEWHERE) // max(1, pred.size(-1)))
        parts = [slice(i, i + rows) for i in range(0, len(pred), rows)]
        for part in parts:
            slope = self._slope(pred[part].float(), target[part])
            slopes[part] = slope
            bin_inds[part] = self._find_bins(slope, invalid[part])
        weights = self._weigh_bins(_count(bin_inds, self.bins), total, reduction)
        losses = []
        for part in parts:
            # int32 indices are the quickest to look up.
            weight = weights.index_select(0, bin_inds[part].flatten().int()).view_as(slopes[part])
            loss = self._loss(pred[part].float(), target[part]).mul_(weight)
            slopes[part] *= weight
            losses.append(loss if reduction == 'none' else loss.sum())
        if reduction == 'none':
            return torch.cat(losses) if losses else torch.zeros_like(slopes), slopes
        return torch.stack(losses).sum() if losses else slopes.sum(), slopes

    def _fused_passes(
        self, pred: Tensor, target: Tensor, invalid: Tensor, total: Tensor, reduction: str
    ) -> tuple[Tensor, Tensor]:
        """Return what `_plain_passes` does, from two compiled kernels."""
        counts = _compiled(_count_pass)(self, pred, target, invalid)
        weights = self._weigh_bins(counts, total, reduction)
        loss, gradient = _compiled(_weigh_pass)(self, pred, target, invalid, weights, reduction)
        return loss, gradient

    def _find_bins(self, slope: Tensor, invalid: Tensor) -> Tensor:
        """Return each entry's bin as uint8 in 0 to bins - 1; `bins` where it is invalid."""
        length = slope.abs()
        if self._finds_bin_by_product:
            inds = length.mul_(self.bins).to(torch.uint8).clamp_(max=self.bins - 1)
        else:
            inds = torch.bucketize(length, self.edges[1:-1], out_int32=True, right=True)
            inds = inds.to(torch.uint8)
        return inds.masked_fill_(invalid, self.bins)

    def _weigh_bins(self, counts: Tensor, total: Tensor, reduction: str) -> Tensor:
        """Return the factor of each bin's entries, (bins + 1,), the last one 0 for no bin.

        It is total / density / n (eq. 8) with all constant factors of the loss.

        Args:
            counts: int64 (bins,), the entries of each; moves the running counts.
            total: see `_harmonized`.
            reduction: see `_harmonized`.
        """
        density = counts.to(self.edges.dtype)
        filled = counts > 0
        if self.momentum > 0:
            moved = self.momentum * self.acc_sum + (1 - self.momentum) * density
            self.acc_sum.copy_(torch.where(filled, moved, self.acc_sum))
            density = self.acc_sum
        weights = torch.where(filled, total / density / filled.sum().clamp(min=1), 0.0)
        weights = self.loss_weight * weights
        return F.pad(weights / total if reduction == 'mean' else weights, (0, 1))


@MODELS.register_module()
class GHMC(_GradientDensityLoss):
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
        valid = label_weight > 0
        if target.dim() != pred.dim():
            total = valid.sum() * pred.size(-1)
            valid = valid[:, None]
        else:
            total = valid.sum()
        return self._harmonized(pred, target, valid, total.clamp(min=1).float(), reduction)

    def _slope(self, pred: Tensor, target: Tensor) -> Tensor:
        slope = pred.sigmoid()
        if target.dim() == pred.dim():
            return slope - target.float()
        column, positive = _find_positive(target, pred.size(-1))
        return slope.scatter_add_(1, column, -positive.float())

    def _loss(self, pred: Tensor, target: Tensor) -> Tensor:
        if target.dim() == pred.dim():
            return F.binary_cross_entropy_with_logits(pred, target.float(), reduction='none')
        # As binary_cross_entropy_with_logits rounds: (1 - target) * pred - logsigmoid(pred).
        column, positive = _find_positive(target, pred.size(-1))
        logsigmoid = F.logsigmoid(pred)
        at_column = pred.gather(1, column) * ~positive - logsigmoid.gather(1, column)
        return (pred - logsigmoid).scatter_(1, column, at_column)


@MODELS.register_module()
class GHMR(_GradientDensityLoss):
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
        total = label_weight.float().sum().clamp(min=1)
        return self._harmonized(pred, target, label_weight > 0, total, reduction)

    def _slope(self, pred: Tensor, target: Tensor) -> Tensor:
        diff = pred - target.float()
        return diff / torch.sqrt(diff * diff + self.mu * self.mu)

    def _loss(self, pred: Tensor, target: Tensor) -> Tensor:
        diff = pred - target.float()
        return torch.sqrt(diff * diff + self.mu * self.mu) - self.mu


def _product_tells_bin(bins: int) -> bool:
    """Whether int(g * bins) is the bin of every float32 g in [0, 1].

    The product rounds monotonically, so it is right everywhere if it is right at each inner edge
    and at the number below; it is for 10 and for 30 bins, not for 11.
    """
    inner = np.arange(1, bins)
    edges = inner.astype(np.float32) / np.float32(bins)
    below = np.nextafter(edges, np.float32(0))
    at_edges, at_below = ((g * np.float32(bins)).astype(int) for g in (edges, below))
    return bool((at_edges == inner).all() and (at_below == inner - 1).all())


def _count(bin_inds: Tensor, bins: int) -> Tensor:
    """Count the entries of each bin, int64 (bins,); `bin_inds` is uint8 in 0 to `bins`."""
    inds = bin_inds.flatten()
    if inds.is_cuda:  # where bincount would wait for the device
        return torch.histc(inds.int(), bins + 1, min=0, max=bins + 1)[:-1].long()
    if len(inds) % 2 or bins > 126:
        return torch.bincount(inds, minlength=bins + 1)[:-1]
    # Two neighbours at a time: additions to one number wait for each other.
    pairs = torch.bincount(inds.view(torch.int16), minlength=256 * (bins + 1))
    pairs = pairs.view(bins + 1, 256)[:, : bins + 1]
    return (pairs.sum(0) + pairs.sum(1))[:-1]


def _find_positive(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the column (n, 1) of each row's class and whether it has one: bool (n, 1).

    A label outside [0, num_classes) is background and gets some column.
    """
    column = labels.clamp(0, num_classes - 1)[:, None]
    return column, column == labels[:, None]


def _count_pass(
    loss: _GradientDensityLoss, pred: Tensor, target: Tensor, invalid: Tensor
) -> Tensor:
    """Return the entries of each bin, int64 (bins,)."""
    inds = loss._find_bins(loss._slope(pred.float(), _as_dense(target, pred)), invalid)
    return torch.stack([(inds == i).sum() for i in range(loss.bins)])


def _weigh_pass(
    loss: _GradientDensityLoss,
    pred: Tensor,
    target: Tensor,
    invalid: Tensor,
    weights: Tensor,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient (n, C), given the factor of each bin."""
    pred = pred.float()
    target = _as_dense(target, pred)
    slope = loss._slope(pred, target)
    weight = weights[loss._find_bins(slope, invalid).int()]
    value = loss._loss(pred, target) * weight
    return value if reduction == 'none' else value.sum(), slope * weight


def _as_dense(target: Tensor, pred: Tensor) -> Tensor:
    """Turn labels (n,) into targets (n, C), which a compiled kernel never writes out."""
    if target.dim() == pred.dim():
        return target
    return target[:, None] == torch.arange(pred.size(-1), device=pred.device)


@functools.cache
def _compiled(function: Callable) -> Callable:
    """Compile once for all sizes."""
    return torch.compile(function, dynamic=True)


@functools.cache
def _can_fuse(device: torch.device) -> bool:
    """Whether `torch.compile` makes kernels for the device; both passes are tried out."""
    if device.type != 'cuda':
        return False
    loss = GHMC(bins=30).to(device)
    pred, labels = torch.zeros(2, 3, device=device), torch.zeros(2, dtype=torch.long, device=device)
    invalid = torch.zeros(2, 1, dtype=torch.bool, device=device)
    try:
        counts = _compiled(_count_pass)(loss, pred, labels, invalid)
        weights = F.pad(counts.float(), (0, 1))
        _compiled(_weigh_pass)(loss, pred, labels, invalid, weights, 'mean')
    except Exception as error:  # whatever is missing: Triton, a compiler, a supported card
        warnings.warn(
            f'torch.compile does not work on {device} ({type(error).__name__}: {error}); the GHM '
            'losses run as plain torch, which is slower and gives the same results'
        )
        return False
    return True

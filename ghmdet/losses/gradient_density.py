"""Base of GHM-C and GHM-R: counts gradient norms in bins and weights entries by them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from ghmdet.argument_checks import (
    check_factor,
    check_flag,
    check_integer,
    check_number,
    check_positive,
)

from .bins import MAX_BINS, count_bins, prepare_look_up, product_is_exact
from .reduction import resolve_reduction

# Entries per chunk: on a CPU few enough for its cache and enough for its threads.
_CHUNK = {'cpu': 2**19}
_CHUNK_ELSEWHERE = 2**26
_KEEPS_GRAPH = '_get_current_graph_task_keep_graph'  # private, may be missing


class _KnownGradient(torch.autograd.Function):
    """Returns a value whose gradient with respect to `pred` was computed with it."""

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
        # In place unless called with retain_graph=True: the gradient is as large as the logits.
        keeps_graph = getattr(torch._C._autograd, _KEEPS_GRAPH, lambda: True)
        if keeps_graph():
            gradient = gradient * grad_output
        elif not _is_known_to_be_one(grad_output):
            gradient *= grad_output
        return gradient.to(ctx.pred_dtype), None, None


def _is_known_to_be_one(factor: Tensor) -> bool:
    """Whether it is 1, as in training; False where that cannot be seen without waiting."""
    is_visible = factor.is_cpu and not torch.compiler.is_compiling()
    return is_visible and factor.dim() == 0 and factor.item() == 1


class GradientDensityLoss(nn.Module):
    """Base of GHMC and GHMR: entries weighted by the inverse of their gradient density.

    There are two passes over the entries: one counts the norms g of their gradients, one weights
    losses and gradients, which gives the gradient of the result. In plain torch both work on chunks
    that fit a CPU's cache, and gradients and bins are kept between them. On CUDA each pass is one
    kernel made by `torch.compile`, and the second computes gradients and bins again, which is
    faster than reading them. Neither waits for the device.

    The running counts move in training mode only. In eval mode entries are weighted by the running
    counts, scaled to their number, so the loss says how much harder a validation set is than the
    training set.

    With `sync` the loss of a process ('mean' or 'sum') is scaled by the number of processes, so
    that the mean of the processes' losses, and of their gradients, which DistributedDataParallel
    computes, is what one process would get for the joined batch, to float32 rounding; 'none' does
    not scale. The losses of all processes must be called equally often, with entries or without. In
    eval mode nothing is summed, as processes may have different numbers of images.
    """

    edges: Tensor
    acc_sum: Tensor
    acc_share: Tensor
    bin_records: list[tuple[Tensor, Tensor]] | None
    """None, or a list to which each call appends the number of entries of each bin, int64 (bins,),
    and their weight, (bins,), where 1 is the average at momentum 0. With `sync`, of all
    processes."""
    _last_edge: float
    """Upper edge of the last bin."""
    _takes_labels: bool
    """Whether the target may be labels (n,)."""

    def __init__(
        self,
        bins: int,
        momentum: float,
        loss_weight: float,
        reduction: str,
        bias_correct: bool,
        max_weight: float | None,
        sync: bool,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_integer(f'{name}.bins', bins, 1, MAX_BINS)
        check_number(f'{name}.momentum', momentum, 'a number in [0, 1)', lambda m: 0 <= m < 1)
        check_factor(f'{name}.loss_weight', loss_weight)
        check_flag(f'{name}.bias_correct', bias_correct)
        if max_weight is not None:
            check_positive(f'{name}.max_weight', max_weight, ', or None')
        check_flag(f'{name}.sync', sync)
        self.reduction = resolve_reduction(reduction, None, name)
        self.bins, self.momentum, self.loss_weight = int(bins), momentum, loss_weight
        self.bias_correct, self.max_weight, self.sync = bias_correct, max_weight, sync
        self.bin_records = None
        self._finds_bin_by_product = product_is_exact(bins)
        edges = torch.arange(bins + 1).float() / bins
        edges[-1] = self._last_edge
        self.register_buffer('edges', edges)
        if momentum > 0:
            self.register_buffer('acc_sum', torch.zeros(bins))
            if bias_correct:
                # 1 - momentum ** (the calls that found an entry in the bin)
                self.register_buffer('acc_share', torch.zeros(bins))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a state dict with or without `acc_share`, whether this loss has it or not."""
        if hasattr(self, 'acc_share'):
            state_dict.setdefault(f'{prefix}acc_share', torch.zeros_like(self.acc_share))
        else:
            state_dict.pop(f'{prefix}acc_share', None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _gradient(self, pred: Tensor, target: Tensor, out: Tensor | None = None) -> Tensor:
        """Gradient of each entry's loss, written to `out` if given."""
        raise NotImplementedError

    def _loss(self, pred: Tensor, target: Tensor) -> Tensor:
        """Each entry's loss before it is weighted."""
        raise NotImplementedError

    def _loss_to_sum(self, pred: Tensor, target: Tensor) -> Tensor:
        """As `_loss`, but entries may differ by 1e-6, which their sum does not show."""
        return self._loss(pred, target)

    def _total(self, weight: Tensor, valid: Tensor) -> Tensor:
        """The number N of the paper, a scalar, given the weights and which are positive."""
        raise NotImplementedError

    def _prepare(
        self, pred: Tensor, target: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Check the shapes; return the target, and weights that broadcast."""
        name, shape = type(self).__name__, tuple(pred.shape)
        is_label = self._takes_labels and pred.dim() == 2 and target.dim() == 1
        if target.shape != (pred.shape[:1] if is_label else pred.shape):
            labels = ', or integer labels (n,) for pred (n, C)' if self._takes_labels else ''
            raise ValueError(
                f'{name}: expected a target of the shape of pred, {shape}{labels}; got '
                f'{tuple(target.shape)}'
            )
        if weight is None:
            weight = torch.ones_like(pred, dtype=torch.bool)
        elif weight.shape == shape[:-1]:
            weight = weight.unsqueeze(-1)
        elif weight.shape != shape:
            raise ValueError(
                f'{name}: expected a label_weight of shape {shape} or {shape[:-1]}, got '
                f'{tuple(weight.shape)}'
            )
        return target, weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return the loss, a scalar or with reduction 'none' of the shape of `pred`.

        Its gradient is attached. In training mode the running counts move.

        Args:
            pred: (n, C), see `GHMC` and `GHMR`.
            target: likewise.
            label_weight: (n,) or (n, C); entries with a positive one are used. None: all are.
            avg_factor: ignored; the loss divides by its own number of entries or sum of weights.
            reduction_override: instead of `reduction`.

        Raises:
            ValueError: an unknown reduction, shapes or types that do not fit, or, on a CPU, labels
                outside [0, C] with a positive weight. On other devices these are background.
        """
        target, weight = self._prepare(pred, target, label_weight)
        valid = weight > 0
        total = self._total(weight, valid) * (pred.numel() // max(1, weight.numel()))
        reduction = resolve_reduction(self.reduction, reduction_override, type(self).__name__)
        can_fuse = _can_fuse(pred.device, type(self))  # type: ignore[arg-type]
        passes = self._fused_passes if can_fuse else self._plain_passes
        with torch.no_grad(), torch.autocast(pred.device.type, enabled=False):
            value, gradient = passes(pred, target, ~valid, total, reduction)
        return _KnownGradient.apply(pred, value, gradient)

    def _plain_passes(
        self, pred: Tensor, target: Tensor, invalid: Tensor, total: Tensor, reduction: str
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient (n, C), computed in chunks to save memory."""
        gradients = torch.empty_like(pred, dtype=torch.float32)
        row = max(1, pred.numel() // max(1, len(pred)))
        rows = max(2, _CHUNK.get(pred.device.type, _CHUNK_ELSEWHERE) // row // 2 * 2)
        parts = [slice(i, i + rows) for i in range(0, len(pred), rows)]
        # Bins are counted and looked up two at a time, so their number is even.
        bin_inds = pred.new_full((-(-pred.numel() // 2) * 2,), self.bins, dtype=torch.uint8)
        chunks = bin_inds.split(rows * row)
        counts = torch.zeros(self.bins, dtype=torch.long, device=pred.device)
        for part, inds in zip(parts, chunks, strict=False):  # no part, one empty chunk
            gradient = self._gradient(pred[part].float(), target[part], out=gradients[part])
            out = inds[: gradient.numel()].view(gradient.shape)
            self._find_bins(gradient, invalid[part], out=out)
            counts += count_bins(inds, self.bins)
        look_up = prepare_look_up(self._weigh_bins(counts, total, reduction))
        find_loss = self._loss if reduction == 'none' else self._loss_to_sum
        losses = []
        for part, inds in zip(parts, chunks, strict=False):
            weight = look_up(inds)[: gradients[part].numel()].view(gradients[part].shape)
            loss = find_loss(pred[part].float(), target[part]).mul_(weight)
            gradients[part] *= weight
            losses.append(loss if reduction == 'none' else loss.sum())
        if reduction == 'none':
            return torch.cat(losses) if losses else torch.zeros_like(gradients), gradients
        return torch.stack(losses).sum() if losses else gradients.sum(), gradients

    def _fused_passes(
        self, pred: Tensor, target: Tensor, invalid: Tensor, total: Tensor, reduction: str
    ) -> tuple[Tensor, Tensor]:
        """Return the same as `_plain_passes`, computed by two compiled kernels."""
        counts = _compiled(_count_pass)(self, pred, target, invalid)
        weights = self._weigh_bins(counts, total, reduction)
        return _compiled(_weigh_pass)(self, pred, target, invalid, weights, reduction)

    def _find_bins(self, gradient: Tensor, invalid: Tensor, out: Tensor | None = None) -> Tensor:
        """Return each entry's bin as uint8 in 0 to bins - 1; `bins` where it is invalid."""
        if self._finds_bin_by_product:
            # By way of int32: CPUs have no fast conversion from float32 to a byte.
            inds = (gradient * self.bins).int().abs_().byte().clamp_(max=self.bins - 1)
        else:
            edges = self.edges[1:-1]
            inds = torch.bucketize(gradient.abs(), edges, out_int32=True, right=True).byte()
        return torch.maximum(inds, invalid.byte() * self.bins, out=out)

    def _weigh_bins(self, counts: Tensor, total: Tensor, reduction: str) -> Tensor:
        """Return the factor of each bin's entries, (bins + 1,); the last one is 0, for no bin.

        It is total / density / n (eq. 8), at most `max_weight`, with all constant factors of the
        loss. `counts` int64 (bins,) update the running counts; a `total`, the number N of the
        paper, below 1 means 1.
        """
        num_processes = get_world_size() if self.sync and self.training else 1
        if num_processes > 1:
            # In one collective, in float64, which is exact for counts.
            both = torch.cat([counts.double(), total.double().reshape(1)])
            all_reduce(both)
            counts, total = both[:-1].to(counts.dtype), both[-1].to(total.dtype)
        total = total.clamp(min=1).float()
        density = counts.to(self.edges.dtype)
        filled = counts > 0
        if self.momentum > 0 and self.training:
            density = self._move_running_counts(density, filled)
        elif self.momentum > 0:
            density = self._scale_running_counts(density)
        weights = torch.where(filled, total / density / filled.sum().clamp(min=1), 0.0)
        if self.max_weight is not None:
            weights = weights.clamp(max=self.max_weight)
        if self.bin_records is not None:
            self.bin_records.append((counts, weights))
        weights = self.loss_weight * weights
        if num_processes > 1 and reduction != 'none':
            weights = weights * num_processes
        return F.pad(weights / total if reduction == 'mean' else weights, (0, 1))

    def _move_running_counts(self, counts: Tensor, filled: Tensor) -> Tensor:
        """Update the running counts (bins,) by `counts`, and return them."""
        decay = self.momentum
        moved = decay * self.acc_sum + (1 - decay) * counts
        if not self.bias_correct:
            self.acc_sum.copy_(torch.where(filled, moved, self.acc_sum))
            return self.acc_sum
        # Counts without a share were loaded from a loss without bias_correct: as after many calls.
        share = torch.where(self.acc_sum > 0, self.acc_share + (self.acc_share == 0), 0.0)
        self.acc_share.copy_(torch.where(filled, decay * share + (1 - decay), share))
        self.acc_sum.copy_(torch.where(filled, moved, self.acc_sum))
        return self.acc_sum / self.acc_share

    def _scale_running_counts(self, counts: Tensor) -> Tensor:
        """Return the running counts (bins,) scaled to the sum of `counts`, without updating them.

        So the loss of a validation does not depend on the batch size. A bin that was always empty
        in training gets its entry of `counts`.
        """
        running = self.acc_sum
        if self.bias_correct:
            running = running / torch.where(self.acc_share > 0, self.acc_share, 1.0)
        scaled = running * (counts.sum() / running.sum())
        return torch.where(running > 0, scaled.clamp(min=1), counts)


def _count_pass(loss: GradientDensityLoss, pred: Tensor, target: Tensor, invalid: Tensor) -> Tensor:
    """Return the number of entries of each bin, int64 (bins,)."""
    inds = loss._find_bins(loss._gradient(pred.float(), _as_dense(target, pred)), invalid)
    return torch.stack([(inds == i).sum() for i in range(loss.bins)])


def _weigh_pass(
    loss: GradientDensityLoss,
    pred: Tensor,
    target: Tensor,
    invalid: Tensor,
    weights: Tensor,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient (n, C), given the factor of each bin."""
    pred = pred.float()
    target = _as_dense(target, pred)
    gradient = loss._gradient(pred, target)
    weight = weights[loss._find_bins(gradient, invalid).int()]
    value = loss._loss(pred, target) * weight
    return value if reduction == 'none' else value.sum(), gradient * weight


def _as_dense(target: Tensor, pred: Tensor) -> Tensor:
    """Turn labels (n,) into targets (n, C), which a compiled kernel does not write to memory."""
    if target.dim() == pred.dim():
        return target
    return target[:, None] == torch.arange(pred.size(-1), device=pred.device)


@functools.cache
def _compiled(function: Callable) -> Callable:
    """Compile once for all sizes."""
    return torch.compile(function, dynamic=True)


@functools.cache
def _can_fuse(device: torch.device, kind: type[GradientDensityLoss]) -> bool:
    """Whether `torch.compile` works for the device; tries both passes of a loss."""
    if device.type != 'cuda':
        return False
    loss = kind(bins=30).to(device)  # type: ignore[call-arg]
    pred, labels = torch.zeros(2, 3, device=device), torch.zeros(2, dtype=torch.long, device=device)
    invalid = torch.zeros(2, 1, dtype=torch.bool, device=device)
    try:
        counts = _compiled(_count_pass)(loss, pred, labels, invalid)
        weights = F.pad(counts.float(), (0, 1))
        _compiled(_weigh_pass)(loss, pred, labels, invalid, weights, 'mean')
    except Exception as error:  # no Triton, no compiler, an unsupported card, ...
        warnings.warn(
            f'torch.compile does not work on {device} ({type(error).__name__}: {error}); the GHM '
            'losses run as plain torch, which is slower and gives the same results'
        )
        return False
    return True

"""GHM-C and GHM-R, forward and backward, against literal loops over the bins."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghmdet.losses import GHMC, GHMR, gradient_density

from .measure import Rates, Report, measure

_STRIDES = (8, 16, 32, 64, 128)
_ANCHORS = 9
_MU = 0.02
# Times that tensors of the prediction's size must pass through the memory: what is read to count
# the bins is read again to weight the entries, after all are counted; then the gradient is written.
# GHM-C reads the logits; GHM-R predictions, targets and weights.
_PASSES = {'GHMC': 2 * 1 + 1, 'GHMR': 2 * 3 + 1}
_TOLERANCE = 1e-4

Loss = Callable[..., Tensor]


class LiteralGHM:
    """GHM as written in the paper: a mask, a count and an assignment for every bin.

    Args:
        bins: number of bins.
        momentum: of the running counts.
        last_edge: end of the last bin.
    """

    def __init__(self, bins: int, momentum: float, last_edge: float) -> None:
        self.edges = [i / bins for i in range(bins)] + [last_edge]
        self.momentum = momentum
        self.acc_sum = [0.0] * bins

    def compute_weights(self, gradient_norm: Tensor, valid: Tensor, total: float) -> Tensor:
        """Return the weight of each entry."""
        weights = torch.zeros_like(gradient_norm)
        num_filled = 0
        for i, previous in enumerate(self.acc_sum):
            inside = (gradient_norm >= self.edges[i]) & (gradient_norm < self.edges[i + 1])
            inside &= valid
            count = inside.sum().item()
            if count > 0:
                self.acc_sum[i] = self.momentum * previous + (1 - self.momentum) * count
                weights[inside] = total / self.acc_sum[i]
                num_filled += 1
        return weights / max(num_filled, 1)


class LiteralGHMC(LiteralGHM):
    """GHM-C with one-hot targets."""

    def __call__(self, pred: Tensor, labels: Tensor, label_weight: Tensor) -> Tensor:
        """Return the mean loss; arguments as `GHMC.forward` has them."""
        target = F.one_hot(labels, pred.size(1) + 1)[:, :-1].float()
        valid = (label_weight > 0)[:, None].expand_as(pred)
        total = max(valid.sum().item(), 1)
        weights = self.compute_weights((pred.detach().sigmoid() - target).abs(), valid, total)
        loss = F.binary_cross_entropy_with_logits(pred, target, reduction='none')
        return (loss * weights).sum() / total


class LiteralGHMR(LiteralGHM):
    """GHM-R on the authentic smooth L1 loss."""

    def __call__(self, pred: Tensor, target: Tensor, label_weight: Tensor) -> Tensor:
        """Return the mean loss; arguments as `GHMR.forward` has them."""
        diff = pred - target
        length = torch.sqrt(diff * diff + _MU * _MU)
        total = max(label_weight.sum().item(), 1)
        weights = self.compute_weights((diff / length).detach().abs(), label_weight > 0, total)
        return ((length - _MU) * weights).sum() / total


def run(args: argparse.Namespace, rates: Rates) -> Report:
    """Measure both losses; the gradients are compared first."""
    strides = _STRIDES if args.levels == 'all' else _STRIDES[:1]
    # A level's map rounds up, as the network's strided convolutions do.
    cells = [-(-args.size[0] // s) * -(-args.size[1] // s) for s in strides]
    sizes = [args.images * _ANCHORS * count for count in cells]
    literal_ghmc = LiteralGHMC(30, 0.75, 1 + 1e-6)
    literal_ghmr = LiteralGHMR(10, 0.7, 1e3)
    ghmc = GHMC(bins=30, momentum=0.75).to(args.device)
    ghmr = GHMR(mu=_MU, bins=10, momentum=0.7).to(args.device)
    report = Report('loss', [])
    drawn = [_draw_classes(size, args.classes, args.device) for size in sizes]
    _compare(report, 'GHMC', ghmc, literal_ghmc, drawn, args, rates)
    drawn = [_draw_deltas(size, args.device) for size in sizes]
    _compare(report, 'GHMR', ghmr, literal_ghmr, drawn, args, rates)
    shapes = ', '.join(str(size) for size in sizes)
    report.remarks.append(
        f'entries: {shapes} x {args.classes} and x 4; floor: GHMC {_PASSES["GHMC"]} and GHMR '
        f'{_PASSES["GHMR"]} times the bytes of the predictions / copy bandwidth'
    )
    return report


def _compare(
    report: Report,
    name: str,
    ours: Loss,
    literal: Loss,
    levels: Sequence[tuple[Tensor, ...]],
    args: argparse.Namespace,
    rates: Rates,
) -> None:
    losses = {name: ours, **_list_other_passes(name, ours, args), f'{name} literal loop': literal}
    agree = dict.fromkeys(losses, True)
    for inputs in levels:  # the running counts are carried on, as in training
        gradients = {key: _step(loss, inputs) for key, loss in losses.items()}
        expected = gradients[f'{name} literal loop']
        bound = _TOLERANCE * expected.abs().max()
        for key, gradient in gradients.items():
            agree[key] &= bool((gradient - expected).abs().max() <= bound)
    for key in list(losses)[:-1]:
        report.checks[f'{key}: gradients within {_TOLERANCE} of the literal loop'] = agree[key]
    variants = {key: functools.partial(_step_all, loss, levels) for key, loss in losses.items()}
    size = sum(inputs[0].numel() * inputs[0].element_size() for inputs in levels)
    rows = list(measure(variants, args.runs, args.device).values())
    for row in rows:
        row.reference = rows[-1].name
        row.floor_seconds = _PASSES[name] * size / rates.bytes_per_second
        row.notes['x twice read and written'] = row.median * rates.bytes_per_second / (4 * size)
        if row.peak_bytes is not None:
            row.notes['x the predictions in memory'] = row.peak_bytes / size
    report.rows += rows
    if args.device.startswith('cuda'):
        report.checks[f'{name}: never waits for the GPU'] = _runs_without_waiting(ours, levels[0])


def _list_other_passes(name: str, ours: Loss, args: argparse.Namespace) -> dict[str, Loss]:
    """Return the loss by the passes that it does not take here: plain, or as compiled for CUDA."""
    if not isinstance(ours, gradient_density.GradientDensityLoss):
        return {}
    other: Any = copy.deepcopy(ours)
    if gradient_density._can_fuse(torch.device(args.device), type(ours)):  # type: ignore[arg-type]
        other._fused_passes = other._plain_passes
        return {f'{name} plain': other}
    other._plain_passes = other._fused_passes
    return {f'{name} compiled': other} if args.compile else {}


def _step_all(loss: Loss, levels: Sequence[tuple[Tensor, ...]]) -> None:
    for inputs in levels:
        _step(loss, inputs)


def _step(loss: Loss, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the gradient of the mean loss."""
    pred, *rest = inputs
    return torch.autograd.grad(loss(pred, *rest), pred)[0]


def _runs_without_waiting(loss: Loss, inputs: tuple[Tensor, ...]) -> bool:
    torch.cuda.set_sync_debug_mode('error')
    try:
        _step(loss, inputs)
    except RuntimeError as error:
        print(error)
        return False
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return True


def _draw_classes(num: int, num_classes: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and label weights: one anchor in a thousand has a class, 2 % are ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, num_classes, generator=generator) - 4
    labels = torch.randint(0, num_classes, (num,), generator=generator)
    labels[torch.rand(num, generator=generator) > 0.001] = num_classes
    label_weight = (torch.rand(num, generator=generator) > 0.02).float()
    return logits.to(device).requires_grad_(), labels.to(device), label_weight.to(device)


def _draw_deltas(num: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Deltas, their targets and weights: one anchor in a hundred counts."""
    generator = torch.Generator().manual_seed(1)
    pred = torch.randn(num, 4, generator=generator) * 0.1
    positive = (torch.rand(num, 1, generator=generator) < 0.01).float()
    target = torch.randn(num, 4, generator=generator) * 0.2 * positive
    return (
        pred.to(device).requires_grad_(),
        target.to(device),
        positive.expand(num, 4).contiguous().to(device),
    )

"""Measure what users wait for, against a named reference in the same run.

python tools/analysis_tools/benchmark.py loss [--shape 151200 80] [--runs 5] [--json FILE]

`loss`: GHM-C forward and backward against the literal loop over the bins.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ghmdet.losses import GHMC


class LiteralGHMC:
    """GHM-C as the paper writes it: one-hot targets, a mask and a count for every bin."""

    def __init__(self, bins: int, momentum: float) -> None:
        self.edges = [i / bins for i in range(bins)] + [1 + 1e-6]
        self.momentum = momentum
        self.acc_sum = [0.0] * bins

    def __call__(self, pred: Tensor, labels: Tensor, label_weight: Tensor) -> Tensor:
        """Return the mean loss; arguments as `GHMC.forward` has them."""
        target = F.one_hot(labels, pred.size(1) + 1)[:, :-1].float()
        valid = (label_weight > 0)[:, None].expand_as(pred)
        gradient_length = (pred.detach().sigmoid() - target).abs()
        total = max(valid.sum().item(), 1)
        weights = torch.zeros_like(pred)
        num_filled = 0
        for i, previous in enumerate(self.acc_sum):
            inside = (gradient_length >= self.edges[i]) & (gradient_length < self.edges[i + 1])
            inside &= valid
            count = inside.sum().item()
            if count > 0:
                self.acc_sum[i] = self.momentum * previous + (1 - self.momentum) * count
                weights[inside] = total / self.acc_sum[i]
                num_filled += 1
        weights /= max(num_filled, 1)
        loss = F.binary_cross_entropy_with_logits(pred, target, reduction='none')
        return (loss * weights).sum() / total


def time_runs(function: Callable[[], object], runs: int) -> list[float]:
    """Seconds of each run, after one that warms up."""
    function()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def benchmark_loss(args: argparse.Namespace) -> dict[str, list[float]]:
    num, num_classes = args.shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, num_classes, generator=generator) - 4
    labels = torch.randint(0, num_classes, (num,), generator=generator)
    labels[torch.rand(num, generator=generator) > 0.001] = num_classes
    label_weight = (torch.rand(num, generator=generator) > 0.02).float()

    def step(loss_fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        pred = logits.requires_grad_()
        return torch.autograd.grad(loss_fn(pred, labels, label_weight), pred)[0]

    ours, literal = GHMC(bins=30, momentum=0.75), LiteralGHMC(bins=30, momentum=0.75)
    torch.testing.assert_close(step(ours), step(literal), rtol=1e-4, atol=1e-9)
    return {
        'GHMC': time_runs(lambda: step(ours), args.runs),
        'literal loop over the bins': time_runs(lambda: step(literal), args.runs),
    }


TASKS = {'loss': benchmark_loss}


def main() -> None:
    parser = argparse.ArgumentParser(description='Measure against a reference.')
    parser.add_argument('task', choices=TASKS)
    parser.add_argument('--shape', type=int, nargs=2, default=[151200, 80], metavar=('N', 'C'))
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--json', type=Path, help='also write the figures here')
    args = parser.parse_args()
    machine = (
        f'{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, '
        f'torch {torch.__version__}, Python {platform.python_version()}'
    )
    print(machine)
    figures = TASKS[args.task](args)
    reference = statistics.median(list(figures.values())[-1])
    print(f'{"seconds":30} {"min":>8} {"median":>8} {"max":>8} {"ratio":>8}')
    for name, seconds in figures.items():
        median = statistics.median(seconds)
        print(
            f'{name:30} {min(seconds):8.4f} {median:8.4f} {max(seconds):8.4f} '
            f'{reference / median:7.1f}x'
        )
    if args.json:
        content = dict(task=args.task, machine=machine, arguments=vars(args), seconds=figures)
        args.json.write_text(json.dumps(content, indent=2, default=str))


if __name__ == '__main__':
    main()

"""Bin counts of the GHM losses in the log."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor, nn

from ghmdet.argument_checks import check_integer
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS


@HOOKS.register_module()
class GHMStatsHook(Hook):
    """Write the bins of each GHM loss to the visualizer's backends and the JSON log of the run.

    For each loss, e.g. `loss_cls`, of one training step and this process (of all processes where
    the loss has `sync=True`), all levels of the pyramid together (they are separate calls, after
    each of which the running counts move):

    - `ghm/loss_cls/bin_00`, `bin_01`, ...: entries whose gradient norm lies in the bin;
    - `ghm/loss_cls/non_empty_bins`: how many of them are not 0;
    - `ghm/loss_cls/max_weight`: the largest weight of an entry in any level, before `loss_weight`;
    - `ghm/loss_cls/acc_sum_00`, ...: the running counts after the step, with momentum.

    Trackers get the bins as one histogram, `ghm/loss_cls/bins`, and the two numbers that follow.
    Other steps cost nothing. Recorded is each module of the model that has `bin_records`, as `GHMC`
    and `GHMR` do.

    Args:
        interval: training steps from one record to the next, at least 1.
    """

    def __init__(self, interval: int = 50) -> None:
        check_integer('GHMStatsHook.interval', interval, 1)
        self.interval = interval
        self._losses: dict[str, nn.Module] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the losses; warn where there are none."""
        modules = unwrap(runner.model).named_modules()
        found = {name: module for name, module in modules if hasattr(module, 'bin_records')}
        short = {name.rpartition('.')[-1]: module for name, module in found.items()}
        self._losses = short if len(short) == len(found) else found
        if not found:
            MMLogger.get_current_instance().warning(
                'GHMStatsHook has nothing to write: the model has no GHM loss (GHMC, GHMR); remove '
                'it from custom_hooks'
            )

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Let the losses record the bins of this step."""
        if self.every_n_train_iters(runner, self.interval):
            for loss in self._losses.values():
                loss.bin_records = []  # type: ignore[assignment]

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Write the records."""
        scalars: dict[str, float] = {}
        for name, loss in self._losses.items():
            records: Any = loss.bin_records
            loss.bin_records = None  # type: ignore[assignment]
            if records:
                stats = _summarize(records, getattr(loss, 'acc_sum', None))
                scalars.update({f'ghm/{name}/{key}': value for key, value in stats.items()})
        if scalars and is_main_process():
            for backend in runner.visualizer._vis_backends.values():
                _write(backend, scalars, runner.iter + 1, f'{runner.timestamp}.json')


def _write(backend: Any, scalars: dict[str, float], step: int, log: str) -> None:
    """Write all to the local log; to trackers the bins of a loss as a histogram."""
    if not isinstance(backend, LocalVisBackend):
        names = {key.rpartition('/bin_')[0] for key in scalars if '/bin_' in key}
        for name in sorted(names) if hasattr(backend, 'add_histogram') else ():
            counts = [count for key, count in scalars.items() if key.startswith(f'{name}/bin_')]
            backend.add_histogram(f'{name}/bins', counts, step)
        ends = '/non_empty_bins', '/max_weight'
        scalars = {key: value for key, value in scalars.items() if key.endswith(ends)}
    backend.add_scalars(scalars, step, file_path=log)


def _summarize(
    records: list[tuple[Tensor, Tensor]], running_counts: Tensor | None
) -> dict[str, float]:
    """Combine the calls of a step, with one device sync."""
    all_counts, all_weights = zip(*records, strict=True)
    counts = torch.stack(all_counts).sum(0).tolist()
    stats = {f'bin_{i:02}': count for i, count in enumerate(counts)}
    stats['non_empty_bins'] = sum(count > 0 for count in counts)
    stats['max_weight'] = torch.stack(all_weights).max().item()
    if running_counts is not None:
        stats |= {f'acc_sum_{i:02}': count for i, count in enumerate(running_counts.tolist())}
    return stats

"""Bounds what a run remembers of the numbers it has logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, Runner

from ghmdet.registry import HOOKS

_MODES = ('train', 'val', 'test')
_ALL = 1_000_000  # mmengine's own bound
_WINDOWED = ('mean', 'min', 'max')


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Forget the values of logged numbers that the log will not look at again.

    mmengine keeps a million values of each, copies them all at each iteration and writes them into
    each checkpoint. Kept here is what `log_processor` takes its averages over: `window_size`, the
    windows of `custom_cfg`, an epoch for 'epoch'. So the log stays the same to the last digit.
    Everything is kept of a number that is taken over 'global', without a window or by a method of
    the user's, and of all numbers where the log processor is of another class than mmengine's.

    Args:
        keep: least number of values to keep, for hooks that look back.

    Raises:
        ValueError: `keep` is not an integer of at least 1.
    """

    priority = 'VERY_LOW'  # after the others have noted their numbers

    def __init__(self, keep: int = 1000) -> None:
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise ValueError(
                f'LogHistoryHook.keep: expected an integer of at least 1, got {keep!r}'
            )
        self.keep = keep
        self._lengths: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Cut what a resumed checkpoint has brought."""
        self._lengths.clear()
        self._bound(runner)
        scalars = runner.message_hub.log_scalars
        for key, length in self._lengths.items():
            values, counts = scalars[key].data
            if len(values) > length:
                scalars[key] = HistoryBuffer(values[-length:], counts[-length:], length)

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._lengths.clear()  # its data loader may be another one

    def _after_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self._bound(runner)

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._bound(runner)

    def _bound(self, runner: Runner) -> None:
        """Set how much the histories hold; each cuts itself when it is updated."""
        for key, history in runner.message_hub.log_scalars.items():
            if key not in self._lengths:
                needed = _length_needed(runner, key)
                history.max_length = _ALL if needed is None else max(needed, self.keep)
                self._lengths[key] = history.max_length


def _length_needed(runner: Runner, key: str) -> int | None:
    """How many of the newest values of a number the log may look at; None stands for all."""
    processor = runner.log_processor
    if type(processor) is not LogProcessor:
        return None
    mode = next((mode for mode in _MODES if key.startswith(mode)), None)
    if mode is None:  # is not logged
        return 1
    name = key.removeprefix(f'{mode}/')
    windows = [processor.window_size]
    for cfg in processor.custom_cfg:
        if cfg['data_src'] == name and cfg.get('method_name') != 'current':
            windows.append(cfg.get('window_size') if cfg.get('method_name') in _WINDOWED else None)
    if mode != 'train' and name in ('time', 'data_time'):
        windows.append('epoch')
    lengths = [_resolve(window, getattr(runner, f'_{mode}_loop', None)) for window in windows]
    return None if None in lengths else max(length for length in lengths if length)


def _resolve(window: Any, loop: Any) -> int | None:
    """Length of a window, None for one without end."""
    if isinstance(window, int):
        return window if window > 0 else None
    if window != 'epoch' or not hasattr(loop, 'dataloader'):
        return None
    if hasattr(loop, 'max_iters') and not isinstance(loop, EpochBasedTrainLoop):
        return None  # all of it is one epoch
    return len(loop.dataloader) + 1  # of validation mmengine takes one more than it has


@HOOKS.register_module()
class MeanLossesHook(Hook):
    """Let the log show the losses as the mean over all processes, not those of the first one.

    It takes those that some process has in the first iteration; a process may lack one now and
    then.
    """

    priority = (
        'NORMAL'  # once SkipNonFiniteStepsHook has left out what is not finite, before the logger
    )

    def before_train(self, runner: Runner) -> None:
        """Forget the names."""
        self._keys: list[str] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace the newest values."""
        if get_world_size() == 1:
            return
        own = {f'train/{name}' for name in outputs or ()}
        self._keys = self._keys or sorted(set().union(*all_gather_object(own)))
        # Values and how much they count, which is nothing if they were left out.
        data = {key: runner.message_hub.get_scalar(key).data for key in own}
        newest = [[float(part[-1]) for part in data.get(key, ([0], [0]))] for key in self._keys]
        sums = torch.tensor(newest, dtype=torch.float64)
        all_reduce(sums)
        for key, (total, count) in zip(self._keys, sums.tolist(), strict=True):
            if key in own and data[key][1][-1]:
                values, counts = data[key]
                values[-1] = total / count * counts[-1]

"""Values in the log: peak memory, slow steps, losses of all processes, how long values are kept."""

from __future__ import annotations

import os
import sys
from statistics import median
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import IterBasedTrainLoop, LogProcessor, Runner

from ghmdet.argument_checks import check_integer
from ghmdet.models.threads import SETTINGS
from ghmdet.registry import HOOKS

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_ALL = 1_000_000  # mmengine's own bound
_WINDOWED = ('mean', 'min', 'max')


@HOOKS.register_module()
class PeakMemoryHook(Hook):
    """Log `peak_memory` in MB (2**20 bytes): the peak so far, with each log line.

    With CUDA it is what torch has allocated on the device, otherwise the resident memory of this
    process, without data loader workers.
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self.peak_mb = 0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Add the peak to the training log."""
        # mmengine's log processor resets torch's own peak at each line.
        self.peak_mb = max(self.peak_mb, _memory_mb())
        if self.peak_mb > 0:
            runner.message_hub.update_scalar('train/peak_memory', self.peak_mb)

    def after_test_epoch(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Add the peak to the results of the test."""
        self.peak_mb = max(self.peak_mb, _memory_mb())
        if self.peak_mb > 0:
            runner.message_hub.update_info('test/peak_memory', self.peak_mb)


def _memory_mb() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == 'darwin' else 10)  # bytes on macOS, else KB


@HOOKS.register_module()
class SlowStepsHook(Hook):
    """Warn once when steps take three times as long as before, and say what may be the cause.

    Compared are medians, of the last 10 steps and of the 20 to 100 before: of the time that is
    logged and of that per pixel, so that larger images give no warning. Nor do steps below 0.1 s.
    """

    priority = 'NORMAL'
    _told = False

    def before_train(self, runner: Runner) -> None:
        """Begin to compare."""
        self._steps: list[tuple[float, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Compare."""
        times = runner.message_hub.log_scalars.get('train/time')  # of IterTimerHook
        if times is None or self._told:
            return
        inputs = data_batch.get('inputs', ()) if isinstance(data_batch, dict) else ()
        pixels = sum(image.numel() for image in inputs if isinstance(image, torch.Tensor))
        seconds = float(times.current())
        self._steps = [*self._steps[-109:], (seconds, seconds / max(pixels, 1))]
        (before, old), (now, new) = (
            [median(values) for values in zip(*steps, strict=True)] or (0, 0)
            for steps in (self._steps[:-10], self._steps[-10:])
        )
        if len(self._steps) < 30 or now < max(0.1, 3 * before) or new < 3 * old:
            return
        self._told = True
        chosen = ' '.join(name for name in SETTINGS if os.environ.get(name))
        hint = f'; unset {chosen}: threads wait as it says, not as the load asks' if chosen else ''
        runner.logger.warning(
            f'a step takes {now:.2g} s, and took {before:.2g} s before the last 10. Other programs '
            'may use the cores (`top`) or the memory (`free -h`: swap), or images are read slowly '
            f'(data_time in this log). For fewer free cores stop and use --resume --threads N{hint}'
        )


@HOOKS.register_module()
class MeanLossesHook(Hook):
    """Log the losses as the mean over all processes, not those of the first process.

    Averaged are the losses that any process has in the first iteration; a process may lack one in
    other iterations.
    """

    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Reset the names of the losses."""
        self._keys: list[str] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Replace the newest values."""
        if get_world_size() == 1:
            return
        own = {f'train/{name}' for name in outputs or ()}
        self._keys = self._keys or sorted(set().union(*all_gather_object(own)))
        # Values and their counts; the count of a skipped step is 0.
        data = {key: runner.message_hub.get_scalar(key).data for key in own}
        newest = [[float(part[-1]) for part in data.get(key, ([0], [0]))] for key in self._keys]
        sums = torch.tensor(newest, dtype=torch.float64)
        all_reduce(sums)
        for key, (total, count) in zip(self._keys, sums.tolist(), strict=True):
            if key in own and data[key][1][-1]:
                values, counts = data[key]
                values[-1] = total / count * counts[-1]


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Bound the histories of logged values.

    mmengine keeps a million values of each, copies all in each iteration and writes them into each
    checkpoint. Kept are the newest `keep`, or as many as the largest window that `log_processor`
    averages over, so the log does not change. All are kept where a window is 'global', where a
    value is reduced by another method than mean, min, max or current, and where the log processor
    is of another class than mmengine's.

    Args:
        keep: least number of values to keep, at least 1, for hooks that look back.
    """

    priority = 'VERY_LOW'

    def __init__(self, keep: int = 1000) -> None:
        check_integer('LogHistoryHook.keep', keep, 1)
        self.keep = keep
        self._length = _ALL

    def before_train(self, runner: Runner) -> None:
        """Cut the histories of a resumed checkpoint."""
        self._length = max(self.keep, _largest_window(runner))
        scalars = runner.message_hub.log_scalars
        for key, history in scalars.items():
            values, counts = history.data
            if len(values) > self._length:
                newest = slice(-self._length, None)
                scalars[key] = HistoryBuffer(values[newest], counts[newest], self._length)
        self._after_iter(runner)

    def _after_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Set the length of each history, which cuts itself when it is updated."""
        for history in runner.message_hub.log_scalars.values():
            history.max_length = self._length

    _after_epoch = _after_iter


def _largest_window(runner: Runner) -> int:
    """The number of newest values of any scalar that the log processor may look at."""
    processor = runner.log_processor
    if type(processor) is not LogProcessor:
        return _ALL
    windows = ['epoch', processor.window_size]  # times of a validation are of its whole epoch
    for cfg in processor.custom_cfg:
        method = cfg.get('method_name')
        if method != 'current':
            windows.append(cfg.get('window_size') if method in _WINDOWED else 'global')
    lengths = [window for window in windows if isinstance(window, int) and window > 0]
    if len(lengths) < len([window for window in windows if window != 'epoch']):
        return _ALL
    if windows.count('epoch') > 1 and isinstance(runner._train_loop, IterBasedTrainLoop):
        return _ALL  # all iterations are one epoch
    loops = (runner._train_loop, runner._val_loop, runner._test_loop)
    # Of a validation mmengine averages over one more value than it has.
    return max([*lengths, *(len(getattr(loop, 'dataloader', ())) + 1 for loop in loops)])

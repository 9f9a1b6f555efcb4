"""Save before a run is stopped by a signal."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ghmdet.checkpoint.save_hook import CheckpointHook
from ghmdet.engine.console import clear_live_line
from ghmdet.registry import HOOKS

STOPPED = 75
"""Exit code of a run that has saved and stopped: EX_TEMPFAIL of sysexits.h, 'try again'."""
_NAMES = ('SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGHUP')
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# A launcher forwards the signal that Slurm sends to every process too: that is one, not two.
_ONE_SIGNAL_S = 1.0 if 'TORCHELASTIC_RUN_ID' in os.environ else 0.3
_NOTHING_SAVED = 'nothing is saved, because default_hooks.checkpoint is not a CheckpointHook'


class TrainingStopped(SystemExit):
    """The run has saved because of a signal; ends the program with exit code 75."""


@HOOKS.register_module()
class StopHook(Hook):
    """Save and end the run after the iteration in which a signal arrives, on all processes.

    See docs/train/resume.md for the signals. `release` must be called when the training has ended,
    also by an exception.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._received = 0  # signal of this process; only the thread writes it
        self._requested = 0  # signal of any process, once all know it

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers."""
        for loop in (runner._train_loop, runner._val_loop):
            if isinstance(loader := getattr(loop, 'dataloader', None), DataLoader):
                loader.worker_init_fn = partial(_ignore_signals_in_worker, loader.worker_init_fn)
        self._num_val_batches = 0  # of the process that has fewest
        if hasattr(runner._val_loop, 'dataloader'):
            fewest = torch.tensor(len(runner.val_dataloader))
            all_reduce(fewest, 'min')
            self._num_val_batches = int(fewest)
        if self._pipe is None and threading.current_thread() is threading.main_thread():
            self._listen()

    def after_train_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        """Save and stop, unless this is the last iteration of an epoch."""
        loop: Any = runner.train_loop
        is_last = not isinstance(loop, IterBasedTrainLoop) and batch_idx + 1 >= len(loop.dataloader)
        if self._is_stop_requested() and not is_last:
            self._save_and_stop(runner, batch_idx)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save and stop."""
        if not isinstance(runner.train_loop, IterBasedTrainLoop) and self._is_stop_requested():
            self._save_and_stop(runner)

    def after_val_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        """Stop if the weights are saved; otherwise the validation continues."""
        if self._pipe is None or batch_idx >= self._num_val_batches:
            return
        hook = _checkpoint_hook(runner)
        if self._is_stop_requested() and (hook is None or hook.has_saved(runner)):
            self._stop(runner)

    def release(self) -> None:
        """Restore the signal handlers from before."""
        if self._pipe is None:
            return
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._pipe[1])  # which ends the thread
        self._pipe = None

    def _listen(self) -> None:
        """Receive signals in another thread, as this one may be waiting for other processes."""
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        for number in _SIGNALS:
            is_ignored = signal.getsignal(number) is signal.SIG_IGN
            if not (is_ignored and signal.Signals(number).name == 'SIGHUP'):
                self._before[number] = signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._pipe[1])
        threading.Thread(target=self._watch, args=self._pipe[:1], daemon=True).start()

    def _watch(self, reader: int) -> None:
        first = 0.0
        while received := os.read(reader, 1):
            number, now = received[0], time.monotonic()
            if number not in _SIGNALS:
                continue
            name = signal.Signals(number).name
            if not self._received:
                self._received, first = number, now
                text = f'{name}: will save and stop after this iteration; again to stop at once'
                print(text, file=sys.stderr, flush=True)
            elif now - first > _ONE_SIGNAL_S:
                clear_live_line()
                print(f'{name} again: stopped without saving', file=sys.stderr, flush=True)
                os._exit(128 + number)
        os.close(reader)

    def _is_stop_requested(self) -> bool:
        """Whether any process has got a signal; all processes have to call this."""
        flag = torch.tensor(self._received)
        all_reduce(flag, 'max')
        self._requested = int(flag)
        return self._requested > 0

    def _save_and_stop(self, runner: Runner, batch_idx: int | None = None) -> None:
        if hook := _checkpoint_hook(runner):
            hook.save_before_stop(runner, batch_idx)
        self._stop(runner)

    def _stop(self, runner: Runner) -> None:
        """Raise TrainingStopped once all processes have come here."""
        hook, name = _checkpoint_hook(runner), signal.Signals(self._requested).name
        saved = f'{hook.last_ckpt} is saved, resume with --resume' if hook else _NOTHING_SAVED
        runner.logger.warning(f'{name}: stopped; {saved}')
        barrier()
        raise TrainingStopped(STOPPED)


def _checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)


def _ignore_signals_in_worker(init: Any, worker_id: int) -> None:
    """Let a loader worker ignore a signal to all processes, so that the step can finish."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_exit_on_sigterm_of, args=(parent.pid,), daemon=True).start()
    if init is not None:
        init(worker_id)


def _exit_on_sigterm_of(parent: int) -> None:
    """End this process on a SIGTERM of its parent only, which is how the loader ends it."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)

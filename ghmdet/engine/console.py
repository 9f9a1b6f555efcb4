"""What a run shows on the console: chosen lines of its log, on a terminal a line with a bar."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import IterBasedTrainLoop, Runner
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ghmdet.registry import HOOKS

_LOGGING = ('logging', 'mmengine.logging.logger', 'ghmdet.compat', __name__)
_BACKENDS = 'mmengine.visualization.vis_backend'  # warns of servers that answer too
_LOGGER_HOOK = 'mmengine.hooks.logger_hook'
_INTERVAL_S = 0.25  # between two refreshes of the bar
_live: Progress | None = None  # what the terminal shows now


@contextmanager
def filter_console() -> Iterator[None]:
    """Let the loggers that are made meanwhile show `is_shown` on the console; the file gets all.

    A Runner of whatever class makes its logger itself and uses it at once, so a filter could not be
    added in between.
    """
    original = MMLogger.__init__

    def init(self: MMLogger, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for handler in self.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_shown)

    MMLogger.__init__ = init
    try:
        yield
    finally:
        MMLogger.__init__ = original


def is_shown(record: logging.LogRecord) -> bool:
    """Whether a record goes to the console.

    Shown are warnings and errors, what ghmdet and other packages log, and LoggerHook's lines; not
    shown is what else mmengine and mmcv log: environment, config, hooks, and that a tracker needs
    its server. While a bar stands on the terminal, single iterations are not shown either.
    """
    frame = sys._getframe(1)
    while frame.f_globals.get('__name__') in _LOGGING and frame.f_back:
        frame = frame.f_back
    module = str(frame.f_globals.get('__name__'))
    if record.levelno >= logging.WARNING:
        return module != _BACKENDS
    if module == _LOGGER_HOOK:
        is_replaced = _live is not None and frame.f_code.co_name.endswith('_iter')
        return not is_replaced and not record.getMessage().startswith('Exp name:')
    return module.partition('.')[0] not in ('mmengine', 'mmcv')


def show_live_line(runner: Runner) -> None:
    """Show a bar with the remaining time if stdout is a terminal; elsewhere do nothing."""
    console = Console()
    is_terminal = sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal
    if is_terminal and get_rank() == 0:
        runner.register_hook(LiveLineHook())


def clear_live_line() -> None:
    """Remove the bar; what is printed later stands where it was."""
    global _live
    if _live is not None:
        live, proxy, _live = _live, sys.stdout, None
        live.stop()
        _redirect(proxy, sys.stdout)


@HOOKS.register_module()
class LiveLineHook(Hook):
    """Draw the bar, at most four times a second and without a thread; the log goes above it.

    The cursor stays visible, since a killed process could not show it again.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._next = 0.0

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._draw(runner, mode, runner.iter if mode == 'train' else 0)

    def _after_iter(
        self, runner: Runner, batch_idx: int, *_: Any, mode: str = 'train', **__: Any
    ) -> None:
        if monotonic() >= self._next:
            self._draw(runner, mode, (runner.iter if mode == 'train' else batch_idx) + 1)

    def after_run(self, runner: Runner) -> None:
        """Remove the bar."""
        clear_live_line()

    def _draw(self, runner: Runner, mode: str, done: int) -> None:
        name, hub = mode, runner.message_hub
        note = f'eta {timedelta(seconds=int(hub.get_info("eta") or 0))}' if done else ''
        if mode == 'train':
            total = runner.max_iters
            if not isinstance(runner.train_loop, IterBasedTrainLoop):
                name = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
            if 'train/loss' in hub.log_scalars:
                note += f'  loss {hub.get_scalar("train/loss").mean(10):.4f}'
        else:
            total = len(runner.val_dataloader if mode == 'val' else runner.test_dataloader)
        live = _start()
        about = dict(description=name, total=total, completed=done, note=note)
        live.update(live.task_ids[0], refresh=True, **about)
        self._next = monotonic() + _INTERVAL_S


def _start() -> Progress:
    """Return what the terminal shows, after letting all output go through it."""
    global _live
    if _live is None:
        count = TextColumn('{task.completed}/{task.total}  {task.fields[note]}')
        columns = TextColumn('{task.description}'), BarColumn(), count
        options = dict(auto_refresh=False, transient=True, redirect_stderr=sys.stderr.isatty())
        _live = Progress(*columns, console=Console(highlight=False), **options)  # type: ignore[arg-type]
        _live.add_task('', note='')
        before = sys.stdout
        _live.start()
        _live.console.show_cursor(True)
        _redirect(before, sys.stdout)
        atexit.register(clear_live_line)
    return _live


def _redirect(before: Any, now: Any) -> None:
    """Let the loggers that write to one stream write to another."""
    handlers = (each for logger in MMLogger._instance_dict.values() for each in logger.handlers)
    for handler in handlers:
        if getattr(handler, 'stream', None) is before:
            handler.setStream(now)

"""Runs trainings as processes, several at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from comparison.runs import CONSOLE, Run
from ghmdet.reports.after_training import tool_environment

_LOCK = 'compare.lock'
_SIGNALS = tuple(s for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if (s := getattr(signal, name, 0)))
_POLL = 0.2  # seconds
_REDRAW = 5.0


class Interrupted(SystemExit):
    """A signal came; the trainings that ran have saved."""


class Processes:
    """The trainings that are running.

    Each has a session of its own, so that Ctrl-C reaches only this process, which then tells each
    training once to save and stop. A training whose parent was killed goes on; it still holds the
    lock of its folder, which it has inherited, and another comparison waits for it.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs, self.threads = jobs, threads
        self._running: dict[int, tuple[Run, subprocess.Popen | None, IO]] = {}
        self._signals = 0

    def run(self, runs: Sequence[Run], on_end: Callable[[Run], None]) -> None:
        """Run what is not finished, in this order; `on_end` is called after each.

        Raises:
            Interrupted: a signal came.
        """
        waiting = [run for run in runs if run.state != 'finished']
        # nohup's SIGHUP stays ignored.
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in heard}
        shown = Progress(
            *(TextColumn('{task.description}'), BarColumn(), TaskProgressColumn()),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
            redirect_stdout=sys.stdout.isatty(),  # else it would not reach a file or a pipe
        )
        try:
            with shown:
                task, due = shown.add_task('', total=len(runs)), 0.0
                while (waiting and not self._signals) or self._running:
                    while waiting and len(self._running) < self.jobs and not self._signals:
                        self._start(waiting.pop(0))
                    for run in self._collect():
                        on_end(run)
                    if not shown.disable and time.monotonic() > due:
                        names = '; '.join(str(run) for run, _, _ in self._running.values())
                        done = sum(run.progress() for run in runs)
                        shown.update(task, completed=done, description=names)
                        due = time.monotonic() + _REDRAW
                    time.sleep(_POLL)
        finally:
            self._terminate()  # after an exception
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signals:
            raise Interrupted(130)

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Pass a signal on; a second one ends the trainings at once."""
        self._signals += 1
        if self._signals == 1:
            print('stopping as soon as each training has saved', file=sys.stderr, flush=True)
        self._terminate()

    def _terminate(self) -> None:
        for _, process, _ in self._running.values():
            if process is not None:
                process.terminate()

    def _start(self, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = (run.folder / _LOCK).open('w')
        if not _take(lock):
            self._running[id(run)] = run, None, lock
            return
        run.load()  # another comparison may have finished it
        if run.state == 'finished':
            self._running[id(run)] = run, None, lock
            return
        run.record(self.threads)
        env = tool_environment() | {'OMP_NUM_THREADS': str(self.threads)}
        with (run.folder / CONSOLE).open('w') as console:  # the errors of this start alone
            process = subprocess.Popen(
                [*run.command, '--threads', str(self.threads)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                pass_fds=(lock.fileno(),) if fcntl else (),
            )
        self._running[id(run)] = run, process, lock
        if self._signals:  # one that came before the process did
            process.terminate()

    def _collect(self) -> list[Run]:
        """Return the runs that have ended, with their state."""
        ended = []
        for key, (run, process, lock) in list(self._running.items()):
            if process is None:
                # Of another comparison: wait until it has let go, then go on from there.
                if self._signals:
                    lock.close()
                    del self._running[key]
                elif _take(lock):
                    lock.close()
                    del self._running[key]
                    self._start(run) if run.state != 'finished' else ended.append(run)
                continue
            code = process.poll()
            if code is None:
                continue
            lock.close()
            del self._running[key]
            if code == 0:
                run.finish(self.threads)
            else:
                run.state = '' if self._signals else _describe(code, run)
            ended.append(run)
        return ended


def _take(lock: IO) -> bool:
    """Lock a file, for this process and those that inherit it; False if another holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _describe(code: int, run: Run) -> str:
    if code < 0:
        return f'failed: killed by signal {-code} ({signal.Signals(-code).name})'
    return f'failed: exit code {code}: {run.read_error()}'

"""How OpenMP's threads wait for each other, so that other programs do not slow them down much.

The threads of GNU's OpenMP (libgomp, in torch for Linux) spin while they wait. Where another
program uses a core too, they then keep the thread that they wait for from running, and a step takes
3 to 20 times longer. With more of its threads in the process than cores libgomp lets them sleep,
which it decides at each wait. So it gets idle threads while ours have too few cores. Those that
compute stay the same, and so does each bit.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

SETTINGS = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'
"""Variables of the environment that say how the threads of libgomp wait."""

_INTERVAL = 0.25  # seconds
# Cores that were missing on average. Spinning with 0.3 was measured to be as fast as sleeping, with
# 0.6 up to ten times slower.
_MANY, _FEW = 0.4, 0.25
_QUIET = 8  # intervals with few of them until threads spin again
_watcher = Thread()


def adapt_waiting() -> None:
    """Let OpenMP's threads spin only while they have their cores, from now on.

    A thread checks that four times a second. To be called by the thread that computes, once torch
    is loaded; further calls do nothing. Nothing is done with one thread, where one of `SETTINGS` is
    set, and without libgomp or Linux's /proc.
    """
    global _watcher
    if sys.platform != 'linux' or any(os.environ.get(name) for name in SETTINGS):
        return
    library = ctypes.CDLL(None)  # what torch has loaded for all
    is_other = hasattr(library, '__kmpc_fork_call')  # of LLVM and Intel, which know GOMP_ too
    is_gnu = hasattr(library, 'GOMP_parallel') and not is_other
    if is_gnu and library.omp_get_max_threads() > 1 and not _watcher.is_alive():  # it may be forked
        _watcher = Thread(target=_watch, args=(library,), daemon=True)
        _watcher.start()


def _watch(library: Any) -> None:
    """Hold idle threads while this process has too few cores."""
    release, quiet, before, then = None, 0, _find_delay(), monotonic()
    while True:
        sleep(_INTERVAL)
        delay, now = _find_delay(), monotonic()
        missing = (delay - before) / (now - then)
        before, then = delay, now
        quiet = quiet + 1 if missing < _FEW else 0
        if release is None and missing > _MANY:
            release = _hold_idle_threads(library)
        elif release is not None and quiet >= _QUIET:
            release.set()
            release = None


def _find_delay() -> float:
    """For how many seconds threads of this process had work but no core; 0 where it is unknown."""
    total = 0
    with suppress(OSError):
        for task in os.listdir('/proc/self/task'):
            with suppress(OSError), open(f'/proc/self/task/{task}/schedstat', 'rb') as file:
                total += int(file.read().split()[1])
    return total / 1e9


def _hold_idle_threads(library: Any) -> Event | None:
    """Hold more threads of OpenMP than there are cores until the event is set.

    None where so many threads cannot be started, which would make libgomp end the process.
    """
    count, tried, release = len(os.sched_getaffinity(0)) + 1, Event(), Event()

    def hold() -> None:
        nothing = ctypes.cast(library.free, ctypes.c_void_p)  # each calls free(NULL)
        library.GOMP_parallel(nothing, None, count, 0)
        release.wait()  # when this thread ends, so do the others of its team

    try:
        for _ in range(count):
            Thread(target=tried.wait, daemon=True).start()
        Thread(target=hold, daemon=True).start()
    except RuntimeError:
        return None
    finally:
        tried.set()
    return release

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
    if sys.platform != 'linux' or any(os.environ.get(name) for name in SETTINGS):
        return
    library = ctypes.CDLL(None)  # what torch has loaded for all
    is_other = hasattr(library, '__kmpc_fork_call')  # of LLVM and Intel, which know GOMP_ too
    is_gnu = hasattr(library, 'GOMP_parallel') and not is_other
    if is_gnu and library.omp_get_max_threads() > 1 and not _watcher.is_alive():
        _start(library)


def _start(library: Any) -> None:
    global _watcher  # in a forked process it is not alive
    _watcher = Thread(target=_watch, args=(library,), daemon=True)
    with suppress(RuntimeError):  # no more threads are allowed
        _watcher.start()


def _watch(library: Any) -> None:
    """Wait until cores are missing, hold idle threads until they are there, and start again."""
    count, quiet, before, then = 0, 0, _find_delay(), monotonic()
    while not count or quiet < _QUIET:
        sleep(_INTERVAL)
        delay, now = _find_delay(), monotonic()
        missing = (delay - before) / (now - then)
        before, then = delay, now
        quiet = quiet + 1 if missing < _FEW else 0
        if not count and missing > _MANY:
            count, tried = len(os.sched_getaffinity(0)) + 1, Event()
            try:
                for _ in range(count):
                    Thread(target=tried.wait, daemon=True).start()
            except RuntimeError:  # libgomp would end the process
                return
            finally:
                tried.set()
            nothing = ctypes.cast(library.free, ctypes.c_void_p)  # each calls free(NULL)
            library.GOMP_parallel(nothing, None, count, 0)
    _start(library)  # the idle threads end with this one


def _find_delay() -> float:
    """For how many seconds threads of this process had work but no core; 0 where it is unknown."""
    total = 0
    with suppress(OSError):
        for task in os.listdir('/proc/self/task'):
            with suppress(OSError), open(f'/proc/self/task/{task}/schedstat', 'rb') as file:
                total += int(file.read().split()[1])
    return total / 1e9

"""A little more memory than the first steps need."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.registry import HOOKS

_STEP = 5  # by then what lasts as long as the run is there
_SHARE = 0.05
_FIELDS = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'


class _MallInfo2(ctypes.Structure):  # of malloc.h, glibc 2.33 and later
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


@HOOKS.register_module()
class ReserveMemoryHook(Hook):
    """On a CPU, enlarge the heap by a twentieth once, so that it need not grow later.

    `keep_freed_memory` lets the process keep what a step frees. Small things that outlive a step
    divide it, until a large tensor finds no room in it and takes new memory: a few jumps of one or
    two percent in all, in runs of any length. Taken in advance, a run has at its start what it
    needs to its end. Does nothing with CUDA or another C library than glibc.
    """

    priority = 'LOWEST'  # when the other hooks have freed theirs
    done = False
    """In this process, whose heap would be doubled by each time more."""

    def before_train(self, runner: Runner) -> None:
        """Begin to count."""
        self._steps = 0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Reserve after some steps."""
        self._steps += 1
        if self._steps == _STEP and not ReserveMemoryHook.done and not torch.cuda.is_available():
            ReserveMemoryHook.done = True
            reserve_memory(_SHARE)


def reserve_memory(share: float) -> int:
    """Make memory resident that the heap will use before it asks the system for more, once.

    Args:
        share: of the heap's size. To be called once in a process.

    Returns:
        How many bytes; 0 where the C library cannot tell how its heap is filled.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == 'linux' else None
    if not hasattr(libc, 'mallinfo2'):
        return 0
    libc.mallinfo2.restype = _MallInfo2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    info = libc.mallinfo2()
    extra = int(info.arena * share)
    # More than all that is free fits into no gap: it begins where the heap's free end does.
    block = libc.malloc(info.fordblks + extra)
    if not block:
        return 0
    ctypes.memset(block + info.keepcost, 0, extra)  # behind what the free end has already
    libc.free(block)
    return extra

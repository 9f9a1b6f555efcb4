"""Memory on the CPU: kept between steps, and its peak in the log."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ghmdet.engine.launcher import has_accelerator
from ghmdet.registry import HOOKS

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


@HOOKS.register_module()
class PeakMemoryHook(Hook):
    """Log `peak_memory` in MB (2**20 bytes), the most memory in use so far, with each log line.

    With CUDA it is what torch has allocated on the device since the start of the run, otherwise the
    resident memory of this process, data loader workers not counted.
    """

    def __init__(self) -> None:
        self.peak_mb = 0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Hand the peak to the log of the training."""
        if self._update() > 0:
            runner.message_hub.update_scalar('train/peak_memory', self.peak_mb)

    def after_test_epoch(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Hand the peak to the report of the test."""
        if self._update() > 0:
            runner.message_hub.update_info('test/peak_memory', self.peak_mb)

    def _update(self) -> int:
        # mmengine's log processor resets torch's own peak at each line.
        self.peak_mb = max(self.peak_mb, _memory_mb())
        return self.peak_mb


def _memory_mb() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == 'darwin' else 10)  # bytes on macOS, else KB


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_PREPARED = '400'


def keep_freed_memory() -> None:
    """On a CPU, keep the memory that a step frees for the next one.

    Otherwise glibc returns it, and each step gets its gigabytes anew, page by page from the kernel:
    a seventh of the time of a training step of R-50, for a tenth less memory.

    Where images differ in size, what oneDNN prepares for each size comes to lie in between and
    breaks the free memory up. So it keeps that of two sizes or three (up to 172 things each, of all
    our models), rather than 1024 things, unless ONEDNN_PRIMITIVE_CACHE_CAPACITY is set.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is not None and not has_accelerator():
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        # Heard only before the first convolution of the process.
        os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', _PREPARED)

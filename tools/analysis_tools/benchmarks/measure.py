"""Measures time and memory of functions side by side, and the machine; prints the table."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger

_HEADER = f'{"":40} {"min":>9} {"median":>9} {"max":>9} {"peak MiB":>9} {"ratio":>7}'
_PACKAGES = (
    *('torch', 'torchvision', 'mmengine', 'mmcv-lite', 'numpy', 'opencv-python', 'pillow'),
    *('pycocotools', 'faster-coco-eval', 'msgspec', 'triton'),
)
_RUNS = 10


@dataclass
class Row:
    """Measurements of one variant: times in seconds, sizes in bytes."""

    name: str
    seconds: list[float]
    peak_bytes: int | None = None
    reference: str | None = None
    """Name of the row it is compared with, if any."""
    floor_seconds: float | None = None
    """Lower bound from the measured bandwidth or compute rate of the machine."""
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds of the runs."""
        return statistics.median(self.seconds)


@dataclass
class Report:
    """Results of a task."""

    task: str
    rows: list[Row]
    checks: dict[str, bool] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def ratio(self, row: Row) -> float | None:
        """How many times as long as `row` its reference takes."""
        medians = {other.name: other.median for other in self.rows}
        return medians[row.reference] / row.median if row.reference else None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        rows = []
        for row in self.rows:
            summary = dict(min=min(row.seconds), median=row.median, max=max(row.seconds))
            gap = row.median / row.floor_seconds if row.floor_seconds else None
            rows.append({**vars(row), **summary, 'ratio': self.ratio(row), 'gap': gap})
        return dict(task=self.task, rows=rows, checks=self.checks, remarks=self.remarks)

    def print(self) -> None:
        """Print the table."""
        print(f'\n{self.task}: seconds\n{_HEADER} {"floor":>9} {"gap":>6}')
        for row in self.to_dict()['rows']:
            peak = None if row['peak_bytes'] is None else row['peak_bytes'] / 2**20
            notes = [f'{value:.4g} {name}' for name, value in row['notes'].items()]
            times = ' '.join(_number(row[key], 9, 4) for key in ('min', 'median', 'max'))
            floor = f'{_number(row["floor_seconds"], 9, 4)} {_number(row["gap"], 6, 2)}'
            ratio = _number(row['ratio'], 7, 2)
            print(f'{row["name"]:40} {times} {_number(peak, 9, 1)} {ratio} {floor}', *notes)
        references = dict.fromkeys(row.reference for row in self.rows if row.reference)
        print(f'ratio: median of {" or ".join(references)} / median of the row')
        for remark in self.remarks:
            print(remark)
        for check, passed in self.checks.items():
            print(f'{"ok" if passed else "FAILED"}: {check}')


def measure(
    variants: Mapping[str, Callable[[], object]], runs: int, device: str = 'cpu', warm_ups: int = 1
) -> dict[str, Row]:
    """Run the variants in turns, so that noise of the machine affects all of them.

    Each is warmed up, run once for its peak memory beyond what was in use before, and then `runs`
    times for its time.
    """
    rows = {}
    for name, function in variants.items():
        for _ in range(warm_ups):
            function()
        rows[name] = Row(name, [], find_extra_memory(function, device))
    for _ in range(runs):
        for name, function in variants.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            rows[name].seconds.append(time.perf_counter() - start)
    return rows


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Keep mmengine's log to warnings."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def synchronize(device: str) -> None:
    """Wait until the device has done its work."""
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)


def find_extra_memory(function: Callable[[], object], device: str) -> int | None:
    """Peak bytes of a call beyond those in use before, None where that cannot be measured."""
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    start_peak()
    resident = read_memory('VmRSS')
    function()
    peak = read_memory('VmHWM')
    return None if resident is None or peak is None else max(0, peak - resident)


def start_peak() -> None:
    """Give freed memory back and let this process's peak start at what it holds now (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'malloc_trim'):
        libc.malloc_trim(0)
    reset = Path('/proc/self/clear_refs')
    if reset.exists():
        reset.write_text('5')


def read_memory(key: str) -> int | None:
    """Bytes of this process as Linux counts them: `VmRSS` now, `VmHWM` at the peak."""
    status = Path('/proc/self/status')
    found = re.search(rf'{key}:\s+(\d+) kB', status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else None


class Stopwatch:
    """Notes when parts of a call end.

    Args:
        device: its work is waited for at each mark.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.parts: dict[str, list[float]] = {}
        self._last = 0.0

    def start(self) -> None:
        """Begin the first part."""
        synchronize(self.device)
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        """End a part; the next begins."""
        synchronize(self.device)
        now = time.perf_counter()
        self.parts.setdefault(part, []).append(now - self._last)
        self._last = now

    def watch(self, module: torch.nn.Module, part: str) -> None:
        """Let a part end whenever `module` has run."""
        module.register_forward_hook(lambda *_: self.mark(part))

    def rows(self, whole: str, runs: int) -> list[Row]:
        """Return a row for each part of the call named, of its last runs."""
        return [Row(f'{whole}: {part}', seconds[-runs:]) for part, seconds in self.parts.items()]


def _number(value: float | None, width: int, digits: int) -> str:
    return f'{"-" if value is None else f"{value:.{digits}f}":>{width}}'


class Rates(NamedTuple):
    """The best of several runs."""

    bytes_per_second: float
    """Bytes read plus bytes written while a large tensor is copied."""
    flop_per_second: dict[str, float]
    """The faster of a matrix product and a 3x3 convolution of 256 channels, by data type."""


def describe_machine(device: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    machine: dict[str, Any] = dict(
        processor=_find_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None,
        system=platform.platform(),
        python=platform.python_version(),
    )
    if device.startswith('cuda'):
        properties = torch.cuda.get_device_properties(device)
        machine['gpu'] = f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB'
        machine['cuda'] = torch.version.cuda
    return machine


def list_versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure_rates(device: str) -> Rates:
    """Measure how fast the device copies, and computes in float32 and bfloat16."""
    on_gpu = device.startswith('cuda')
    source = torch.ones(2**28 if on_gpu else 2**26, device=device)
    target = torch.empty_like(source)
    copying = _best(partial(target.copy_, source), device)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        width, batch, side = (8192, 16, 128) if on_gpu else (1024, 1, 64)
        matrix = torch.ones(width, width, device=device, dtype=dtype)
        maps = torch.ones(batch, 256, side, side, device=device, dtype=dtype)
        maps = maps.to(memory_format=torch.channels_last)
        kernel = torch.ones(256, 256, 3, 3, device=device, dtype=dtype)
        product = _best(partial(torch.matmul, matrix, matrix), device)
        convolution = _best(partial(F.conv2d, maps, kernel, padding=1), device)
        conv_flop = 2 * kernel.numel() * maps.numel() / 256
        rates[str(dtype).removeprefix('torch.')] = max(
            2 * width**3 / product, conv_flop / convolution
        )
    return Rates(2 * source.numel() * source.element_size() / copying, rates)


def _best(function: Callable[[], object], device: str) -> float:
    with torch.no_grad():
        return min(measure({'': function}, _RUNS, device)[''].seconds)


def _find_processor() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()

"""Describes the machine, its packages, and how fast it copies and computes."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .measure import measure

_PACKAGES = (
    *('torch', 'torchvision', 'mmengine', 'mmcv-lite', 'numpy', 'opencv-python', 'pillow'),
    *('pycocotools', 'faster-coco-eval', 'msgspec', 'triton'),
)
_RUNS = 10


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

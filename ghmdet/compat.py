"""Workarounds for faults of mmengine that would stop a run or fill its log.

One function per fault, with a link to a public report of it. Each finds the fault by behaviour,
never by version number, and changes nothing for an mmengine without it (newer, older or forked).
`ghmdet.checkpoint` calls `apply` when it is imported; the workarounds that need no torch are in
`ghmdet.config`: `package_lookup` and `sources`.
"""

from __future__ import annotations

import logging
import platform
import sys
import warnings
from importlib.util import find_spec
from typing import Any

import mmengine
import torch
from mmengine.fileio import file_client
from mmengine.utils import dl_utils

from ghmdet.config.package_lookup import rebind

_OLD_FILE_CLIENT = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


def apply() -> None:
    """Apply every workaround; calling it again changes nothing."""
    patch_find_loader()
    patch_distutils()
    patch_file_client_warnings()


def patch_find_loader() -> None:
    """Look for compiled mmcv ops without `pkgutil.find_loader`.

    It is deprecated since Python 3.12 and gone from 3.14, where every run on one device stops at
    building the model (https://github.com/python/cpython/issues/120581).
    """
    available = dl_utils.mmcv_full_available
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', DeprecationWarning)
            available()
    except (AttributeError, DeprecationWarning):
        # Whether full mmcv, not mmcv-lite, is installed.
        rebind(available, lambda: bool(find_spec('mmcv') and find_spec('mmcv._ext')))


def patch_distutils() -> None:
    """Report the environment without `distutils`.

    Python 3.12 dropped it, so without setuptools' replacement a run stops at the report that begins
    every log (https://peps.python.org/pep-0632).
    """
    if find_spec('distutils') is None:
        rebind(dl_utils.collect_env, _report_environment)


def patch_file_client_warnings() -> None:
    """Log two warnings of each run, about a class that mmengine itself chooses, at level DEBUG.

    A user can do nothing about them (they begin the log in
    https://github.com/open-mmlab/mmpose/issues/2669, for example).
    """
    original = getattr(file_client, 'print_log', None)
    if original is None or original.__module__ == __name__:
        return

    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        known = str(msg).startswith(_OLD_FILE_CLIENT)
        original(msg, logger=logger, level=logging.DEBUG if known else level)

    file_client.print_log = print_log


def _report_environment() -> dict[str, Any]:
    """Versions and devices for the beginning of a log."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        'sys.platform': sys.platform,
        'Python': platform.python_version(),
        'CUDA available': torch.cuda.is_available(),
        'GPUs': ', '.join(devices) or 'none',
        'PyTorch': torch.__version__,
        'PyTorch compiling details': torch.__config__.show(),
        'MMEngine': mmengine.__version__,
    }

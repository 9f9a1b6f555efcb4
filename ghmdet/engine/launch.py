"""From a config to a Runner: processes, mixed precision, learning rate, the check at the door.

These functions change the config they are given, as the command line does: what they set is what
the log and the dumped config show.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import subprocess
import sys
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import distributed

from ghmdet.engine.amp import low_precision
from ghmdet.engine.hooks import DoorCheckHook, PeakMemoryHook
from ghmdet.engine.imported_copy import log_imported_copy
from ghmdet.engine.load_weights_hook import LoadWeightsHook
from ghmdet.foreign_configs import adopt
from ghmdet.registry import RUNNERS

_RANK_VARIABLES = {  # where each launcher writes what torch calls RANK, LOCAL_RANK, WORLD_SIZE
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
_STARTED_BY = {'pytorch': 'torchrun --nproc_per_node N', 'slurm': 'srun', 'mpi': 'mpirun'}
_DEFAULT_PORT = 29500
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def build_runner(cfg: Config) -> Runner:
    """Join the processes and build the Runner (of class `runner_type` if set).

    It gets a check at its door, a memory report and the fitting of weights, unless the config names
    these hooks itself. A config of MMDetection comes out as one of ghmdet's (see `adopt`).
    """
    adopt(cfg)
    set_up_launcher(cfg)
    keep_freed_memory()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    log_imported_copy()
    for kind in (DoorCheckHook, PeakMemoryHook, LoadWeightsHook):
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    return runner


def keep_freed_memory() -> None:
    """On a CPU, keep the memory that a step frees for the next one.

    Otherwise glibc returns it, and each step gets its gigabytes anew, page by page from the kernel:
    a seventh of the time of a training step of R-50, for a tenth less memory.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is not None and not _has_accelerator():
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def set_up_launcher(cfg: Config) -> None:
    """Join the processes of `cfg.launcher` through gloo on a machine without accelerator.

    `build_runner` calls it first: mmengine then finds the processes joined and skips its own
    launcher, which needs CUDA, and takes from `cfg.model_wrapper_cfg` a wrapper without device ids.
    With an accelerator, or with launcher 'none', nothing is done.

    Raises:
        ValueError: unknown launcher, or the variables it should have set are not in the
            environment.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher != 'none' and launcher not in _RANK_VARIABLES:
        raise ValueError(
            f'launcher must be one of none, {", ".join(_RANK_VARIABLES)}, but is {launcher!r}; '
            'set it with --launcher or `launcher` in the config'
        )
    if launcher == 'none' or _has_accelerator():
        return
    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    if not is_distributed():
        _export_ranks(launcher)
        _export_master(launcher, dist_cfg.get('port'))
        seconds = dist_cfg.get('timeout')
        distributed.init_process_group(
            backend='gloo', timeout=None if seconds is None else timedelta(seconds=seconds)
        )
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }


def apply_amp(cfg: Config) -> None:
    """Train in mixed precision: `optim_wrapper` becomes AmpOptimWrapper.

    Validation follows, unless `val_cfg` says `fp16=False` or names a loop of another class.

    Raises:
        ValueError: the device has no mixed precision, or `optim_wrapper.type` is another wrapper.
    """
    _choose_autocast_dtype()
    loop = cfg.get('val_cfg')
    if loop is not None and _type_name(loop, 'ValLoop') == 'ValLoop':
        loop.setdefault('fp16', True)
    name = _type_name(cfg.optim_wrapper, 'OptimWrapper')
    if name == 'AmpOptimWrapper':
        print_log(
            '--amp leaves optim_wrapper as it is: its type is AmpOptimWrapper already',
            logger='current',
            level=logging.WARNING,
        )
    elif name == 'OptimWrapper':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    else:
        raise ValueError(
            '--amp needs optim_wrapper.type to be OptimWrapper or AmpOptimWrapper, but it is '
            f'{name}; leave --amp out, or choose the wrapper in the config'
        )


def apply_amp_to_test(cfg: Config) -> None:
    """Test in mixed precision.

    Raises:
        ValueError: the device has no mixed precision.
    """
    _choose_autocast_dtype()
    cfg.test_cfg.fp16 = True


def apply_auto_scale_lr(cfg: Config) -> None:
    """Let mmengine scale the learning rate by the batch of all processes / `base_batch_size`.

    Raises:
        ValueError: the config does not say which batch its learning rate was meant for.
    """
    wanted = ('enable', 'base_batch_size')
    missing = [key for key in wanted if key not in (cfg.get('auto_scale_lr') or {})]
    if missing:
        raise ValueError(
            f'--auto-scale-lr needs {" and ".join(f"auto_scale_lr.{key}" for key in missing)} in '
            'the config, e.g. auto_scale_lr=dict(enable=False, base_batch_size=16) for a learning '
            'rate meant for 16 images a step'
        )
    cfg.auto_scale_lr.enable = True


def _type_name(cfg: Config, default: str) -> str:
    """Name of the class that `type` gives as a string or as the class itself."""
    kind = cfg.get('type', default)
    return getattr(kind, '__name__', kind)


def _choose_autocast_dtype() -> None:
    """Let mmengine's loops, which take torch's default, use the precision that training uses."""
    device = get_device()
    torch.set_autocast_dtype(device, low_precision(device))
    if device == 'cpu' and not _has_bfloat16_instructions():
        print_log(
            'this CPU has no instructions for bfloat16 (AMX or AVX512-BF16): --amp works, but is '
            'slower than float32',
            logger='current',
            level=logging.WARNING,
        )


def _has_bfloat16_instructions() -> bool:
    """Whether bfloat16 is worth it; on processors other than x86 that is taken for granted."""
    if platform.machine() not in ('x86_64', 'AMD64'):
        return True
    probes = ('_is_amx_tile_supported', '_is_avx512_bf16_supported')
    return any(getattr(torch.cpu, probe, lambda: True)() for probe in probes)


def _has_accelerator() -> bool:
    """Whether mmengine's launcher can work, which Apple's mps does not serve."""
    return get_device() not in ('cpu', 'mps')


def _export_ranks(launcher: str) -> None:
    """Give torch the three numbers under the names that torchrun uses."""
    names = _RANK_VARIABLES[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(
            f'launcher {launcher!r} expects {", ".join(missing)} in the environment; start the '
            f'command with {_STARTED_BY[launcher]}, or use --launcher none for one process'
        )
    for target, source in zip(_RANK_VARIABLES['pytorch'], names, strict=True):
        os.environ[target] = os.environ[source]


def _export_master(launcher: str, port: Any) -> None:
    """Say where the first process listens; torchrun has said so itself."""
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.setdefault('MASTER_PORT', str(_DEFAULT_PORT))
    if 'MASTER_ADDR' in os.environ:
        return
    address = _master_address(launcher)
    if address is None:
        raise ValueError(
            f'launcher {launcher!r} expects MASTER_ADDR in the environment: the address of the '
            'machine that runs the process of rank 0'
        )
    os.environ['MASTER_ADDR'] = address


def _master_address(launcher: str) -> str | None:
    """The machine of rank 0, or None where the launcher does not tell."""
    here_alone = {
        'slurm': os.environ.get('SLURM_NNODES') == '1',
        'mpi': os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == os.environ['WORLD_SIZE'],
    }
    if here_alone.get(launcher):
        return '127.0.0.1'
    if launcher == 'slurm' and 'SLURM_NODELIST' in os.environ and shutil.which('scontrol'):
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        nodes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return nodes.split()[0]
    return None

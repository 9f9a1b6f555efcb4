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
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank, is_distributed
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import distributed

from ghmdet.checkpoint.load_hook import LoadWeightsHook
from ghmdet.checkpoint.resume import confirm_start, plan_start
from ghmdet.checks.anchors import AnchorCheckHook
from ghmdet.checks.classes import settle_classes
from ghmdet.checks.evaluator_files import complete_evaluators
from ghmdet.checks.imported_copy import log_imported_copy
from ghmdet.checks.learning_rate import check_auto_scale_lr, scale_lr
from ghmdet.checks.network import check_network
from ghmdet.checks.pipelines import FirstSampleHook
from ghmdet.checks.settings import check_sections, check_settings
from ghmdet.checks.start_report import StartReportHook
from ghmdet.checks.strategy_check import check_strategy
from ghmdet.config.from_mmdet import adopt
from ghmdet.engine.amp import low_precision
from ghmdet.engine.hooks.hooks import DoorCheckHook, MeanLossesHook, PeakMemoryHook
from ghmdet.engine.hooks.log_values import LogHistoryHook
from ghmdet.engine.hooks.non_finite_steps import FiniteStepsHook
from ghmdet.engine.hooks.non_finite_weights import FiniteWeightsHook
from ghmdet.engine.hooks.reserve_memory_hook import ReserveMemoryHook
from ghmdet.engine.hooks.skipped_images import SkippedImagesHook
from ghmdet.engine.rendezvous import renew_rendezvous
from ghmdet.registry import RUNNERS

_RANK_VARIABLES = {  # where each launcher writes what torch calls RANK, LOCAL_RANK, WORLD_SIZE
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
_STARTED_BY = {'pytorch': 'torchrun --nproc_per_node N', 'slurm': 'srun', 'mpi': 'mpirun'}
_DEFAULT_PORT = 29500
_HOOKS: tuple[type[Hook], ...] = (
    *(DoorCheckHook, PeakMemoryHook, LoadWeightsHook, SkippedImagesHook, AnchorCheckHook),
    *(FiniteStepsHook, FiniteWeightsHook, StartReportHook, FirstSampleHook, LogHistoryHook),
    *(MeanLossesHook, ReserveMemoryHook),
)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_PREPARED = '400'


def build_runner(cfg: Config, splits: Sequence[str] = ('train', 'val')) -> Runner:
    """Join the processes and build the Runner (of class `runner_type` if set).

    It gets the hooks in `_HOOKS`, unless the config names them itself, and a learning rate that is
    scaled for accumulated batches too (see `scale_lr`). A config of MMDetection comes out as one of
    ghmdet's (see `adopt`). Classes and annotation files that it leaves out are filled in (see
    `settle_classes` and `complete_evaluators`). A training takes its work dir for itself alone, and
    where it begins is settled here (see `plan_start`).

    Args:
        cfg: changed in place.
        splits: the data that will be read: ('train', 'val') to train, ('val',) or ('test',) else.
    """
    adopt(cfg)
    _choose_own_parts(cfg)
    set_up_launcher(cfg)
    keep_freed_memory()
    check_settings(cfg)
    trains = 'train' in splits and cfg.get('train_cfg') is not None
    notes = plan_start(cfg, _is_first_process(cfg)) if trains else []
    check_strategy(cfg)
    complete_evaluators(cfg)
    check_sections(cfg)
    taken = settle_classes(cfg, splits)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for level, text in notes:
        runner.logger.log(level, text)
    if trains:
        confirm_start(cfg)
    check_network(cfg, runner.model)
    log_imported_copy()
    if taken:
        runner.logger.info(taken)
    for kind in _HOOKS:
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    if hasattr(runner, 'scale_lr'):
        runner.scale_lr = partial(scale_lr, runner)
    return runner


def keep_freed_memory() -> None:
    """On a CPU, keep the memory that a step frees for the next one.

    Otherwise glibc returns it, and each step gets its gigabytes anew, page by page from the kernel:
    a seventh of the time of a training step of R-50, for a tenth less memory.

    Where images differ in size, what oneDNN prepares for each size comes to lie in between and
    breaks the free memory up. So it keeps that of two sizes or three (up to 172 things each, of all
    our models), rather than 1024 things, unless ONEDNN_PRIMITIVE_CACHE_CAPACITY is set.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is not None and not _has_accelerator():
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        # Heard only before the first convolution of the process.
        os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', _PREPARED)


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
    if launcher == 'pytorch' and not is_distributed():
        renew_rendezvous()
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
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if _type_name(wrapper, 'MMDistributedDataParallel') == 'MMDistributedDataParallel':
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **wrapper,
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
    if loop is not None and _type_name(loop, 'ValLoop').rpartition('.')[2] == 'ValLoop':
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
    """Scale the learning rate by the images of a step / `base_batch_size`.

    Raises:
        ValueError: the config does not say which batch its learning rate was meant for.
    """
    check_auto_scale_lr(cfg.get('auto_scale_lr'), '--auto-scale-lr')
    cfg.auto_scale_lr.enable = True


def apply_deterministic(cfg: Config) -> None:
    """Use only algorithms that give the same bits each time; see docs/resume.md."""
    # cuBLAS reads it when CUDA is first used; without it torch refuses to run deterministically.
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    cfg.randomness = dict(cfg.get('randomness') or {}, deterministic=True)


def _choose_own_parts(cfg: Config) -> None:
    """Let mmengine's names mean our loops and CheckpointHook without a type, and in other scopes.

    They take the arguments of mmengine's. Of the validation loop only `compute_loss` is our own.
    """
    loop = cfg.get('train_cfg')
    if loop is not None:
        if 'type' not in loop:
            by_epoch = loop.pop('by_epoch', True)
            loop.type = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
        if (name := _type_name(loop, '')) in ('EpochBasedTrainLoop', 'IterBasedTrainLoop'):
            loop.type = f'ghmdet.{name}'
        hooks = cfg.get('default_hooks') or {}
        hook = hooks.get('checkpoint', {})
        if hook is not None and _type_name(hook, 'CheckpointHook') == 'CheckpointHook':
            hook = {'interval': 1, **hook, 'type': 'ghmdet.CheckpointHook'}
            cfg.default_hooks = {**hooks, 'checkpoint': hook}
    loop = cfg.get('val_cfg')
    if loop is not None and 'compute_loss' in loop and _type_name(loop, 'ValLoop') == 'ValLoop':
        loop.type = 'ghmdet.ValLoop'


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


def _is_first_process(cfg: Config) -> bool:
    """Whether this process is the one of rank 0, also before the processes are joined."""
    names = _RANK_VARIABLES.get(cfg.get('launcher', 'none'))
    if names is None or is_distributed():
        return get_rank() == 0
    return os.environ.get(names[0], '0') == '0'


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

"""From a config to a Runner: processes, mixed precision, learning rate, the check at the door.

These functions change the config they are given, as the command line does: what they set is what
the log and the dumped config show.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from datetime import timedelta
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import distributed

from ghmdet.engine.hooks import DoorCheckHook
from ghmdet.registry import RUNNERS

_RANK_VARIABLES = {  # where each launcher writes what torch calls RANK, LOCAL_RANK, WORLD_SIZE
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
_STARTED_BY = {'pytorch': 'torchrun --nproc_per_node N', 'slurm': 'srun', 'mpi': 'mpirun'}
_DEFAULT_PORT = 29500


def build_runner(cfg: Config) -> Runner:
    """Build the Runner (of class `runner_type` if set) and put the check at its door."""
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if not any(isinstance(hook, DoorCheckHook) for hook in runner.hooks):
        runner.register_hook(DoorCheckHook())
    return runner


def set_up_launcher(cfg: Config) -> None:
    """Join the processes of `cfg.launcher` through gloo on a machine without accelerator.

    To be called before the Runner is built: mmengine then finds the processes joined and skips its
    own launcher, which needs CUDA, and takes from `cfg.model_wrapper_cfg` a wrapper without device
    ids. With an accelerator, or with launcher 'none', nothing is done.

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
    """Turn on mixed precision: `optim_wrapper` becomes AmpOptimWrapper with dynamic loss scale.

    Raises:
        ValueError: there is no accelerator, or `optim_wrapper.type` is neither of the two.
    """
    if not _has_accelerator():
        raise ValueError(
            'mixed precision (--amp) is not available on the CPU yet: no CUDA, NPU, MLU or MUSA '
            'device was found. Leave --amp out.'
        )
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    name = getattr(wrapper, '__name__', wrapper)
    if name == 'AmpOptimWrapper':
        print_log(
            '--amp changes nothing: optim_wrapper.type is AmpOptimWrapper already',
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


def _has_accelerator() -> bool:
    """Whether mmengine's launcher and mixed precision can work; Apple's mps serves neither."""
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

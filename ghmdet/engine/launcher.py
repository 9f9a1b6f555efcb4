"""The processes of a run: their memory, ranks and addresses, and how they are joined."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank, is_distributed
from torch import distributed
from torch.distributed import TCPStore

from ghmdet.messages import type_name
from ghmdet.models.threads import adapt_waiting

_RANK_VARIABLES = {  # where each launcher writes what torch calls RANK, LOCAL_RANK, WORLD_SIZE
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
_STARTED_BY = {'pytorch': 'torchrun --nproc_per_node N', 'slurm': 'srun', 'mpi': 'mpirun'}
_AGENT_STORE = 'TORCHELASTIC_USE_AGENT_STORE'
_RENDEZVOUS_TIMEOUT = timedelta(minutes=30)  # torch's own
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def set_up_launcher(cfg: Config) -> None:
    """Join the processes of `cfg.launcher` through gloo on a machine without accelerator.

    mmengine then skips its own launcher, which needs CUDA, and takes from `cfg.model_wrapper_cfg` a
    wrapper without device ids. With an accelerator, or with launcher 'none', nothing is done.

    Raises:
        ValueError: unknown launcher, or the variables it should have set are not in the
            environment.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher != 'none' and launcher not in _RANK_VARIABLES:
        raise ValueError(
            f'launcher must be one of none, {", ".join(_RANK_VARIABLES)}, got {launcher!r}; set it '
            'with --launcher or `launcher` in the config'
        )
    if launcher == 'pytorch' and not is_distributed():
        renew_rendezvous()
    if launcher == 'none' or has_accelerator():
        return
    if not is_distributed():
        dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
        _export_ranks(launcher, dist_cfg.get('port'))
        seconds = dist_cfg.get('timeout')
        distributed.init_process_group(
            backend='gloo', timeout=None if seconds is None else timedelta(seconds=seconds)
        )
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if type_name(wrapper, 'MMDistributedDataParallel') == 'MMDistributedDataParallel':
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **wrapper,
            'device_ids': None,
        }


def has_accelerator() -> bool:
    """Whether mmengine's own launcher works here; it does not support Apple's mps."""
    return get_device() not in ('cpu', 'mps')


def is_first_process(cfg: Config) -> bool:
    """Whether this process has rank 0; works before the processes are joined too."""
    names = _RANK_VARIABLES.get(cfg.get('launcher', 'none'))
    if names is None or is_distributed():
        return get_rank() == 0
    return os.environ.get(names[0], '0') == '0'


def _export_ranks(launcher: str, port: Any) -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which torch reads."""
    names = _RANK_VARIABLES[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(
            f'launcher {launcher!r} expects {", ".join(missing)} in the environment; start the '
            f'command with {_STARTED_BY[launcher]}, or use --launcher none for one process'
        )
    for target, source in zip(_RANK_VARIABLES['pytorch'], names, strict=True):
        os.environ[target] = os.environ[source]
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.setdefault('MASTER_PORT', '29500')
    address = os.environ.get('MASTER_ADDR') or _master_address(launcher)
    if address is None:
        raise ValueError(
            f'launcher {launcher!r} expects MASTER_ADDR in the environment: the address of the '
            'host that runs the process of rank 0'
        )
    os.environ['MASTER_ADDR'] = address


def _master_address(launcher: str) -> str | None:
    """The host of rank 0, or None where the launcher does not say."""
    on_one_host = {
        'slurm': os.environ.get('SLURM_NNODES') == '1',
        'mpi': os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == os.environ['WORLD_SIZE'],
    }
    if on_one_host.get(launcher):
        return '127.0.0.1'
    if launcher == 'slurm' and 'SLURM_NODELIST' in os.environ and shutil.which('scontrol'):
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        nodes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return nodes.split()[0]
    return None


def renew_rendezvous() -> None:
    """Let the processes of a torchrun job use a rendezvous store of their own.

    torchrun (2.4 to 2.15 at least) gives all attempts of a job the same store, which still holds
    the addresses of killed processes: restarted ones try to reach those, and fail or wait until the
    time-out. So the process of rank 0 chooses a port, sends it to the others through that store,
    and is the server there. docs/tour.md says why torch's own remedy is not used.

    All processes must call it before they join. It changes MASTER_PORT in the environment. Without
    the store of torchrun nothing is done.
    """
    if os.environ.get(_AGENT_STORE) != 'True':
        return
    rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    store = TCPStore(address, port, timeout=_RENDEZVOUS_TIMEOUT, wait_for_workers=False)
    new_port = _distribute_port(store, size) if rank == 0 else _request_port(store, rank)
    os.environ['MASTER_PORT'] = new_port
    os.environ[_AGENT_STORE] = 'False'


def _request_port(store: TCPStore, rank: int) -> str:
    name = uuid4().hex  # TORCHELASTIC_RESTART_COUNT may differ between hosts
    store.set(f'ghmdet/request/{rank}', name)
    port, attempt = store.get(f'ghmdet/answer/{name}').decode().split()  # waits
    store.set(f'ghmdet/acknowledged/{attempt}/{rank}', '')
    return port


def _distribute_port(store: TCPStore, size: int) -> str:
    """Choose a port, and answer requests until every other process has acknowledged it.

    Requests of processes that were killed are answered too, but not acknowledged.
    """
    with socket.socket() as free:
        free.bind(('', 0))
        port = str(free.getsockname()[1])
    attempt = uuid4().hex
    waiting = list(range(1, size))
    end = time.monotonic() + _RENDEZVOUS_TIMEOUT.total_seconds()
    while waiting:
        for rank in waiting:
            if store.check([f'ghmdet/request/{rank}']):
                name = store.get(f'ghmdet/request/{rank}').decode()
                store.set(f'ghmdet/answer/{name}', f'{port} {attempt}')
        done = f'ghmdet/acknowledged/{attempt}'
        waiting = [rank for rank in waiting if not store.check([f'{done}/{rank}'])]
        if time.monotonic() > end:
            raise TimeoutError(
                f'processes {waiting} of {size} did not join within {_RENDEZVOUS_TIMEOUT}; see '
                'their own output'
            )
        time.sleep(0.01)
    return port


def prepare_cpu() -> None:
    """On a CPU, keep the memory that a step frees for the next one, and adapt how threads wait.

    glibc would return the memory to the system, and each step would fault its gigabytes in again.
    The primitives that oneDNN caches for each image size fragment the free memory. So it caches
    those of two or three sizes (up to 172 each, of all our models) rather than 1024, unless
    ONEDNN_PRIMITIVE_CACHE_CAPACITY is set. Of the threads see `adapt_waiting`.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is not None and not has_accelerator():
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        # Read at the first convolution of the process.
        os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', '400')
        adapt_waiting()

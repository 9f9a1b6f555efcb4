"""How the processes of a run are joined, also after a restart by torchrun; memory on a CPU."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import distributed
from torch.distributed import TCPStore

from ghmdet.engine import launcher
from ghmdet.engine.launcher import set_up_launcher

TORCH_NAMES = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
TORCHRUN = dict(RANK='1', LOCAL_RANK='1', WORLD_SIZE='2', MASTER_ADDR='node', MASTER_PORT='7')
SLURM = dict(SLURM_PROCID='3', SLURM_LOCALID='1', SLURM_NTASKS='4')
MPI = dict(OMPI_COMM_WORLD_RANK='3', OMPI_COMM_WORLD_LOCAL_RANK='1', OMPI_COMM_WORLD_SIZE='4')
WRAPPER = dict(
    type='MMDistributedDataParallel',
    broadcast_buffers=False,
    find_unused_parameters=False,
    device_ids=None,
)


@pytest.fixture
def environ(monkeypatch):
    """The environment of a machine without accelerator, which names no launcher."""
    monkeypatch.setattr(launcher, 'get_device', lambda: 'cpu')
    environ = {'PATH': os.environ['PATH']}
    monkeypatch.setattr(os, 'environ', environ)
    return environ


@pytest.fixture
def joined(monkeypatch):
    """Collects the calls that would join processes."""
    calls = []
    monkeypatch.setattr(distributed, 'init_process_group', lambda **kw: calls.append(kw))
    return calls


@pytest.mark.parametrize(
    ('device', 'name'), [('cpu', 'none'), ('cuda', 'pytorch'), ('npu', 'slurm')]
)
def test_no_launcher_or_an_accelerator_leaves_all_to_mmengine(
    environ, joined, monkeypatch, device, name
):
    monkeypatch.setattr(launcher, 'get_device', lambda: device)
    cfg = Config(dict(launcher=name))
    set_up_launcher(cfg)
    assert (joined, cfg.to_dict()) == ([], dict(launcher=name))


@pytest.mark.parametrize('device', ['cpu', 'mps'])
@pytest.mark.parametrize(
    ('changes', 'wrapper', 'timeout'),
    [
        (dict(env_cfg=dict(dist_cfg=dict(timeout=90))), WRAPPER, timedelta(seconds=90)),
        (
            dict(
                find_unused_parameters=True,
                model_wrapper_cfg=dict(broadcast_buffers=True, device_ids=[0]),
            ),
            {**WRAPPER, 'broadcast_buffers': True, 'find_unused_parameters': True},
            None,
        ),
        (
            dict(model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel')),
            dict(type='MMSeparateDistributedDataParallel'),
            None,
        ),
    ],
)
def test_torchrun(environ, joined, monkeypatch, device, changes, wrapper, timeout):
    monkeypatch.setattr(launcher, 'get_device', lambda: device)
    environ.update(TORCHRUN)
    cfg = Config(dict(launcher='pytorch', **changes))
    set_up_launcher(cfg)
    assert joined == [dict(backend='gloo', timeout=timeout)]
    assert {name: environ[name] for name in TORCH_NAMES} == TORCHRUN
    assert cfg.model_wrapper_cfg == wrapper


def test_processes_already_joined_are_not_joined_again(environ, joined, monkeypatch):
    monkeypatch.setattr(launcher, 'is_distributed', lambda: True)
    cfg = Config(dict(launcher='pytorch'))
    set_up_launcher(cfg)
    assert (joined, cfg.model_wrapper_cfg) == ([], WRAPPER)


@pytest.mark.parametrize(
    ('name', 'variables', 'address'),
    [
        ('slurm', dict(SLURM, SLURM_NNODES='1'), '127.0.0.1'),
        ('slurm', dict(SLURM, SLURM_NNODES='2', SLURM_NODELIST='n[07-08]'), 'n07'),
        ('mpi', dict(MPI, OMPI_COMM_WORLD_LOCAL_SIZE='4'), '127.0.0.1'),
        ('mpi', dict(MPI, MASTER_ADDR='given'), 'given'),
    ],
)
@pytest.mark.parametrize('port', [None, 1234])
def test_slurm_and_mpi(environ, joined, tmp_path, name, variables, address, port):
    (tmp_path / 'scontrol').write_text('#!/bin/sh\nprintf "n07\\nn08\\n"\n')
    (tmp_path / 'scontrol').chmod(0o755)
    environ.update(variables, PATH=f'{tmp_path}:{environ["PATH"]}')
    set_up_launcher(Config(dict(launcher=name, env_cfg=dict(dist_cfg=dict(port=port)))))
    expected = ['3', '1', '4', address, str(port or 29500)]
    assert [environ[variable] for variable in TORCH_NAMES] == expected
    assert len(joined) == 1


@pytest.mark.parametrize(
    ('name', 'variables', 'message'),
    [
        ('ssh', {}, "launcher must be one of none, pytorch, slurm, mpi, got 'ssh'"),
        ('pytorch', {}, r"'pytorch' expects RANK, LOCAL_RANK, WORLD_SIZE in .*torchrun"),
        ('slurm', SLURM, "'slurm' expects MASTER_ADDR in the environment"),
        ('mpi', MPI, "'mpi' expects MASTER_ADDR in the environment"),
    ],
)
def test_what_the_environment_lacks(environ, joined, name, variables, message):
    environ.update(variables)
    with pytest.raises(ValueError, match=message):
        set_up_launcher(Config(dict(launcher=name)))
    assert joined == []


# --- a restart by torchrun ----------------------------------------------------------------------


@pytest.fixture
def store(environ):
    """The store that torchrun keeps for all attempts of a job."""
    store = TCPStore('127.0.0.1', 0, None, True, wait_for_workers=False)
    environ.update(TORCHELASTIC_USE_AGENT_STORE='True', RANK='0', WORLD_SIZE='1')
    environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    return store


def exchange_port(store):
    """Return the port that each of three processes gets."""

    def client():
        return TCPStore('127.0.0.1', store.port, None, False, wait_for_workers=False)

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(launcher._distribute_port, client(), 3)
        others = [threads.submit(launcher._request_port, client(), rank) for rank in (1, 2)]
        return [each.result(20) for each in (first, *others)]


def test_each_attempt_has_a_port_of_its_own(store):
    ports = []
    for _ in range(3):
        store.set('ghmdet/request/1', 'of a process that was killed before it was answered')
        first, *others = exchange_port(store)
        assert others == [first, first]
        assert 0 < int(first) < 65536
        ports.append(first)
    assert len({*ports, str(store.port)}) > 2


def test_the_port_is_in_the_environment(store, environ):
    launcher.renew_rendezvous()
    port = environ['MASTER_PORT']
    assert port != str(store.port)
    assert environ['TORCHELASTIC_USE_AGENT_STORE'] == 'False'
    launcher.renew_rendezvous()  # nothing is left to do
    assert environ['MASTER_PORT'] == port


def test_processes_that_do_not_join(store, monkeypatch):
    monkeypatch.setattr(launcher, '_RENDEZVOUS_TIMEOUT', timedelta(seconds=0.05))
    message = r'processes \[1, 2\] of 3 did not join within 0:00:00\.05'
    with pytest.raises(TimeoutError, match=message):
        launcher._distribute_port(store, 3)


# --- memory and threads -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('platform', 'device', 'expected'),
    [
        ('linux', 'cpu', [(-4, 0), (-1, -1), 'threads']),
        ('linux', 'cuda', []),
        ('darwin', 'cpu', []),
    ],
)
def test_memory_and_threads_are_for_the_cpu_only(environ, platform, device, expected, monkeypatch):
    # malloc.h: M_MMAP_MAX is -4, of which none; M_TRIM_THRESHOLD is -1, and -1 turns it off.
    calls = []
    libc = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(launcher.ctypes, 'CDLL', lambda name: libc)
    monkeypatch.setattr(launcher, 'sys', SimpleNamespace(platform=platform))
    monkeypatch.setattr(launcher, 'get_device', lambda: device)
    monkeypatch.setattr(launcher, 'adapt_waiting', lambda: calls.append('threads'))
    key = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY'
    launcher.prepare_cpu()
    assert calls == expected
    assert environ.get(key) == ('400' if expected else None)
    environ[key] = '0'  # a user's own
    launcher.prepare_cpu()
    assert environ[key] == '0'

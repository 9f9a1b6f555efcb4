"""Where the processes of torchrun meet, also after a restart."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from ghmdet.engine import launcher as rendezvous
from ghmdet.engine.launcher import renew_rendezvous


@pytest.fixture
def agent(monkeypatch):
    """The store that torchrun keeps for all attempts of a job."""
    store = TCPStore('127.0.0.1', 0, None, True, wait_for_workers=False)
    monkeypatch.setenv('TORCHELASTIC_USE_AGENT_STORE', 'True')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', str(store.port))
    return store


def meet(agent):
    """The port that each of three processes gets."""

    def client():
        return TCPStore('127.0.0.1', agent.port, None, False, wait_for_workers=False)

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(rendezvous._distribute_port, client(), 3)
        others = [threads.submit(rendezvous._request_port, client(), rank) for rank in (1, 2)]
        return [each.result(20) for each in (first, *others)]


def test_each_attempt_has_a_port_of_its_own(agent):
    ports = []
    for _ in range(3):
        agent.set('ghmdet/request/1', 'of a process that was killed before it was answered')
        first, *others = meet(agent)
        assert others == [first, first]
        assert 0 < int(first) < 65536
        ports.append(first)
    assert len({*ports, str(agent.port)}) > 2


def test_the_environment_says_where(agent, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '1')
    renew_rendezvous()
    port = os.environ['MASTER_PORT']
    assert port != str(agent.port)
    assert os.environ['TORCHELASTIC_USE_AGENT_STORE'] == 'False'
    renew_rendezvous()  # nothing is left to do
    assert os.environ['MASTER_PORT'] == port


def test_processes_that_do_not_come(agent, monkeypatch):
    monkeypatch.setattr(rendezvous, '_RENDEZVOUS_TIMEOUT', timedelta(seconds=0.05))
    with pytest.raises(TimeoutError, match=r'processes \[1, 2\] of 3 did not join within 0:00\.05'):
        rendezvous._distribute_port(agent, 3)

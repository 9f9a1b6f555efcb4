"""A meeting point that processes restarted by torchrun do not share with those before them."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed import TCPStore

_AGENT_STORE = 'TORCHELASTIC_USE_AGENT_STORE'
_PATIENCE = timedelta(minutes=30)  # as torch itself


def renew_rendezvous() -> None:
    """Let the processes of a torchrun job meet at a store of their own.

    torchrun (2.4 to 2.15 at least) gives all attempts of a job the same store, in which the
    addresses of the killed processes still stand: restarted ones try to reach those, and fail or
    wait till the time-out. So the first process chooses a port, hands it to the others through that
    store, and is the server there. Each of them asks with a key that nobody used before, since
    TORCHELASTIC_RESTART_COUNT may differ between machines.

    Must be called by all processes before they join. Changes MASTER_PORT in the environment.
    Without the store of torchrun nothing is done.
    """
    if os.environ.get(_AGENT_STORE) != 'True':
        return
    rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    store = TCPStore(address, port, None, False, timeout=_PATIENCE, wait_for_workers=False)
    new_port = _hand_out(store, size) if rank == 0 else _ask(store, rank)
    os.environ['MASTER_PORT'] = new_port
    os.environ[_AGENT_STORE] = 'False'


def _ask(store: TCPStore, rank: int) -> str:
    """Ask the first process for the port."""
    name = uuid4().hex
    store.set(f'ghmdet/ask/{rank}', name)
    port, attempt = store.get(f'ghmdet/answer/{name}').decode().split()  # waits
    store.set(f'ghmdet/thanks/{attempt}/{rank}', '')
    return port


def _hand_out(store: TCPStore, size: int) -> str:
    """Choose a port, and answer till every other process has it.

    What processes asked that were killed is answered too, without thanks.
    """
    with socket.socket() as free:
        free.bind(('', 0))
        port = str(free.getsockname()[1])
    attempt = uuid4().hex
    waiting = set(range(1, size))
    end = time.monotonic() + _PATIENCE.total_seconds()
    while waiting:
        for rank in waiting:
            if store.check([f'ghmdet/ask/{rank}']):
                name = store.get(f'ghmdet/ask/{rank}').decode()
                store.set(f'ghmdet/answer/{name}', f'{port} {attempt}')
        waiting = {rank for rank in waiting if not store.check([f'ghmdet/thanks/{attempt}/{rank}'])}
        if time.monotonic() > end:
            raise TimeoutError(
                f'processes {sorted(waiting)} of {size} did not come in {_PATIENCE}; their own '
                'output says why'
            )
        time.sleep(0.01)
    return port

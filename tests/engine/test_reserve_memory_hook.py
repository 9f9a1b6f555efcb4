"""Memory that is taken at the start of a run and not later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghmdet.engine.hooks import reserve_memory_hook
from ghmdet.engine.hooks.reserve_memory_hook import ReserveMemoryHook, reserve_memory

SCRIPT = """
import json
import torch
from ghmdet.engine.runner import keep_freed_memory
from ghmdet.engine.hooks.reserve_memory_hook import reserve_memory

def resident():
    with open('/proc/self/statm') as stream:
        return int(stream.read().split()[1]) * 4096

keep_freed_memory()
tensors = [torch.ones(1 << 18) for _ in range(400)]  # 400 MB in pieces of 1
del tensors[::2]  # gaps, in which nothing larger fits
before = resident()
reserved = reserve_memory(0.05)
after = resident()
large = torch.ones(int(0.8 * reserved) // 4)
print(json.dumps([reserved, after - before, resident() - after, large.sum().item()]))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc only')
def test_a_large_tensor_finds_room_in_the_reserve():
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]), CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT], env=env, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reserved, grown, later, total = json.loads(done.stdout)
    if not reserved:
        pytest.skip('no mallinfo2 in this C library')
    assert 20 << 20 < reserved < 60 << 20
    assert grown == pytest.approx(reserved, rel=0.2)
    assert total == int(0.8 * reserved) // 4
    assert later < 1 << 20


def test_it_is_done_once_at_the_fifth_step(monkeypatch):
    shares = []
    monkeypatch.setattr(reserve_memory_hook, 'reserve_memory', shares.append)
    monkeypatch.setattr(reserve_memory_hook.torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(ReserveMemoryHook, 'done', False)
    hook = ReserveMemoryHook()
    hook.before_train(None)
    counts = []
    for _ in range(7):
        hook.after_train_iter(None)
        counts.append(len(shares))
    assert counts == [0, 0, 0, 0, 1, 1, 1]
    assert shares == [0.05]
    again = ReserveMemoryHook()  # of another training in the same process
    again.before_train(None)
    for _ in range(7):
        again.after_train_iter(None)
    assert shares == [0.05]


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(reserve_memory_hook.ctypes, 'CDLL', lambda _: object())
    assert reserve_memory(0.05) == 0

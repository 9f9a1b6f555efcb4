"""Memory of a process: its peak in the log, and what it keeps between steps."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import torch
from mmengine.hooks import LoggerHook

from ghmdet.engine import PeakMemoryHook
from ghmdet.engine.hooks import memory
from tests.checks.test_start_check import loader, make_runner


def test_peak_memory_stands_in_the_log_line_and_in_the_scalars(tmp_path, monkeypatch):
    peaks = iter([300, 700, 500])
    monkeypatch.setattr(memory, '_memory_mb', lambda: next(peaks))
    runner = make_runner(tmp_path, loader(), test=loader())
    runner.register_hook(PeakMemoryHook())
    lines = []
    monkeypatch.setattr(runner.logger, 'info', lines.append)
    next(h for h in runner.hooks if isinstance(h, LoggerHook)).interval = 1
    runner.train()
    logged = [line for line in lines if 'peak_memory: ' in line]
    assert [re.search(r'peak_memory: (\d+)', line)[1] for line in logged] == ['300', '700']
    scalars = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert [json.loads(line)['peak_memory'] for line in scalars] == [300, 700]
    assert runner.test() == {'n': 2}
    results = next(tmp_path.glob(f'{runner.timestamp}/*.json'))
    assert json.loads(results.read_text())['peak_memory'] == 700


def test_memory_of_the_process_and_of_the_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    usage = SimpleNamespace(ru_maxrss=3 * 1024**2)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setattr(memory, 'resource', fake)
    monkeypatch.setattr(memory.sys, 'platform', 'linux')
    assert memory._memory_mb() == 3 * 1024  # from KB
    monkeypatch.setattr(memory.sys, 'platform', 'darwin')
    assert memory._memory_mb() == 3  # from bytes
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: 5 * 2**20)
    assert memory._memory_mb() == 5


def test_without_a_figure_nothing_is_logged(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(memory, 'resource', None)
    hook = PeakMemoryHook()
    hook.after_train_iter(SimpleNamespace())  # has no message_hub to report to
    assert hook.peak_mb == 0


# --- the network of a test --------------------------------------------------------------------

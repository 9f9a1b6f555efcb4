"""The long run of tools/dev/soak.py in short: do its counts count, and does nothing pile up?"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import sys
import threading
from dataclasses import replace

import pytest
import soak
import torch

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc'),
]

VALUES = dict(files=20, threads=3, children=4, shm=7, ms=5.0, cpu_ms=4.0)
SAMPLE = soak.Sample(step=0, main_mb=1000.0, anon_mb=600.0, children_mb=100.0, **VALUES)
KINDS = ('files', 'threads', 'children', 'shm')


def grow(name, *values):
    """Samples of steps 0, 10, ... of which one number takes these values."""
    return [replace(SAMPLE, step=10 * i, **{name: value}) for i, value in enumerate(values)]


def test_the_meter_measures_what_a_process_holds(tmp_path):
    torch.zeros(1).share_memory_()  # the first takes memory of its own
    before = soak.Meter(1).measure()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    child = multiprocessing.get_context('fork').Process(target=end.wait)
    # From the system: the process itself may have some left.
    kept = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(kept), mmap.PAGESIZE):
        kept[page] = 1
    with open(tmp_path / 'a', 'w'), open(tmp_path / 'b', 'w'):
        shared = torch.zeros(10).share_memory_()
        child.start()
        after = soak.Meter(1).measure()
    child.terminate()
    child.join(20)
    end.set()
    thread.join(20)
    assert len(shared) == 10
    more = {kind: getattr(after, kind) - getattr(before, kind) for kind in KINDS}
    # Beside the two files two pipes, by which parent and child see each other's end.
    assert more == dict(files=4, threads=1, children=1, shm=1)
    assert after.main_mb - before.main_mb == pytest.approx(32, abs=2)
    assert after.anon_mb - before.anon_mb == pytest.approx(32, abs=2)


@pytest.mark.parametrize(
    ('name', 'values', 'faults'),
    [
        ('main_mb', (500.0, 1000.0, 1010.0, 1019.0), []),
        (
            'main_mb',
            (500.0, 1000.0, 1000.0, 1030.0),
            ['main_mb has grown by 3.00 %, more than 2 %'],
        ),
        (
            'children_mb',
            (0.0, 100.0, 110.0, 155.0),
            ['total_mb has grown by 5.00 %, more than 2 %'],
        ),
        ('files', (10, 20, 20, 20), []),
        ('files', (10, 20, 20, 21), ['files: more in the second half than in the first']),
        ('children', (4, 4, 4, 6), ['children: more in the second half than in the first']),
        ('shm', (4, 9, 25, 13), []),
        ('shm', (4, 9, 25, 14), ['shm: more in the second half than in the first']),
    ],
)
def test_what_counts_as_growth(name, values, faults):
    found = soak.find_growth(grow(name, *values), warm_up=10, limit=2.0)
    assert found[:1] == faults


@pytest.mark.parametrize(('fresh', 'children'), [(False, 4), (True, 2)])
def test_epochs_and_validations_leave_nothing_behind(fresh, children, capsys):
    options = dict(iters=24, epochs=4, workers=2, batch=2, size=64, val=4, every=2, limit=25)
    argv = ['train', *(f'--{name}={value}' for name, value in options.items())]
    args = soak.parse_args([*argv, '--fresh-workers', '--save'] if fresh else argv)
    assert (args.every, args.warm_up) == (2, 13)
    gc.collect()  # loaders of other tests end their workers
    before = soak.Meter(1).measure()
    samples = soak.soak(args)
    assert [sample.step for sample in samples] == [1, *range(2, 25, 2)]
    assert [sample.children - before.children for sample in samples[-4:]] == [children] * 4
    assert soak.find_growth(samples, args.warm_up, args.limit) == []
    gc.collect()
    assert soak.Meter(1).measure().children == before.children
    assert 'main_mb: ' in capsys.readouterr().out


def test_detections_leave_nothing_behind():
    samples = soak.soak(soak.parse_args(['infer', '--calls=30', '--every=5', '--varied']))
    assert soak.find_growth(samples, warm_up=10, limit=5.0) == []
    assert len({sample.files for sample in samples}) == 1

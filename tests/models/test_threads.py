"""OpenMP's threads sleep while cores are missing, and spin again; each bit is the same."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest

from ghmdet.models import threads as original

LINUX = pytest.mark.skipif(sys.platform != 'linux', reason='libgomp is used on Linux')
# Cores are said to be missing as long as `missing` is set.
SCRIPT = """
import json, os, sys, threading, time
import torch
from torch.utils.data import DataLoader
from ghmdet.models import threads

torch.set_num_threads(2)
missing, clock, answer = threading.Event(), [0.0], {}

def find_delay():
    clock[0] += missing.is_set()
    return clock[0]

threads._find_delay, threads._INTERVAL, threads._QUIET = find_delay, 0.02, 3
CORES = len(os.sched_getaffinity(0))

def wait_until(held):
    end = time.monotonic() + 60
    while (len(os.listdir('/proc/self/task')) > before + CORES) != held:
        assert time.monotonic() < end, (held, os.listdir('/proc/self/task'), before)
        time.sleep(0.01)

def train(toggle=False):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3), torch.nn.GroupNorm(4, 32), torch.nn.ReLU(),
        torch.nn.Conv2d(32, 8, 3),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images = torch.randn(4, 3, 60, 60)
    for step in range(8):
        if toggle:
            missing.clear() if step % 2 else missing.set()
            wait_until(not step % 2)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    return b''.join(p.detach().numpy().tobytes() for p in model.parameters()).hex()

def cpu_of_waiting():
    numbers, start = torch.ones(200_000), time.process_time()
    for _ in range(40):
        numbers.add_(1)
        time.sleep(0.02)
    return time.process_time() - start

bits = [train()]
before = len(os.listdir('/proc/self/task'))
threads.adapt_waiting()
threads.adapt_waiting()
answer['watchers'] = sum(t._target is threads._watch for t in threading.enumerate())
spinning = cpu_of_waiting()
missing.set()
wait_until(True)
bits.append(train())
answer['sleeping / spinning'] = cpu_of_waiting() / spinning
answer['loaded'] = [batch.tolist() for batch in DataLoader(range(8), 4, num_workers=2)]
child = os.fork()
if not child:
    alive = threads._watcher.is_alive()
    threads.adapt_waiting()
    os._exit(10 * alive + threads._watcher.is_alive())
answer['watcher of a fork'] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
missing.clear()
wait_until(False)
bits += [train(), train(toggle=True)]
answer['equal'] = len(set(bits)) == 1
missing.set()
wait_until(True)  # the process ends while idle threads are held
print(json.dumps(answer))
"""


@pytest.fixture
def threads():
    """A copy of the module: other tests may have started the watcher of the original."""
    spec = spec_from_file_location('threads', original.__file__)
    spec.loader.exec_module(copy := module_from_spec(spec))
    return copy


@LINUX
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='needs two cores')
def test_a_process_whose_cores_go_missing_and_return():
    env = {key: value for key, value in os.environ.items() if key not in original.SETTINGS}
    env['PYTHONPATH'] = str(Path(original.__file__).parents[1])
    command = [sys.executable, '-W', 'error', '-c', SCRIPT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, '')
    answer = json.loads(done.stdout)
    assert answer.pop('sleeping / spinning') < 0.5
    assert answer == {
        'watchers': 1,
        'loaded': [[0, 1, 2, 3], [4, 5, 6, 7]],
        'watcher of a fork': 1,
        'equal': True,
    }


@LINUX
def test_delay_is_what_linux_says_of_the_threads(threads):
    tasks = Path('/proc/self/task')

    def read():
        return sum(int(Path(t, 'schedstat').read_text().split()[1]) for t in tasks.iterdir()) / 1e9

    low, found, high = read(), threads._find_delay(), read()
    assert low <= found <= high + 1e-6


class Library(SimpleNamespace):
    """An OpenMP library of two threads, in which idle threads are only counted."""

    def __init__(self, **names):
        super().__init__(omp_get_max_threads=lambda: 2, calls=[], free=0, **names)
        self.GOMP_parallel = lambda *arguments: self.calls.append(arguments[2:])


@pytest.fixture
def started(threads, monkeypatch):
    """The libraries for which a watcher was started."""
    found = []
    monkeypatch.setattr(threads, '_start', found.append)
    for name in threads.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads.sys, 'platform', 'linux')
    return found


@pytest.mark.follows('; unset {}: threads wait as it says, not as the load asks')
def test_settings_of_the_user_stay_until_they_are_unset(threads, started, monkeypatch):
    library = Library()
    monkeypatch.setattr(threads.ctypes, 'CDLL', lambda _: library)
    for name, value in [('OMP_WAIT_POLICY', 'ACTIVE'), ('GOMP_SPINCOUNT', '0')]:
        monkeypatch.setenv(name, value)
        threads.adapt_waiting()
        assert started == []
        monkeypatch.delenv(name)
    threads.adapt_waiting()
    assert started == [library]


@pytest.mark.parametrize('case', ['macOS', 'no OpenMP', 'of LLVM', 'one thread'])
def test_nothing_is_done(case, threads, started, monkeypatch):
    library = Library()
    if case == 'macOS':
        monkeypatch.setattr(threads.sys, 'platform', 'darwin')
    if case == 'no OpenMP':
        del library.GOMP_parallel
    if case == 'of LLVM':
        setattr(library, '__kmpc_fork_call', None)
    if case == 'one thread':
        library.omp_get_max_threads = lambda: 1
    monkeypatch.setattr(threads.ctypes, 'CDLL', lambda _: library)
    threads.adapt_waiting()
    assert started == []


@pytest.fixture
def watch(threads, monkeypatch):
    """Watch while so many cores are missing in each second; when idle threads begin and end."""

    def watch(*missing):
        library, events, samples = Library(), [], iter([0.0, *missing])
        times, delays = iter(range(100)), [0.0]

        def find_delay():
            delays.append(delays[-1] + next(samples))
            return delays[-1]

        library.GOMP_parallel = lambda *_: events.append(('begin', len(delays) - 2))
        monkeypatch.setattr(threads, '_start', lambda _: events.append(('end', len(delays) - 2)))
        monkeypatch.setattr(threads, '_find_delay', find_delay)
        monkeypatch.setattr(threads, 'monotonic', lambda: float(next(times)))
        monkeypatch.setattr(threads, 'sleep', lambda _: None)
        monkeypatch.setattr(threads, '_QUIET', 3)
        with suppress(StopIteration):
            threads._watch(library)
        return events

    return watch


def test_when_idle_threads_are_held(watch):
    assert watch(0, 0.1, 0.39, 0.2, 0) == []
    assert watch(0, 0.41, 0.3, 0.2, 0.2, 0.3, 0.2, 0.2, 0.24) == [('begin', 2), ('end', 9)]
    assert watch(2, 2, 0, 0, 2, -5, 0) == [('begin', 1)]  # a thread with a long delay has ended


def test_where_no_more_threads_can_be_started(watch, threads, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.Thread, 'start', refuse)
    assert watch(1, 1, 0, 0, 0) == []  # libgomp, which would end the process, is not asked


def test_a_watcher_that_cannot_be_started(threads, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.Thread, 'start', refuse)
    threads._start(Library())
    assert not threads._watcher.is_alive()

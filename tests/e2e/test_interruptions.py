"""Trainings that are killed, told to stop, or run out of disk, through the command line."""

import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ghmdet.engine import load_checkpoint_file
from tests.e2e.conftest import ROOT, scalars

TOOL = ROOT / 'tools' / 'dev' / 'crash_test.py'
spec = importlib.util.spec_from_file_location('crash_test', TOOL)
crash_test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(crash_test)

SLOW = """
import time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class SlowHook(Hook):
    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 1:
            print('slow step', flush=True)
            time.sleep(60)
"""
SLOW_CONFIG = """
_base_ = 'processes1.py'
custom_imports = dict(imports=['crash_test_noise', 'slow_hook'])
custom_hooks = [dict(type='SlowHook')]
"""


@pytest.fixture(scope='module')
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trial')
    (folder / 'slow_hook.py').write_text(SLOW)
    (folder / 'processes0.py').write_text(SLOW_CONFIG)
    return crash_test.Trial(folder, crash_test.parse_args(['--processes', '1', '2']))


def finish(process, code=0):
    out = process.communicate(timeout=200)[0]
    assert process.returncode == code, out[-3000:]
    return out


def run_ranks(trial, server, work_dir, count):
    args = [trial.folder / f'processes{count}.py', '--work-dir', work_dir]
    path = dict(PYTHONPATH=str(trial.folder), OMP_NUM_THREADS='1')
    for answer in server.run_ranks(count, 'train.py', args, trial.folder, **path):
        assert answer['code'] == 0, answer['stderr'][-3000:]
    return work_dir


@pytest.fixture(scope='module')
def whole(trial, server):
    """Work dir of a run by one process that was not interrupted."""
    return run_ranks(trial, server, trial.folder / 'whole', 1)


def last(work_dir):
    return load_checkpoint_file((work_dir / 'last_checkpoint').read_text())


def check(work_dir, whole, tolerance=0.0):
    assert list(crash_test.compare(last(whole), last(work_dir), tolerance)) == []


def test_two_processes_train_as_one(trial, server, whole):
    """13 images in batches of 4: of the last one, one process has nothing but padding."""
    work_dir = run_ranks(trial, server, trial.folder / 'two', 2)
    one, two = scalars(whole, 'loss'), scalars(work_dir, 'loss')
    assert len(one) == 16
    assert two == pytest.approx(one, rel=1e-4)
    check(work_dir, whole, tolerance=1e-3)


@pytest.mark.long
def test_killed_again_and_again(tmp_path, capsys):
    arguments = ['--kills', '2', '--seed', '2', '--epochs', '2', '--folder', str(tmp_path)]
    failed = crash_test.main(arguments)
    out = capsys.readouterr().out
    assert not failed, out
    assert '2 kills in ' in out
    assert ' 0 faults, bit for bit' in out


@pytest.mark.long
def test_the_comparison_of_the_crash_test(whole):
    found = last(whole)
    assert list(crash_test.compare(last(whole), found, 0.0)) == []
    found['state_dict']['bbox_head.retina_reg.bias'][0] += 1e-6
    found['run_state']['processes'][0]['random']['torch'][20] ^= 1
    found['message_hub']['runtime_info']['best_score'] += 0.5
    differences = list(crash_test.compare(last(whole), found, 0.0))
    assert differences[:2] == [
        'state_dict.bbox_head.retina_reg.bias differs',
        'run_state.processes.0.random.torch differs',
    ]
    assert differences[2].startswith('best_score: ')


@pytest.mark.long
def test_stopped_on_two_and_resumed_on_one(trial, whole):
    """One of the two gets the signal; both stop."""
    work_dir = trial.folder / 'stopped'
    process = trial.start(work_dir, 2)
    out = crash_test.Reader(process)
    assert out.wait_for(r'\(train\)', 2), ''.join(out.lines)
    ranks = crash_test.ranks_of(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGTERM)
    assert process.wait(100) == 1  # torchrun's own
    out.join(10)
    log = ''.join(out.lines)
    saved = load_checkpoint_file((work_dir / 'last_checkpoint').read_text())['meta']['iter']
    assert f'SIGTERM: stopped; {work_dir}/iter_{saved}.pth is saved' in log
    assert log.count('exitcode  : 75') == 2, log[-3000:]
    resumed = finish(trial.start(work_dir, 1, '--resume'))
    assert f'resuming from {work_dir}/iter_{saved}.pth ' in resumed
    check(work_dir, whole, tolerance=1e-3)
    assert not list(work_dir.glob('iter_*.pth'))


def test_a_second_signal_stops_at_once(trial):
    work_dir = trial.folder / 'twice'
    process = trial.start(work_dir, 0)
    out = crash_test.Reader(process)
    assert out.wait_for('slow step', 1), ''.join(out.lines)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert time.monotonic() - begin < 20  # of the sixty seconds of the step
    out.join(10)
    log = ''.join(out.lines)
    assert 'SIGINT: will save and stop after this step; once more stops at once' in log
    assert 'SIGINT again: stopped without saving' in log
    assert not (work_dir / 'last_checkpoint').exists()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=18m', 'tmpfs', str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30)
    except OSError:
        done = None
    if done is None or done.returncode:
        pytest.skip('no tmpfs can be mounted here')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True, timeout=30)


@pytest.mark.long
def test_a_full_disk(trial, whole, small_disk):
    work_dir = small_disk / 'work'
    keep_all = ('--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=-1')
    told = finish(trial.start(work_dir, 1, *keep_all), code=1)
    pointer = Path((work_dir / 'last_checkpoint').read_text())
    assert load_checkpoint_file(pointer)['meta']['epoch'] in (1, 2, 3)
    assert f'could not be written to {work_dir}: No space left on device. ' in told
    assert f'The checkpoint before, {pointer}, is as it was: make room' in told
    assert not list(work_dir.glob('.*.tmp'))
    subprocess.run(['mount', '-o', 'remount,size=100m', str(small_disk)], check=True, timeout=30)
    finish(trial.start(work_dir, 1, '--resume', *keep_all))
    check(work_dir, whole)

"""The lock that keeps two trainings out of one work dir."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import time
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from mmengine.config import Config

from ghmdet.checkpoint import work_dir
from ghmdet.checkpoint.resume import plan_start
from ghmdet.checkpoint.work_dir import WorkDirError, hold_work_dir, own_record
from ghmdet.engine.launcher import is_first_process


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(work_dir, '_PATIENCE', 0.2)
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)


@pytest.fixture
def holder(tmp_path):
    """A training in another process: its folder and pid, and what its forked child was told."""
    folder = tmp_path / 'runs' / 'one'
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            hold_work_dir(str(folder))
            if os.fork() == 0:
                try:
                    hold_work_dir(str(folder))
                    told = 'both hold it'
                except WorkDirError as error:
                    told = str(error)
                os.write(writer, f'{os.getpid()} {told}'.encode())
            time.sleep(100)
        finally:
            os._exit(1)
    child, told = os.read(reader, 10_000).decode().split(' ', 1)
    yield SimpleNamespace(folder=folder, pid=pid, child=int(child), told=told)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)


@pytest.mark.follows('give this one another with --work-dir, or stop that one first')
def test_the_second_is_refused_and_changes_nothing_till_the_first_is_killed(holder):
    file = holder.folder / 'training.lock'
    before = file.read_bytes(), file.stat().st_mtime_ns
    with pytest.raises(WorkDirError) as refused:
        hold_work_dir(str(holder.folder))
    told = re.sub(r'started 2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d', 'started 2___', str(refused.value))
    assert told == (
        f'the work dir {holder.folder} is in use by another training: pid {holder.pid} on '
        f'{socket.gethostname()}, started 2___ as `{own_record()["command"]}`. Two '
        'trainings in one work dir would overwrite each other: give this one another with '
        '--work-dir, or stop that one first.'
    )
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert os.listdir(holder.folder) == ['training.lock']
    # A process that the holder forked has not inherited the lock, and does not keep it alive.
    assert holder.told == str(refused.value)
    assert hold_work_dir(str(holder.folder.parent / 'another')) == {}
    os.kill(holder.pid, signal.SIGKILL)
    assert hold_work_dir(str(holder.folder))['pid'] == holder.pid
    os.kill(holder.child, 0)  # it lives
    assert json.loads(file.read_text())['pid'] == os.getpid()


def test_a_process_may_hold_the_same_again_and_others_beside(tmp_path):
    first, second = str(tmp_path / 'a'), str(tmp_path / 'b')
    assert [hold_work_dir(first), hold_work_dir(second)] == [{}, {}]
    (tmp_path / 'link').symlink_to(first)
    for folder in (first, second, str(tmp_path / 'link')):
        assert hold_work_dir(folder) == {**own_record(), 'started': ANY}
    os.remove(tmp_path / 'b' / 'training.lock')  # as a test does that clears its folder
    assert hold_work_dir(second) == {}
    assert hold_work_dir(second)['pid'] == os.getpid()


@pytest.mark.parametrize('text', [b'', b'\x80\xff', b'[1]', b'{}'])
def test_a_lock_file_without_a_record(tmp_path, text):
    (tmp_path / 'training.lock').write_bytes(text)
    assert hold_work_dir(str(tmp_path)) == {}
    assert json.loads((tmp_path / 'training.lock').read_text())['pid'] == os.getpid()


def test_a_lock_whose_file_does_not_say_whose_it_is(holder):
    (holder.folder / 'training.lock').write_bytes(b'{"pid": 7}')
    with pytest.raises(WorkDirError, match='use by another training .the lock file does not say'):
        hold_work_dir(str(holder.folder))


@pytest.mark.follows('do not start another training')
@pytest.mark.parametrize(
    ('problem', 'reason'),
    [
        (None, 'this system has no record locks'),
        (errno.ENOLCK, 'its file system has no record locks: No locks available'),
        (errno.EOPNOTSUPP, 'its file system has no record locks: Operation not supported'),
    ],
)
def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, problem, reason):
    def lockf(*_):
        raise OSError(problem, os.strerror(problem))

    fcntl = problem and SimpleNamespace(lockf=lockf, LOCK_EX=2, LOCK_NB=4)
    told = []
    monkeypatch.setattr(work_dir, 'fcntl', fcntl)
    monkeypatch.setattr(work_dir, 'print_log', lambda text, **_: told.append(text))
    hold_work_dir(str(tmp_path))
    advice = 'do not start another training in it while this one runs'
    assert told == [f'{tmp_path} cannot be locked ({reason}); {advice}']


def test_a_work_dir_that_is_a_file(tmp_path):
    file = tmp_path / 'work'
    file.write_text('')
    message = rf'the work dir {file} cannot be written to \(File exists: {file}\); choose another'
    with pytest.raises(WorkDirError, match=message):
        hold_work_dir(str(file))


@pytest.mark.follows('whose processes train together only with --launcher pytorch')
def test_processes_of_one_torchrun_without_the_launcher(holder, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', '/tmp/t/none_w/attempt_0/1/error.json')
    file = holder.folder / 'training.lock'
    file.write_text(file.read_text().replace('"agent": ""', '"agent": "/tmp/t/none_w"'))
    message = 'started by the same torchrun, whose .*--launcher pytor'
    with pytest.raises(WorkDirError, match=message):
        hold_work_dir(str(holder.folder))
    cfg = Config(dict(work_dir=str(holder.folder), launcher='pytorch'))
    monkeypatch.setenv('RANK', '1')
    assert plan_start(cfg, is_first_process(cfg)) == []

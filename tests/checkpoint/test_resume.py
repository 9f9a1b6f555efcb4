"""Where a training begins: which checkpoint of the work dir, if any."""

from __future__ import annotations

import logging
import os
import re
import socket

import pytest
import torch
from mmengine.config import Config

from ghmdet.checkpoint import resume
from ghmdet.checkpoint.resume import choose_checkpoint, confirm_start, plan_start
from ghmdet.checkpoint.work_dir import WorkDirError
from ghmdet.engine import CheckpointError
from tests.two_processes import run_processes


@pytest.fixture(autouse=True)
def outside_of_torchrun(monkeypatch):
    for name in ('TORCHELASTIC_RESTART_COUNT', 'TORCHELASTIC_ERROR_FILE'):
        monkeypatch.delenv(name, raising=False)


def save(folder, name, seconds):
    """A checkpoint written at a time."""
    folder.mkdir(exist_ok=True)
    torch.save(dict(state_dict=dict(a=torch.ones(99)), meta=dict(name=name)), folder / name)
    os.utime(folder / name, (seconds, seconds))
    return str(folder / name)


BEST = 'best_coco_bbox_mAP_epoch_12.pth'


def chosen(folder):
    """Name of the chosen file, and the warnings."""
    path, notes = choose_checkpoint(Config(dict(work_dir=str(folder))))
    assert all(level == logging.WARNING for level, _ in notes)
    return path and os.path.relpath(path, folder), [text for _, text in notes]


# --- which checkpoint ---------------------------------------------------------------------------


@pytest.fixture
def two_runs(tmp_path):
    """Epochs 1 to 3 of a run beside 4 and 12 of an older, longer one."""
    for seconds, epoch in enumerate((4, 12, 1, 2, 3)):
        save(tmp_path, f'epoch_{epoch}.pth', 1000 + seconds)
    save(tmp_path, BEST, 2000)
    (tmp_path / '.epoch_4.pth.tmp').write_bytes(b'PK')
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_3.pth')
    return tmp_path


@pytest.mark.parametrize(
    ('text', 'name', 'note'),
    [
        (None, 'epoch_3.pth', 'there is no last_checkpoint in {}'),
        ('', 'epoch_3.pth', '{}/last_checkpoint is empty'),
        ('{}/epoch_3.pth', 'epoch_3.pth', None),
        ('epoch_1.pth\n', 'epoch_1.pth', None),
        (BEST, 'epoch_3.pth', 'skipped: {}/' + BEST + ' was saved without an optimizer'),
    ],
)
def test_the_pointer_goes_first(two_runs, text, name, note):
    os.remove(two_runs / 'last_checkpoint')
    if text is not None:
        (two_runs / 'last_checkpoint').write_text(text.format(two_runs))
    assert chosen(two_runs) == (name, [note.format(two_runs)] if note else [])


def test_unreadable_files_are_skipped(two_runs):
    for epoch in (1, 2, 3):
        os.truncate(two_runs / f'epoch_{epoch}.pth', 300)
    name, told = chosen(two_runs)
    assert name == 'epoch_12.pth'  # what is left is of the older run
    assert len(told) == 3
    for epoch in (1, 2, 3):
        text = f'skipped: {two_runs}/epoch_{epoch}.pth (300 bytes) cannot be read ('
        assert sum(line.startswith(text) for line in told) == 1


def test_nothing_to_choose(tmp_path):
    assert chosen(tmp_path) == (None, [])
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    problem = f'{tmp_path}/last_checkpoint names epoch_1.pth, which does not exist'
    assert chosen(tmp_path) == (None, [problem])


def test_none_of_them_readable(tmp_path):
    for epoch in (1, 2):
        (tmp_path / f'epoch_{epoch}.pth').touch()
        os.utime(tmp_path / f'epoch_{epoch}.pth', (1000 + epoch,) * 2)
    (tmp_path / 'last_checkpoint').touch()
    finish = '(0 bytes): the save or download did not finish.'
    with pytest.raises(CheckpointError) as error:
        chosen(tmp_path)
    assert str(error.value) == (
        f'none of the 2 checkpoints of {tmp_path} can be read:\n'
        f'  {tmp_path}/last_checkpoint is empty\n'
        f'  skipped: {tmp_path}/epoch_2.pth is empty {finish}\n'
        f'  skipped: {tmp_path}/epoch_1.pth is empty {finish}\n'
        'Restore a complete copy of one, name another with --resume FILE, or leave --resume '
        '(resume=True) out to begin at the start.'
    )


# --- how the run begins -------------------------------------------------------------------------


def begin(folder, is_first=True, **cfg):
    cfg = Config(dict(work_dir=str(folder), **cfg))
    notes = plan_start(cfg, is_first)
    return cfg.get('resume'), cfg.get('load_from'), [text for _, text in notes]


def test_where_a_run_begins(two_runs):
    last = f'{two_runs}/epoch_3.pth'
    note = f'{last} is the newest checkpoint of {two_runs} that can be read'
    assert begin(two_runs, resume=True) == (True, last, [note])
    assert begin(two_runs, resume='auto', load_from='weights.pth') == (True, last, [note])
    named = f'{two_runs}/epoch_1.pth'
    assert begin(two_runs, resume=True, load_from=named) == (True, named, [])
    note = (
        f'{two_runs} has checkpoints of an earlier run: epoch_3.pth, epoch_2.pth, epoch_1.pth, '
        'epoch_12.pth, epoch_4.pth. This run begins at the start and overwrites files of the same '
        'names. --resume continues the earlier run; --work-dir sets another folder.'
    )
    assert begin(two_runs, load_from='weights.pth') == (False, 'weights.pth', [note])
    save(two_runs, 'iter_99.pth', 1)
    assert 'epoch_12.pth, epoch_4.pth and 1 more. This run' in begin(two_runs)[2][0]
    assert begin(two_runs, is_first=False) == (False, None, [])


def test_an_empty_work_dir(tmp_path):
    new = tmp_path / 'new'
    nothing = f'nothing to resume in {new}: training begins at the start'
    # resume=False, for mmengine would look for a checkpoint itself
    assert begin(new, resume=True) == (False, None, [nothing])
    weights = f'{nothing}, with the weights of w.pth'
    assert begin(new, resume='auto', load_from='w.pth') == (False, 'w.pth', [weights])
    assert begin(new) == (False, None, [])
    assert os.listdir(new) == ['training.lock']
    assert plan_start(Config({}), True) == []


# --- torchrun's restarts ------------------------------------------------------------------------


def attempt(monkeypatch, job, count):
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', str(count))
    file = f'/tmp/torchelastic_q/none_{job}/attempt_{count}/0/error.json'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', file)


def of_another_process(folder):
    """Let the lock file say that another process wrote it."""
    file = folder / 'training.lock'
    file.write_text(file.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))


@pytest.mark.follows('torchrun restarted this training, and')
@pytest.mark.parametrize(
    ('settings', 'count'),
    [
        ({}, 0),  # the processes of another machine failed
        (dict(load_from='w.pth'), 1),
        (dict(resume=True, load_from='w'), 1),
    ],
)
def test_a_restart_never_overwrites_its_checkpoints(tmp_path, monkeypatch, settings, count):
    attempt(monkeypatch, 'a', 0)
    first = begin(tmp_path, **settings)
    of_another_process(tmp_path)
    attempt(monkeypatch, 'a', count)
    assert begin(tmp_path, **settings) == first  # nothing to overwrite yet
    of_another_process(tmp_path)
    save(tmp_path, 'epoch_1.pth', 1000)
    with pytest.raises(WorkDirError) as refused:
        begin(tmp_path, **settings)
    assert str(refused.value) == (
        f'torchrun restarted this training, and {tmp_path} has checkpoints (epoch_1.pth), which it '
        'would overwrite. Start the job with --resume (resume=True without load_from): it resumes '
        'from the newest checkpoint, and begins at the start if there is none.'
    )
    assert begin(tmp_path, resume=True)[:2] == (True, f'{tmp_path}/epoch_1.pth')


def test_another_job_of_torchrun_is_no_restart(two_runs, monkeypatch):
    for job in 'ab':
        attempt(monkeypatch, job, 0)
        assert begin(two_runs)[:2] == (False, None)
        of_another_process(two_runs)


RESTARTED = """
import os, signal, sys
from mmengine.hooks import Hook
from ghmdet.checkpoint.work_dir import WorkDirError
from ghmdet.engine import build_runner
from ghmdet.registry import HOOKS
from tests.number_runs import number_cfg

count = os.environ['TORCHELASTIC_RESTART_COUNT']

@HOOKS.register_module()
class Kill(Hook):
    priority = 'LOWEST'
    def after_train_epoch(self, runner):
        if runner.rank == 0:
            print(f'attempt {count}: epoch {runner.epoch + 1}', flush=True)
        if (count, runner.rank, runner.epoch) == ('0', 1, 1):
            os.kill(os.getpid(), signal.SIGKILL)

for resume in (False, True) if count == '1' else (True,):
    cfg = number_cfg(sys.argv[1], [1, 1, 1, 1], epochs=4, launcher='pytorch', resume=resume)
    cfg.custom_hooks = [dict(type='Kill')]
    cfg.env_cfg = dict(dist_cfg=dict(timeout=60))
    try:
        build_runner(cfg).train()
    except WorkDirError as error:
        print(f'attempt {count}: {str(error)[:35]}', flush=True)
"""


def test_torchrun_restarts_a_killed_group(tmp_path):
    """Rank 1 is killed after epoch 2; the restarted group tries without --resume, then with it."""
    options, work = ('--max_restarts', '1'), tmp_path / 'work'
    out = run_processes(RESTARTED, tmp_path, work, options=options)
    # Two processes write, and one may do so in the middle of the other's line.
    lines = re.findall('attempt 1: (?:torchrun restarted this training, a|epoch [0-9]+)', out)
    assert lines[:2] == ['attempt 1: torchrun restarted this training, a'] * 2
    first = int(lines[2].rpartition(' ')[2])
    assert first in (2, 3)  # rank 0 may have been stopped before it saved epoch 2
    assert lines[2:] == [f'attempt 1: epoch {epoch}' for epoch in range(first, 5)]
    # Two steps per epoch, each with learning rate 1 and gradient 1.
    weight = torch.load(work / 'epoch_4.pth', weights_only=False)['state_dict']['weight']
    assert weight.tolist() == [-8]


# --- several processes --------------------------------------------------------------------------


@pytest.fixture
def other_process(monkeypatch):
    """The answer of the second of two processes, which is on another machine."""
    answer = ['there', None, False]
    monkeypatch.setattr(resume, 'get_world_size', lambda: 2)
    monkeypatch.setattr(resume, 'all_gather_object', lambda own: [own, tuple(answer)])
    return answer


@pytest.mark.follows('the processes do not find the same checkpoint to resume from')
def test_all_processes_must_see_the_file(two_runs, other_process):
    path = f'{two_runs}/epoch_3.pth'
    cfg = Config(dict(work_dir=str(two_runs), resume=True, load_from=path))
    other_process[1] = path
    confirm_start(cfg)
    other_process[1] = None
    with pytest.raises(CheckpointError) as refused:
        confirm_start(cfg)
    assert str(refused.value) == (
        'the processes do not find the same checkpoint to resume from:\n'
        f'  process 0 on {socket.gethostname()}: {path}\n'
        '  process 1 on there: none\n'
        f'The work dir {two_runs} must be on a file system that all machines share, or the '
        'checkpoint must be copied to the same path on each.'
    )
    other_process[1] = path  # after it was copied
    confirm_start(cfg)
    other_process[1] = None
    os.remove(path)  # not here either
    confirm_start(cfg)


def test_a_restart_counted_on_another_machine(two_runs, other_process, monkeypatch):
    cfg = Config(dict(work_dir=str(two_runs), resume=False))
    confirm_start(cfg)
    other_process[2] = True
    with pytest.raises(WorkDirError, match=f'torchrun restarted this training, and {two_runs} has'):
        confirm_start(cfg)
    other_process[2] = False
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    with pytest.raises(WorkDirError, match='--resume'):
        confirm_start(cfg)


def test_the_first_process_decides_for_all_that_are_joined(tmp_path, monkeypatch):
    answers = iter([(True, 'epoch_5.pth', [(20, 'text')]), WorkDirError()])
    monkeypatch.setattr(resume, 'is_distributed', lambda: True)
    answer = lambda own: own.__setitem__(0, next(answers))  # noqa: E731
    monkeypatch.setattr(resume, 'broadcast_object_list', answer)
    assert begin(tmp_path, is_first=False) == (True, 'epoch_5.pth', [])
    with pytest.raises(WorkDirError):
        begin(tmp_path, is_first=False)
    assert os.listdir(tmp_path) == []

"""Where a training begins: which checkpoint of the work dir, if any."""

from __future__ import annotations

import logging
import os
import shutil

import pytest
import torch
from mmengine.config import Config

from ghmdet.checkpoint import resume
from ghmdet.checkpoint.resume import choose_checkpoint, plan_start
from ghmdet.checkpoint.work_dir import Record, WorkDirError, find_agent, read_record
from ghmdet.engine import CheckpointError
from tests.two_processes import run_processes


@pytest.fixture(autouse=True)
def outside_of_torchrun(monkeypatch):
    for name in ('TORCHELASTIC_RUN_ID', 'TORCHELASTIC_ERROR_FILE'):
        monkeypatch.delenv(name, raising=False)


def save(folder, name, seconds):
    """A checkpoint written at a time."""
    folder.mkdir(exist_ok=True)
    torch.save(dict(state_dict=dict(a=torch.ones(99)), meta=dict(name=name)), folder / name)
    os.utime(folder / name, (seconds, seconds))
    return str(folder / name)


def cut(path, size=300):
    with open(path, 'rb+') as stream:
        stream.truncate(size)


def point(folder, text):
    (folder / 'last_checkpoint').write_bytes(text if isinstance(text, bytes) else text.encode())


def chosen(folder, ignored=None):
    """Name of the chosen file, and the warnings."""
    path, notes = choose_checkpoint(Config(dict(work_dir=str(folder))), ignored)
    assert all(level == logging.WARNING for level, _ in notes)
    return path and os.path.relpath(path, folder), [text for _, text in notes]


# --- which checkpoint ---------------------------------------------------------------------------


@pytest.fixture
def two_runs(tmp_path):
    """Epochs 1 to 3 of a run beside 4 and 12 of an older, longer one."""
    for seconds, epoch in enumerate((4, 12, 1, 2, 3)):
        save(tmp_path, f'epoch_{epoch}.pth', 1000 + seconds)
    save(tmp_path, 'best_coco_bbox_mAP_epoch_12.pth', 2000)
    (tmp_path / '.epoch_4.pth.tmp').write_bytes(b'PK')
    point(tmp_path, f'{tmp_path}/epoch_3.pth')
    return tmp_path


def test_the_pointer_goes_first(two_runs):
    assert chosen(two_runs) == ('epoch_3.pth', [])
    point(two_runs, 'epoch_1.pth\n')
    assert chosen(two_runs) == ('epoch_1.pth', [])


def test_unreadable_files_are_passed_over(two_runs):
    cut(two_runs / 'epoch_3.pth')
    name, told = chosen(two_runs)
    assert name == 'epoch_2.pth'
    assert len(told) == 1
    assert told[0].startswith(f'passed over: {two_runs}/epoch_3.pth (300 bytes) cannot be read (')
    cut(two_runs / 'epoch_2.pth', 0)
    os.utime(two_runs / 'epoch_2.pth', (1003, 1003))
    name, told = chosen(two_runs)
    assert name == 'epoch_1.pth'
    assert told[1] == (
        f'passed over: {two_runs}/epoch_2.pth is empty (0 bytes): the save or download did not '
        'finish.'
    )
    os.remove(two_runs / 'epoch_1.pth')  # what is left is of the older run
    assert chosen(two_runs)[0] == 'epoch_12.pth'


def test_a_flipped_bit(two_runs):
    data = bytearray((two_runs / 'epoch_3.pth').read_bytes())
    data[data.index(torch.ones(9).numpy().tobytes()) + 2] ^= 1
    (two_runs / 'epoch_3.pth').write_bytes(data)
    assert chosen(two_runs) == (
        'epoch_2.pth',
        [
            f'passed over: {two_runs}/epoch_3.pth is damaged: the checksum of epoch_3/data/0 in it '
            'is wrong'
        ],
    )


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('', 'is empty'),
        (b'\0\xff\x07', 'does not hold the name of a file'),
        ('/gone/epoch_7.pth', 'names /gone/epoch_7.pth, which does not exist'),
        ('/tmp', 'names /tmp, which is a folder'),
    ],
)
def test_pointers_of_no_use(two_runs, text, problem):
    point(two_runs, text)
    assert chosen(two_runs) == ('epoch_3.pth', [f'{two_runs}/last_checkpoint {problem}'])


def test_no_pointer_and_one_to_a_best_file(two_runs):
    os.remove(two_runs / 'last_checkpoint')
    assert chosen(two_runs) == ('epoch_3.pth', [f'there is no last_checkpoint in {two_runs}'])
    point(two_runs, f'{two_runs}/best_coco_bbox_mAP_epoch_12.pth')
    best = f'passed over: {two_runs}/best_coco_bbox_mAP_epoch_12.pth was saved without an optimizer'
    assert chosen(two_runs) == ('epoch_3.pth', [best])


def test_a_folder_that_was_moved(two_runs):
    moved = two_runs / 'moved'
    shutil.copytree(two_runs, moved)
    os.remove(two_runs / 'epoch_3.pth')
    save(moved, 'epoch_2.pth', 5000)
    assert chosen(moved) == ('epoch_3.pth', [])


def test_nothing_to_choose(tmp_path):
    assert chosen(tmp_path) == (None, [])
    point(tmp_path, 'epoch_1.pth')
    problem = f'{tmp_path}/last_checkpoint names epoch_1.pth, which does not exist'
    assert chosen(tmp_path) == (None, [problem])


def test_none_of_them_readable(tmp_path):
    for epoch in (1, 2):
        cut(save(tmp_path, f'epoch_{epoch}.pth', 1000 + epoch), 0)
    point(tmp_path, '')
    with pytest.raises(CheckpointError) as error:
        chosen(tmp_path)
    assert str(error.value) == (
        f'none of the 2 checkpoints of {tmp_path} can be read:\n'
        f'  {tmp_path}/last_checkpoint is empty\n'
        f'  passed over: {tmp_path}/epoch_2.pth is empty (0 bytes): the save or download did not '
        'finish.\n'
        f'  passed over: {tmp_path}/epoch_1.pth is empty (0 bytes): the save or download did not '
        'finish.\n'
        'Put a whole copy of one back, name another with --resume FILE, or leave --resume '
        '(resume=True) out to begin at the start.'
    )


# --- how the run begins -------------------------------------------------------------------------


def begin(folder, is_first=True, **cfg):
    cfg = Config(dict(work_dir=str(folder), **cfg))
    notes = plan_start(cfg, is_first)
    return cfg.get('resume'), cfg.get('load_from'), [text for _, text in notes]


def test_what_the_runner_is_told(two_runs):
    last = f'{two_runs}/epoch_3.pth'
    assert begin(two_runs, resume=True) == (
        True,
        last,
        [f'{last} is the newest checkpoint of {two_runs} that can be read'],
    )
    named = f'{two_runs}/epoch_1.pth'
    assert begin(two_runs, resume=True, load_from=named) == (True, named, [])
    assert begin(two_runs, load_from='weights.pth') == (
        False,
        'weights.pth',
        [
            f'{two_runs} holds checkpoints of an earlier run: epoch_3.pth, epoch_2.pth, '
            'epoch_1.pth, epoch_12.pth, epoch_4.pth. This run begins at the start and overwrites '
            'those of the same names. --resume goes on from the last; --work-dir keeps both apart.'
        ],
    )
    save(two_runs, 'iter_99.pth', 1)
    assert 'epoch_12.pth, epoch_4.pth and 1 more. This run' in begin(two_runs)[2][0]
    assert begin(two_runs, is_first=False) == (False, None, [])


def test_an_empty_work_dir(tmp_path):
    new = tmp_path / 'new'
    nothing = f'nothing to resume in {new}: training begins at the start'
    # resume=False, for mmengine would look for a checkpoint itself
    assert begin(new, resume=True) == (False, None, [nothing])
    assert begin(new) == (False, None, [])
    assert os.listdir(new) == ['training.lock']
    assert read_record(str(new)).pid == os.getpid()
    assert plan_start(Config({}), True) == []


# --- torchrun's restarts ------------------------------------------------------------------------


def attempt(monkeypatch, job, number):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    file = f'/tmp/torchelastic_q/none_{job}/attempt_{number}/0/error.json'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', file)


def restarted(path):
    return True, path, [f'restarted by torchrun: resuming from {path}, the last save of this job']


def test_a_restarted_job_goes_on_from_its_own_saves_only(two_runs, monkeypatch):
    earlier = [f'{two_runs}/epoch_{epoch}.pth' for epoch in (1, 2, 3, 4, 12)]
    attempt(monkeypatch, 'a', 0)
    assert begin(two_runs, load_from='w.pth')[:2] == (False, 'w.pth')
    record = read_record(str(two_runs))
    assert record.agents == [find_agent()]
    assert sorted(record.earlier) == sorted(earlier)
    # Killed before the first save: as the first time.
    attempt(monkeypatch, 'a', 1)
    assert begin(two_runs, load_from='w.pth')[:2] == (False, 'w.pth')
    # Killed after it, before the pointer was written: the other files are still not its own.
    first = save(two_runs, 'epoch_1.pth', 500)
    attempt(monkeypatch, 'a', 2)
    assert begin(two_runs, load_from='w.pth') == restarted(first)
    point(two_runs, first)
    assert begin(two_runs, load_from='w.pth') == restarted(first)
    second = save(two_runs, 'epoch_2.pth', 501)
    point(two_runs, second)
    assert begin(two_runs) == restarted(second)
    assert begin(two_runs, is_first=False) == (*restarted(second)[:2], [])
    named = f'{two_runs}/epoch_12.pth'
    assert begin(two_runs, resume=True, load_from=named) == restarted(second)
    cut(second)
    told = begin(two_runs)
    assert told[:2] == (True, first)
    assert told[2][0].startswith(f'passed over: {second} (300 bytes) cannot be read (')
    # With --resume all that is there counts, as the first time.
    point(two_runs, f'{two_runs}/epoch_12.pth')
    assert begin(two_runs, resume=True)[:2] == (True, f'{two_runs}/epoch_12.pth')


def test_another_job_is_no_restart(two_runs, monkeypatch):
    """Also where its first processes were killed before they could say that they are there."""
    attempt(monkeypatch, 'a', 0)
    begin(two_runs)
    save(two_runs, 'epoch_13.pth', 3000)
    attempt(monkeypatch, 'b', 1)
    assert begin(two_runs, is_first=False)[:2] == (False, None)
    assert begin(two_runs)[:2] == (False, None)
    assert f'{two_runs}/epoch_13.pth' in read_record(str(two_runs)).earlier
    monkeypatch.delenv('TORCHELASTIC_RUN_ID')
    assert begin(two_runs)[:2] == (False, None)
    assert read_record(str(two_runs)).agents == []


def test_nothing_of_a_restarted_job_is_readable(tmp_path, monkeypatch):
    attempt(monkeypatch, 'a', 0)
    begin(tmp_path)
    cut(save(tmp_path, 'epoch_1.pth', 9), 0)
    attempt(monkeypatch, 'a', 1)
    with pytest.raises(CheckpointError, match=r'none of the 1 checkpoints of '):
        begin(tmp_path)


RESTARTED = """
import os, signal, sys
from mmengine.hooks import Hook
from ghmdet.engine import build_runner
from ghmdet.registry import HOOKS
from tests.number_runs import number_cfg

@HOOKS.register_module()
class Kill(Hook):
    priority = 'LOWEST'
    def after_train_epoch(self, runner):
        count, rank = os.environ['TORCHELASTIC_RESTART_COUNT'], runner.rank
        print(f'attempt {count}, rank {rank}: epoch {runner.epoch + 1}', flush=True)
        if (count, rank, runner.epoch) == ('0', 1, 1):
            os.kill(os.getpid(), signal.SIGKILL)

cfg = number_cfg(sys.argv[1], [1, 1, 1, 1], epochs=4, launcher='pytorch')
cfg.custom_hooks = [dict(type='Kill')]
cfg.log_level = 'INFO'
cfg.env_cfg = dict(dist_cfg=dict(timeout=60))
build_runner(cfg).train()
"""


def test_torchrun_restarts_a_killed_group(two_runs):
    """Epoch 2 is the one that rank 1 does not survive; an older run has left 3, 4 and 12."""
    out = run_processes(
        RESTARTED, two_runs.parent, two_runs, options=('--max_restarts', '1'), timeout=100
    )
    lines = [line for line in out.splitlines() if line.startswith('attempt')]
    of_first_rank = [line for line in lines if 'rank 0' in line]
    last = {line.rpartition(' ')[2] for line in of_first_rank if line.startswith('attempt 0')}
    assert {'1'} <= last <= {'1', '2'}  # it may have been killed on the way
    goes_on = [line for line in of_first_rank if line.startswith('attempt 1')]
    first = int(goes_on[0].rpartition(' ')[2])
    assert first in (2, 3)
    assert goes_on == [f'attempt 1, rank 0: epoch {epoch}' for epoch in range(first, 5)]
    log = max(two_runs.glob('*/*.log'), key=os.path.getmtime).read_text()
    own = f'{two_runs}/epoch_{first - 1}.pth'
    assert f'restarted by torchrun: resuming from {own}, the last save of this job' in log


# --- several processes --------------------------------------------------------------------------

DISAGREEING = """
import os, sys
from mmengine.config import Config
from torch import distributed
from ghmdet.checkpoint.resume import confirm_start
distributed.init_process_group('gloo')
rank = os.environ['RANK']
from ghmdet.checkpoint.work_dir import hold_work_dir
if rank == '0':
    hold_work_dir(sys.argv[1])
cfg = Config(dict(work_dir=sys.argv[1], resume=True, load_from=sys.argv[1] + '/epoch_3.pth'))
confirm_start(cfg)
cfg.load_from += 'x' if rank == '1' else ''
try:
    confirm_start(cfg)
except Exception as error:
    if rank == '1':
        print(error)
"""


def test_all_processes_must_see_the_file(two_runs):
    told = run_processes(DISAGREEING, two_runs, two_runs)
    first, zero, one, advice = told.strip().splitlines()
    assert first == 'the processes do not find the same checkpoint to go on from:'
    assert zero.startswith('  process 0 on ')
    assert zero.endswith(f': {two_runs}/epoch_3.pth')
    assert one.endswith(': none')
    assert advice == (
        f'The work dir {two_runs} must be on a file system that all machines share, or the '
        'checkpoint must be copied to the same place on each.'
    )
    assert len(read_record(str(two_runs)).agents) == 1


def test_the_first_process_decides_for_all_that_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, 'is_distributed', lambda: True)

    def receive(answer):
        assert answer == [None, None]
        answer[:] = [resume.Start(True, 'epoch_5.pth', [(20, 'text')]), None]

    monkeypatch.setattr(resume, 'broadcast_object_list', receive)
    assert begin(tmp_path, is_first=False) == (True, 'epoch_5.pth', [])

    def receive_error(answer):
        answer[:] = [None, WorkDirError('in use')]

    monkeypatch.setattr(resume, 'broadcast_object_list', receive_error)
    with pytest.raises(WorkDirError, match='in use'):
        begin(tmp_path, is_first=False)
    assert os.listdir(tmp_path) == []
    assert Record() == read_record(str(tmp_path))

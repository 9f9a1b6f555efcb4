"""What is on the disk when a save is disturbed, and which files are kept."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from ghmdet.checkpoint.save_hook import CheckpointHook, SaveError
from ghmdet.engine import load_checkpoint_file
from tests.engine.test_exact_resume import CASES, case_cfg, check_same, final
from tests.number_runs import RisingMetric, number_cfg, train
from tests.two_processes import run_processes


def run(work_dir, epochs=3, numbers=(1, 1), resume=False, **hook):
    cfg = number_cfg(work_dir, numbers, epochs=epochs, resume=resume, log_level='INFO')
    cfg.default_hooks.checkpoint.update(hook)
    if 'save_best' in hook:
        cfg.val_dataloader = cfg.train_dataloader
        cfg.val_evaluator = dict(type='RisingMetric')
        cfg.val_cfg = dict()
    return train(cfg)


def checkpoints(folder):
    return sorted(file.name for file in Path(folder).glob('[!.]*.pth'))


@pytest.mark.parametrize(
    ('keep', 'kept'), [(-1, [1, 2, 3, 4]), (1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])]
)
def test_how_many_are_kept(tmp_path, keep, kept):
    (tmp_path / '.epoch_1.pth.tmp').write_bytes(b'left by an interrupted save')
    runner = run(tmp_path, epochs=4, max_keep_ckpts=keep)
    assert checkpoints(tmp_path) == [f'epoch_{number}.pth' for number in kept]
    assert not list(tmp_path.glob('.*.tmp'))
    size = (tmp_path / 'epoch_4.pth').stat().st_size / 1e6
    logged = [line for line in runner.lines if line.startswith('Saved')]
    assert len(logged) == 4
    assert logged[3].startswith(f'Saved epoch_4.pth ({size:.1f} MB) in ')


@pytest.mark.parametrize(('moment', 'keep'), [('write', 1), ('replace', 2), ('pointer', 1)])
def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch, moment, keep):
    """The third save fails at each of its moments; then the run resumes from the second."""
    whole = final(train(case_cfg(tmp_path / 'whole', CASES['epochs'], by_epoch=True)))
    settings = dict(by_epoch=True, max_keep_ckpts=keep)
    owner, name = (Runner, 'save_checkpoint') if moment == 'write' else (os, 'replace')
    original = getattr(owner, name)

    def fail(*args, **kwargs):
        if moment == 'write' and kwargs['meta']['epoch'] == 3:
            (tmp_path / 'parts/.epoch_3.pth.tmp').write_bytes(b'PK part of it')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        target = Path(args[1]).name
        pointing = target == 'last_checkpoint' and (tmp_path / 'parts/epoch_3.pth').exists()
        if (moment == 'replace' and target == 'epoch_3.pth') or (moment == 'pointer' and pointing):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    cfg = case_cfg(tmp_path / 'parts', CASES['epochs'], **settings)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises((SaveError, KeyboardInterrupt)) as raised:
            train(cfg)
    pointer = (tmp_path / 'parts/last_checkpoint').read_text()
    assert pointer == str(tmp_path / 'parts/epoch_2.pth')
    assert load_checkpoint_file(pointer)['meta']['epoch'] == 2
    if moment == 'write':
        message = str(raised.value)
        assert message.startswith(
            f'epoch_3.pth could not be written to {tmp_path / "parts"}: No space left on device. '
        )
        assert f'The previous checkpoint, {pointer}, is unchanged' in message
        assert not (tmp_path / 'parts/.epoch_3.pth.tmp').exists()
    cfg = case_cfg(tmp_path / 'parts', CASES['epochs'], **settings)
    cfg.resume = True
    check_same(whole, final(train(cfg)))
    assert checkpoints(tmp_path / 'parts') == ['epoch_2.pth', 'epoch_3.pth'][-keep:]
    assert not list((tmp_path / 'parts').glob('.*.tmp'))


def test_older_files_go_after_the_new_one_is_there(tmp_path, monkeypatch):
    events = []
    replace, remove = os.replace, CheckpointHook._remove

    def note_replace(source, target):
        events.append(f'+{Path(target).name}')
        replace(source, target)

    def note_remove(self, path):
        events.append(f'-{Path(path).name}')
        remove(self, path)

    monkeypatch.setattr(os, 'replace', note_replace)
    monkeypatch.setattr(CheckpointHook, '_remove', note_remove)
    run(tmp_path, epochs=2, max_keep_ckpts=1, save_best='up', rule='greater')
    assert [event for event in events if 'training' not in event] == [
        '+epoch_1.pth',
        '+last_checkpoint',
        '+best_up_epoch_1.pth',
        '+epoch_2.pth',
        '+last_checkpoint',
        '-epoch_1.pth',
        '+best_up_epoch_2.pth',
        '-best_up_epoch_1.pth',
    ]


def test_the_best(tmp_path):
    run(tmp_path, epochs=1, save_best='auto', rule='greater')
    runner = run(tmp_path, epochs=2, save_best='auto', rule='greater', resume=True)
    # The first epoch is validated again, since its checkpoint is from before that: 1, then 2.
    assert checkpoints(tmp_path) == ['best_up_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth']
    best = load_checkpoint_file(tmp_path / 'best_up_epoch_2.pth')
    assert best['meta']['epoch'] == 2
    assert not {'optimizer', 'run_state'} & best.keys()
    assert runner.message_hub.get_info('best_score') == 2


@pytest.mark.parametrize('missing', [float('nan'), -1, -1.0, None])
def test_a_value_without_ground_truth_is_never_the_best(tmp_path, monkeypatch, missing):
    values = iter([missing, 0.25, missing, 0.125, 0.5])
    monkeypatch.setattr(RisingMetric, 'compute_metrics', lambda *_: dict(up=next(values)))
    runner = run(tmp_path, epochs=5, save_best='up', rule='greater')
    best = [line for line in runner.lines if 'best so far' in line]
    assert best == ['up 0.2500 is the best so far', 'up 0.5000 is the best so far']
    assert [file for file in checkpoints(tmp_path) if 'best' in file] == ['best_up_epoch_5.pth']


def test_minus_one_may_be_the_best_where_less_is_better(tmp_path, monkeypatch):
    monkeypatch.setattr(RisingMetric, 'compute_metrics', lambda *_: dict(up=-1))
    run(tmp_path, epochs=1, save_best='up', rule='less')
    assert 'best_up_epoch_1.pth' in checkpoints(tmp_path)


def test_it_is_not_known_what_is_best(tmp_path):
    runner = run(tmp_path, epochs=2, save_best='auto')
    assert checkpoints(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    warning = "save_best='auto': it is not known whether up is better when greater or less"
    assert any(line.startswith(warning) for line in runner.lines)


KILLED = """
import os, signal, sys
from mmengine.runner import Runner
from tests.engine.test_exact_resume import CASES, case_cfg, train

save = Runner.save_checkpoint

def save_and_die(self, out_dir, filename, *args, **kwargs):
    if kwargs['meta']['epoch'] == 2:
        with open(f'{out_dir}/{filename}', 'wb') as stream:
            stream.write(b'PK half')
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    save(self, out_dir, filename, *args, **kwargs)

Runner.save_checkpoint = save_and_die
train(case_cfg(sys.argv[1], CASES['epochs'], by_epoch=True))
"""


@pytest.mark.long
def test_killed_during_a_save(tmp_path):
    root = Path(__file__).parents[2]
    env = dict(os.environ, PYTHONPATH=str(root))
    command = [sys.executable, '-c', KILLED, str(tmp_path / 'parts')]
    done = subprocess.run(command, env=env, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert (tmp_path / 'parts/.epoch_2.pth.tmp').exists()
    assert (tmp_path / 'parts/last_checkpoint').read_text().endswith('epoch_1.pth')
    cfg = case_cfg(tmp_path / 'parts', CASES['epochs'], by_epoch=True)
    cfg.resume = True
    resumed = final(train(cfg))
    check_same(final(train(case_cfg(tmp_path / 'whole', CASES['epochs'], by_epoch=True))), resumed)
    assert not list((tmp_path / 'parts').glob('.*.tmp'))


# --- two processes ------------------------------------------------------------------------------

TWO = """
import json, random, sys
import numpy as np, torch
from pathlib import Path
from mmengine.dist import all_gather_object, get_rank
from tests.engine.test_exact_resume import CASES, case_cfg, train

def run(name, load_from=None, **changes):
    cfg = case_cfg(f'{sys.argv[1]}/{name}', CASES['epochs'])
    cfg.launcher = 'pytorch'
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.train_dataloader.batch_size = 1
    cfg.resume, cfg.load_from = load_from is not None, load_from
    runner = train(cfg)
    model = runner.model.module
    return all_gather_object({n: b.tolist() for n, b in model.named_buffers()})

whole = run('whole')
resumed = run('parts', f'{sys.argv[1]}/whole/iter_7.pth')
if get_rank() == 0:
    print(json.dumps(dict(whole=whole, resumed=resumed)))
torch.distributed.destroy_process_group()
"""


def test_buffers_of_two_processes(tmp_path):
    """Each resumes with its own; the file has their mean."""
    told = run_processes(TWO, tmp_path, tmp_path)
    buffers = json.loads(told[told.index('{"whole"') :])
    first, second = buffers['whole']
    assert first['loss.acc_sum'] != second['loss.acc_sum']
    assert first['norm.running_mean'] != second['norm.running_mean']
    assert buffers['resumed'] == buffers['whole']
    a, b = (load_checkpoint_file(tmp_path / name / 'iter_12.pth') for name in ('whole', 'parts'))
    check_same(a, b)
    for name in ('loss.acc_sum', 'norm.running_mean', 'norm.running_var'):
        mean = torch.tensor([first[name], second[name]], dtype=torch.float64).mean(0).float()
        assert torch.equal(a['state_dict'][name], mean)
        own = [process['buffers'][name].tolist() for process in a['run_state']['processes']]
        assert own == [first[name], second[name]]
    assert 'loss.edges' not in a['run_state']['processes'][0]['buffers']
    assert a['state_dict']['norm.num_batches_tracked'] == 12

    cfg = case_cfg(tmp_path / 'alone', CASES['epochs'])  # resumes with the mean
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.train_cfg.max_epochs = 4
    cfg.resume, cfg.load_from = True, str(tmp_path / 'whole/iter_12.pth')
    assert train(cfg).iter == 16

"""Work dirs as users leave them: with a broken checkpoint, or in use by another training."""

import os
import subprocess
import sys
import time

import torch

from tests.e2e.conftest import ENV, ROOT, check_equal, run, weights

EPOCHS = ('--cfg-options', 'train_cfg.max_epochs=2', 'val_cfg=None', 'val_dataloader=None')
SHORT = (*EPOCHS, 'val_evaluator=None')


def test_a_broken_checkpoint(server, config, tmp_path):
    """Resumed from the one before, the run ends with the same weights."""
    done = server('ghmdet.train', [config, '--work-dir', tmp_path, *SHORT], tmp_path, 120)
    assert done['code'] == 0, done['stderr'][-3000:]
    last, before = tmp_path / 'epoch_2.pth', tmp_path / 'epoch_1.pth'
    whole, size = weights(last), last.stat().st_size // 2
    os.truncate(last, size)
    done = server('ghmdet.train', [config, '--resume', '--work-dir', tmp_path, *SHORT], tmp_path)
    told = done['stdout'] + done['stderr']
    assert done['code'] == 0, told[-3000:]
    assert f'skipped: {last} ({size} bytes) cannot be read (' in told
    assert f'{before} is the newest checkpoint of {tmp_path} that can be read' in told
    assert f'resuming from {before} after epoch 1, iteration 3' in told
    check_equal(weights(last), whole)


def test_nothing_readable_and_nothing_there(server, config, tmp_path):
    folder = tmp_path / 'work'
    folder.mkdir()
    (folder / 'epoch_1.pth').write_bytes(b'PK')
    args = [config, '--work-dir', folder, *SHORT, 'train_cfg.max_epochs=1']
    done = server('ghmdet.train', [*args, '--resume'], tmp_path)
    assert done['code'] == 1
    told = done['stderr'][done['stderr'].rindex('error: ') :]
    assert told.startswith(f'error: none of the 1 checkpoints of {folder} can be read:\n')
    assert sorted(os.listdir(folder)) == ['epoch_1.pth', 'training.lock']
    # Without --resume there is a warning of what is overwritten.
    done = server('ghmdet.train', args, tmp_path)
    assert done['code'] == 0, done['stderr'][-3000:]
    told = f'{folder} has checkpoints of an earlier run: epoch_1.pth. This run begins at the'
    assert told in done['stdout'] + done['stderr']


def test_two_trainings_in_one_work_dir(config, tmp_path):
    folder = tmp_path / 'work'
    command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--work-dir', folder, *SHORT]
    with (tmp_path / 'first.log').open('w') as log:
        first = subprocess.Popen([*command, 'train_cfg.max_epochs=999'], env=ENV, stderr=log)
    try:
        while not list(folder.glob('epoch_*.pth')) and first.poll() is None:
            time.sleep(0.1)
        second = run('train.py', config, '--work-dir', folder, '--resume', check=False)
        assert first.poll() is None, (tmp_path / 'first.log').read_text()[-3000:]
    finally:
        first.kill()
        first.wait(30)
    assert second.returncode == 1
    told = second.stderr[second.stderr.rindex('error: ') :]
    assert told.startswith(
        f'error: the work dir {folder} is in use by another training: pid {first.pid} on '
    )
    assert f'tools/train.py {config} --work-dir {folder} --cfg-options ' in told
    assert 'give this one another with --work-dir, or stop that one first.' in told
    # Of the second there is no trace.
    assert len(list(folder.glob('2*'))) == 1
    assert not list(folder.glob('*/error*.log'))


def test_resume_in_an_empty_work_dir_starts_from_load_from(server, config, trained, tmp_path):
    """With a learning rate of 1e-12 the weights stay those of the checkpoint."""
    checkpoint = trained[1] / 'epoch_2.pth'
    options = [f'load_from={checkpoint}', 'optim_wrapper.optimizer.lr=1e-12']
    args = [config, '--resume', '--work-dir', tmp_path, *SHORT, 'train_cfg.max_epochs=1', *options]
    done = server('ghmdet.train', args, tmp_path)
    told = done['stdout'] + done['stderr']
    assert done['code'] == 0, told[-3000:]
    assert f'training begins at the start, with the weights of {checkpoint}' in told
    found, expected = weights(tmp_path / 'epoch_1.pth'), weights(checkpoint)
    for name in ('backbone.conv1.weight', 'bbox_head.retina_cls.weight'):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9)

"""A learning rate without measure, as users meet it on the command line."""

from tests.e2e.conftest import scalars

from .test_tools import run

WILD = (
    'optim_wrapper.optimizer.lr=1e30',
    'optim_wrapper.clip_grad=None',
    'default_hooks.finite_steps.max_in_a_row=3',
    'train_cfg.max_epochs=3',
    'train_cfg.val_interval=9',
)


def test_a_wild_learning_rate_ends_with_advice(config, tmp_path):
    work_dir = tmp_path / 'work'
    done = run('train.py', config, '--work-dir', work_dir, '--cfg-options', *WILD, check=False)
    assert done.returncode == 1
    log = done.stdout + done.stderr
    warning = 'the learning rate 1e+30 is 1e+33 times what the linear rule gives for a total batch'
    assert f'{warning} size of 4' in log
    # One step is made, then nothing is finite.
    told = done.stderr[done.stderr.rindex('error: ') :]
    assert told.startswith(
        'error: training stops at iteration 4 (epoch 2): loss or gradients were not finite in 3 '
        'steps in a row.'
    )
    assert '  iteration 4 (epoch 2): loss nan, loss_cls nan, loss_bbox nan\n' in told
    assert told.count('train/000') == 4  # the images of the batch
    assert f'the last is {work_dir / "epoch_1.pth"}.' in told
    assert scalars(work_dir, 'skipped_steps') == [1, 2]


def test_an_unusable_base_batch_size(config, tmp_path):
    options = ('--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=0')
    done = run('train.py', config, '--work-dir', tmp_path / 'work', *options, check=False)
    assert done.returncode == 1
    told = done.stderr[done.stderr.rindex('error: ') :]
    assert told.startswith(
        'error: --auto-scale-lr needs a positive number of images in '
        'auto_scale_lr.base_batch_size, got 0; '
    )
    assert not list(tmp_path.glob('work/*.pth'))

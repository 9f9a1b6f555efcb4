"""The linear rule: what it gives, when it is applied, and what is said at the start."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from ghmdet.checks.learning_rate import find_reference
from ghmdet.engine import build_runner
from ghmdet.engine.runner import scale_lr
from tests.number_runs import number_cfg, own_scope, train


def rates(runner, name='lr'):
    return runner.message_hub.get_scalar(f'train/{name}').data[0].tolist()


def scaled(tmp_path, base, accumulated=1, **changes):
    return number_cfg(
        tmp_path,
        [1] * 4,
        batch_size=2,
        auto_scale_lr=dict(enable=True, base_batch_size=base),
        **{
            'optim_wrapper': dict(
                optimizer=dict(type='SGD', lr=0.1), accumulative_counts=accumulated
            ),
            **changes,
        },
    )


def test_scaling(tmp_path):
    assert rates(train(scaled(tmp_path, 8))) == [0.1 * 2 / 8] * 2


def test_accumulated_batches_count_once(tmp_path):
    # 1 process x 2 images x 4 batches
    assert rates(train(scaled(tmp_path, 16, accumulated=4))) == [0.05, 0.05]


def test_all_groups_are_scaled(tmp_path):
    paramwise = dict(custom_keys={'weight': dict(lr_mult=0.1)})
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=paramwise)
    runner = train(scaled(tmp_path, 4, optim_wrapper=wrapper))
    assert [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups] == [
        pytest.approx(0.1 * 0.1 / 2)
    ]


SCHEDULES = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=4, milestones=[1, 3], gamma=0.1),
]


@pytest.mark.parametrize('schedules', [SCHEDULES, None])
def test_a_resumed_run_is_not_scaled_again(tmp_path, schedules):
    def cfg(folder, epochs, **more):
        return scaled(tmp_path / folder, 16, 2, epochs=epochs, param_scheduler=schedules, **more)

    whole = train(cfg('whole', 4))
    train(cfg('parts', 2))
    parts = train(cfg('parts', 4, resume=True))
    expected = rates(whole)
    assert len(expected) == 8
    assert expected[0] == pytest.approx(0.1 * 4 / 16 * (0.1 if schedules else 1))
    assert rates(parts) == expected  # the first half comes with the checkpoint
    assert parts.model.weight.item() == whole.model.weight.item()


@pytest.mark.parametrize('base', [0, -16, None, '16', True, float('nan')])
def test_a_base_that_is_none(tmp_path, base):
    with pytest.raises(ValueError, match='a positive number of images in auto_scale_lr.base_batch'):
        train(scaled(tmp_path, base))


def test_a_base_that_is_missing(tmp_path):
    cfg = scaled(tmp_path, 16)
    del cfg.auto_scale_lr['base_batch_size']
    with pytest.raises(ValueError, match='enable=True needs auto_scale_lr.base_batch_size in the'):
        train(cfg)


# --- the learning rate that goes with a batch ---------------------------------------------------

BASE = """
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02))
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'base.py').write_text(BASE)

    def write(text):
        (tmp_path / 'child.py').write_text(f"_base_ = 'base.py'\n{text}")
        return Config.fromfile('child.py')

    return write


def test_reference_of_an_inherited_pair(write):
    assert find_reference(write(''), 0.02) == (0.02, 16, '')


def test_a_rate_of_ones_own_is_compared_with_that_of_the_base(write):
    cfg = write('optim_wrapper = dict(optimizer=dict(lr=0.0025))')
    assert find_reference(cfg, 0.0025) == (0.02, 16, 'base.py')


def test_a_pair_of_ones_own(write):
    cfg = write(
        'optim_wrapper = dict(optimizer=dict(lr=0.0025))\nauto_scale_lr = dict(base_batch_size=2)'
    )
    assert find_reference(cfg, 0.0025) == (0.0025, 2, '')


def test_a_pair_from_the_command_line(write):
    cfg = write('')
    cfg.merge_from_dict({'optim_wrapper.optimizer.lr': 0.1})
    assert find_reference(cfg, 0.1) == (0.02, 16, 'base.py')
    cfg.merge_from_dict({'auto_scale_lr.base_batch_size': 4})
    assert find_reference(cfg, 0.1) == (0.1, 4, '')


def test_the_rate_of_another_optimizer_says_nothing(write):
    cfg = write("optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4))")
    assert find_reference(cfg, 1e-4) == (1e-4, 16, '')


@pytest.mark.parametrize(
    'text', ['auto_scale_lr = None', 'auto_scale_lr = dict(base_batch_size=0)']
)
def test_no_reference(write, text):
    assert find_reference(write(text), 0.02) is None


def test_a_shipped_config_and_one_without_a_file(tmp_path):
    assert find_reference(number_cfg(tmp_path, [1]), 1.0) is None
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=3)))
    assert find_reference(cfg, 0.5) == (0.5, 3, '')


# --- the block at the start ---------------------------------------------------------------------


def block(runner):
    (text,) = [line for line in runner.lines if line.startswith('Training begins')]
    lines = text.splitlines()
    return lines[0], dict(line.strip().split('  ', 1) for line in lines[1:])


def begin(cfg):
    cfg.log_level = 'INFO'
    return train(cfg)


def test_what_the_block_says(tmp_path):
    cfg = scaled(
        tmp_path,
        16,
        4,
        param_scheduler=SCHEDULES,
        randomness=dict(seed=12),
        epochs=3,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.5, weight_decay=0.01),
            accumulative_counts=4,
            clip_grad=dict(max_norm=35),
        ),
    )
    title, told = block(begin(cfg))
    assert title == 'Training begins:'
    told = {key: value.strip() for key, value in told.items()}
    device = told.pop('device')
    assert device.startswith('cpu, ')
    logs = told.pop('logs')
    assert logs.startswith(str(tmp_path))
    assert told == {
        'images a step': '8 = 1 process x 2 images x 4 accumulated',
        'learning rate': '0.05, SGD momentum=0.5, weight_decay=0.01',
        'linear rule': '0.05, from 0.1 for 16 images; applied by auto_scale_lr',
        'gradient clipping': 'max_norm=35',
        'precision': 'float32',
        'parameters': '1 to train, of 1',
        'seed': '12',
        'images': '4 to train',
        'length': '3 epochs x 2 iterations',
        'schedule': 'LinearLR, MultiStepLR',
        'checkpoints': f'{tmp_path}, every 1 epoch',
    }


def test_by_iterations_and_in_low_precision(tmp_path):
    cfg = number_cfg(tmp_path, [1] * 6, batch_size=2)
    cfg.train_cfg = dict(by_epoch=False, max_iters=5)
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    _, told = block(begin(cfg))
    told = {key: value.strip() for key, value in told.items()}
    assert told['length'] == '5 iterations; 3 go through all images'
    assert told['precision'] == 'bfloat16, weights float32'
    assert told['checkpoints'] == f'{tmp_path}, every 2 iterations'
    assert told['linear rule'] == 'unknown, the config has no auto_scale_lr.base_batch_size'
    assert told['gradient clipping'] == 'off'
    assert told['schedule'] == 'none: the learning rate stays'


def test_a_resumed_run(tmp_path):
    begin(number_cfg(tmp_path, [1, 1]))
    cfg = number_cfg(tmp_path, [1, 1], epochs=2, resume=True)
    cfg.optim_wrapper.optimizer.lr = 0.25
    runner = begin(cfg)
    title, told = block(runner)
    assert title == 'Training begins, resumed after iteration 2:'
    assert told['learning rate'].strip().startswith('1 from the checkpoint, SGD ')
    assert any(
        line.startswith('the learning rate of the checkpoint, 1, goes on; that of the config, 0.25')
        for line in runner.lines
    )


def warned(runner):
    return [line for line in runner.lines if 'linear rule gives' in line]


def off(tmp_path, base, **auto):
    return number_cfg(
        tmp_path, [1, 1], batch_size=2, auto_scale_lr=dict(base_batch_size=base, **auto)
    )


@pytest.mark.parametrize('base', [1, 2, 4])
def test_a_factor_of_two_is_not_warned_of(tmp_path, base):
    assert warned(begin(off(tmp_path, base))) == []


def test_too_large_a_rate_is_warned_of(tmp_path):
    assert warned(begin(off(tmp_path, 16))) == [
        'the learning rate 1 is 8 times what the linear rule gives for 2 images a step: 0.125, '
        'from 1 for 16 images. Too much of it ends in NaN: use --auto-scale-lr, or '
        'optim_wrapper.optimizer.lr=0.125. If 1 was chosen for 2 images, say so with '
        'auto_scale_lr.base_batch_size=2.'
    ]


def test_too_small_a_rate_is_warned_of(tmp_path):
    cfg = off(tmp_path, 2)
    cfg.optim_wrapper.accumulative_counts = 3
    (told,) = warned(begin(cfg))
    assert told.startswith(
        'the learning rate 1 is 1/3 of what the linear rule gives for 6 images a step: 3, from 1 '
        'for 2 images. Training will be slow: use --auto-scale-lr, or'
    )


def test_a_rate_that_was_scaled_is_not_warned_of(tmp_path):
    assert warned(begin(off(tmp_path, 16, enable=True))) == []


def test_no_other_runner_is_touched(tmp_path):
    with own_scope():
        runner = build_runner(number_cfg(tmp_path, [1]))
    assert runner.scale_lr.func is scale_lr
    assert type(runner).scale_lr is not scale_lr

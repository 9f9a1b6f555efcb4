"""Losses and gradients that are not finite: what is skipped, told, and when it is enough."""

from __future__ import annotations

import pytest
import torch

from ghmdet.engine.hooks.non_finite_steps import (
    SkipNonFiniteStepsHook,
)
from tests.number_runs import NAN, number_cfg, train
from tests.two_processes import run_processes


def momentum(**more):
    return dict(optimizer=dict(type='SGD', lr=1.0, momentum=0.5), **more)


def skips(runner):
    return [line for line in runner.lines if line.startswith('step skipped')]


def test_a_step_is_as_if_it_had_not_been(tmp_path):
    runner = train(number_cfg(tmp_path, [1, NAN, 2], optim_wrapper=momentum()))
    # Momentum 1, then 0.5 x 1 + 2 = 2.5.
    assert runner.model.weight.item() == -3.5
    assert runner.model.total.item() == 3
    assert runner.message_hub.get_info('skipped_steps') == 1
    assert runner.lines[-1] == (
        '1 of 3 iterations ended in a skipped step, because the loss or gradients were not finite'
    )


def test_what_is_told_of_a_skipped_step(tmp_path):
    runner = train(number_cfg(tmp_path, [1, 2, NAN, 4], batch_size=2))
    assert runner.model.weight.item() == -1.5
    assert skips(runner) == [
        'step skipped: loss or gradients are not finite; 1 in a row (the run stops at 10), 1 in '
        'all\n'
        '  iteration 2 (epoch 1): loss nan, loss_w nan, loss_rest 1\n'
        '  images: 2 (2.jpg), 3 (3.jpg)'
    ]


def test_gradients_that_are_not_finite_under_a_finite_loss(tmp_path):
    clip = dict(clip_grad=dict(max_norm=10.0))
    runner = train(number_cfg(tmp_path, [1, 0, 2], optim_wrapper=momentum(**clip)))
    assert runner.model.weight.item() == -3.5
    (told,) = skips(runner)
    assert '  iteration 2 (epoch 1): loss 0, loss_w 0\n' in told
    assert told.endswith('  non-finite gradients: weight')


def test_infinity_counts_and_large_numbers_do_not(tmp_path):
    # The square of the gradient overflows.
    wrapper = dict(optimizer=dict(type='SGD', lr=1e-30))
    runner = train(number_cfg(tmp_path, [3e30, float('-inf'), -2e30], optim_wrapper=wrapper))
    assert runner.model.weight.item() == pytest.approx(-1)
    assert runner.message_hub.get_info('skipped_steps') == 1


def test_the_schedule_goes_on(tmp_path):
    scheduler = dict(type='LinearLR', start_factor=0.25, begin=0, end=3, by_epoch=False)
    runner = train(number_cfg(tmp_path, [1, NAN, 1, 1], param_scheduler=[scheduler]))
    # 1/4, (5/8 is skipped), 1, 1
    assert runner.model.weight.item() == -2.25
    rates, _ = runner.message_hub.get_scalar('train/lr').data
    assert rates.tolist() == [0.25, 0.625, 1, 1]


@pytest.mark.filterwarnings('error')
def test_a_first_step_that_is_skipped_does_not_upset_the_schedule(tmp_path):
    scheduler = dict(type='LinearLR', start_factor=0.25, begin=0, end=3, by_epoch=False)
    runner = train(number_cfg(tmp_path, [NAN, 1], param_scheduler=[scheduler]))
    assert runner.model.weight.item() == -0.625


def test_of_accumulated_batches_all_are_left_out(tmp_path):
    numbers = [1, 2, NAN, 4, 5, 6, 7, 0, 3]
    runner = train(number_cfg(tmp_path, numbers, optim_wrapper=momentum(accumulative_counts=2)))
    # (1 + 2) / 2; nan, 4; (5 + 6) / 2 + 1.5 / 2; 7 and bad gradients; 3 + 6.25 / 2 alone
    assert runner.model.weight.item() == -(1.5 + 6.25 + 6.125)
    assert runner.model.total.item() == 1 + 2 + 5 + 6 + 3
    assert runner.message_hub.get_info('skipped_steps') == 2


def test_buffers_are_clean_in_the_middle_of_a_step(tmp_path):
    cfg = number_cfg(
        tmp_path, [1, 1, NAN], epochs=2, optim_wrapper=dict(momentum(), accumulative_counts=4)
    )
    train(cfg)  # 3 iterations an epoch: the first is saved in the middle of a step
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert (saved['weight'].item(), saved['total'].item()) == (0, 0)


def test_enough_in_a_row_stops_the_run(tmp_path):
    cfg = number_cfg(tmp_path, [1, NAN, NAN, 2, NAN, NAN, NAN, 5])
    cfg.default_hooks.finite_steps = dict(type='SkipNonFiniteStepsHook', max_in_a_row=3)
    cfg.default_hooks.checkpoint.update(by_epoch=False)
    with pytest.raises(FloatingPointError) as caught:
        train(cfg)
    told = str(caught.value)
    assert told.startswith(
        'training stops at iteration 7 (epoch 1): loss or gradients were not finite in 3 steps in '
        'a row. All of them were skipped; the last one:\n'
        '  iteration 7 (epoch 1): loss nan, loss_w nan, loss_rest 1\n'
        '  images: 6 (6.jpg)\n'
        '  learning rate: 1; gradient clipping: off\n'
        'What helps: a lower learning rate (optim_wrapper.optimizer.lr'
    )
    assert told.endswith(f'the last is {tmp_path / "iter_6.pth"}.')
    last = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['state_dict']
    assert last['weight'].item() == -3


def test_ten_in_a_row_by_default(tmp_path):
    runner = train(number_cfg(tmp_path, [NAN] * 9 + [1] + [NAN] * 9))
    assert runner.model.weight.item() == -1
    with pytest.raises(FloatingPointError, match='iteration 10 .* in 10 steps in a row'):
        train(number_cfg(tmp_path, [NAN] * 20))


def test_many_are_told_now_and_then(tmp_path):
    runner = train(number_cfg(tmp_path, [NAN, 1] * 110))
    told = skips(runner)
    assert len(told) == 11  # the first ten, and number 100
    assert '100 in all' in told[-1]
    assert runner.message_hub.get_info('skipped_steps') == 110


def test_the_count_goes_on_in_a_resumed_run(tmp_path):
    train(number_cfg(tmp_path, [NAN, 1]))
    runner = train(number_cfg(tmp_path, [NAN, 1], epochs=2, resume=True))
    assert runner.message_hub.get_info('skipped_steps') == 2


def test_the_average_in_the_log_leaves_them_out(tmp_path):
    runner = train(number_cfg(tmp_path, [1, NAN, 1]))
    # loss_w is 0, then -1 at weight -1
    assert runner.message_hub.get_scalar('train/loss_w').mean(50) == -0.5
    assert runner.message_hub.get_scalar('train/skipped_steps').current() == 1


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_mixed_precision(tmp_path, dtype):
    wrapper = dict(type='AmpOptimWrapper', dtype=dtype, **momentum())
    if dtype == 'float16':
        wrapper['loss_scale'] = dict(init_scale=4.0)
    runner = train(number_cfg(tmp_path, [1, NAN, 2, 0, 4], optim_wrapper=wrapper))
    # The gradients that are not finite: left out by the hook, by the scaler of float16.
    assert runner.model.weight.item() == -(1 + 2.5 + 5.25)
    assert runner.message_hub.get_info('skipped_steps') == (2 if dtype == 'bfloat16' else 1)


def test_a_scale_that_falls_without_end_stops_the_run(tmp_path):
    wrapper = dict(
        type='AmpOptimWrapper', dtype='float16', loss_scale=dict(init_scale=4.0), **momentum()
    )
    with pytest.raises(FloatingPointError, match='overflow in float16 even without loss') as caught:
        train(number_cfg(tmp_path, [0] * 30, optim_wrapper=wrapper))
    # 4 -> 2 -> 1 by design, then ten below 1
    assert 'iteration 12 ' in str(caught.value)
    assert 'training without --amp' in str(caught.value)


@pytest.mark.parametrize('wrong', [0, -1, 'ten', 2.5])
def test_number_in_a_row(wrong):
    with pytest.raises(ValueError, match='max_in_a_row must be an integer of at least 1'):
        SkipNonFiniteStepsHook(wrong)


def test_the_wrapper_has_its_own_methods_back(tmp_path):
    runner = train(number_cfg(tmp_path, [1]))
    wrapper = runner.optim_wrapper
    assert wrapper.update_params.__func__ is type(wrapper).update_params
    assert wrapper.step.__func__ is type(wrapper).step


SCRIPT = """
import sys
from pathlib import Path
from mmengine.dist import all_gather, get_rank
from mmengine.logging import MMLogger
from tests.number_runs import NAN, number_cfg
from ghmdet.engine import build_runner
import torch

numbers = [1, 3, NAN, 5, 2, 4, 0, 6]  # rank 0 sees 1, nan, 2, 0; rank 1 sees 3, 5, 4, 6
changes = {'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 1.0, 'momentum': 0.5}}}
if sys.argv[2] == 'stop':
    numbers = [1, NAN] * 4  # of rank 1 only
    changes['custom_hooks'] = [dict(type='SkipNonFiniteStepsHook', max_in_a_row=3)]
runner = build_runner(number_cfg(sys.argv[1], numbers, launcher='pytorch', **changes))
try:
    runner.train()
except FloatingPointError as error:
    Path(f'{sys.argv[1]}.{get_rank()}').write_text(str(error))
model = runner.model.module
found = [all_gather(t.detach()) for t in (model.weight, model.total)]
if get_rank() == 0:
    print('weights', [w.item() for w in found[0]], 'totals', [t.item() for t in found[1]])
torch.distributed.destroy_process_group()
"""


def test_two_processes_skip_together(tmp_path):
    out = run_processes(SCRIPT, tmp_path, tmp_path / 'work', 'skip')
    # Mean gradients 2 and 3, with momentum 2 and 4; the losses nan | 5 and 0 | 6 are skipped.
    assert 'weights [-6.0, -6.0] totals [3.0, 7.0]' in out
    assert 'iteration 2 (epoch 1): loss nan' in out
    assert 'images: 2 (2.jpg)\n' in out  # of rank 0, which has no other
    assert '3 (3.jpg)' not in out


def test_two_processes_stop_together_and_tell_of_the_one(tmp_path):
    out = run_processes(SCRIPT, tmp_path, tmp_path / 'work', 'stop')
    for rank in (0, 1):
        told = (tmp_path / f'work.{rank}').read_text()
        assert told.startswith('training stops at iteration 3 (epoch 1)')
        assert told.count('images: ') == told.count('images: 5 (5.jpg)\n') == 1
    assert 'weights [0.0, 0.0] totals [0.0, 0.0]' in out

"""Steps whose loss or gradients are not finite: skipped, logged, and too many stop the run."""

from __future__ import annotations

import pytest
import torch

from ghmdet.engine.hooks.non_finite_steps import SkipNonFiniteStepsHook
from tests.number_runs import NAN, number_cfg, train
from tests.two_processes import run_processes

WARM_UP = [dict(type='LinearLR', start_factor=0.25, begin=0, end=3, by_epoch=False)]


def momentum(**more):
    return dict(optimizer=dict(type='SGD', lr=1.0, momentum=0.5), **more)


def amp(dtype, **more):
    return momentum(type='AmpOptimWrapper', dtype=dtype, **more)


def skips(runner):
    return [line for line in runner.lines if line.startswith('step skipped')]


@pytest.mark.parametrize(
    ('numbers', 'wrapper', 'weight', 'total', 'skipped'),
    [
        # Momentum 1, then 0.5 x 1 + 2 = 2.5.
        ([1, NAN, 2], momentum(), -3.5, 3, 1),
        # The square of the large gradients overflows.
        ([3e30, -float('inf'), -2e30], dict(optimizer=dict(type='SGD', lr=1e-30)), -1, 1e30, 1),
        # (1 + 2) / 2; nan, 4; (5 + 6) / 2 + 1.5 / 2; 7 and bad gradients; 3 + 6.25 / 2 alone
        (
            [1, 2, NAN, 4, 5, 6, 7, 0, 3],
            momentum(accumulative_counts=2),
            -(1.5 + 6.25 + 6.125),
            1 + 2 + 5 + 6 + 3,
            2,
        ),
        # Gradients that are not finite: skipped by the hook, or by the scaler of float16.
        ([1, NAN, 2, 0, 4], amp('bfloat16'), -(1 + 2.5 + 5.25), 7, 2),
        ([1, NAN, 2, 0, 4], amp('float16', loss_scale=dict(init_scale=4.0)), -8.75, 7, 1),
        ([NAN] * 9 + [1] + [NAN] * 9, momentum(), -1, 1, 18),  # at most 9 in a row
    ],
)
def test_a_step_is_as_if_it_had_not_been(tmp_path, numbers, wrapper, weight, total, skipped):
    runner = train(number_cfg(tmp_path, numbers, optim_wrapper=wrapper))
    assert runner.model.weight.item() == pytest.approx(weight)
    assert runner.model.total.item() == pytest.approx(total)
    assert runner.message_hub.get_info('skipped_steps') == skipped
    assert runner.lines[-1] == (
        f'{skipped} of {len(numbers)} iterations ended in a skipped step, because the loss or '
        'gradients were not finite'
    )
    wrapper = runner.optim_wrapper  # has its own methods back
    assert wrapper.update_params.__func__ is type(wrapper).update_params
    assert wrapper.step.__func__ is type(wrapper).step


def test_the_message_of_a_skipped_step(tmp_path):
    runner = train(number_cfg(tmp_path, [1, 2, NAN, 4], batch_size=2))
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
    (text,) = skips(runner)
    assert '  iteration 2 (epoch 1): loss 0, loss_w 0\n' in text
    assert text.endswith('  non-finite gradients: weight')


@pytest.mark.filterwarnings('error:Detected call of')
@pytest.mark.parametrize(
    ('numbers', 'weight', 'rates'),
    [([1, NAN, 1, 1], -2.25, [0.25, 0.625, 1, 1]), ([NAN, 1], -0.625, [0.25, 0.625])],
)
def test_the_schedule_advances(tmp_path, numbers, weight, rates):
    runner = train(number_cfg(tmp_path, numbers, param_scheduler=WARM_UP))
    assert runner.model.weight.item() == weight
    assert runner.message_hub.get_scalar('train/lr').data[0].tolist() == rates


def test_buffers_are_clean_in_the_middle_of_a_step(tmp_path):
    cfg = number_cfg(tmp_path, [1, 1, NAN], 2, optim_wrapper=momentum(accumulative_counts=4))
    train(cfg)  # 3 iterations per epoch: the first is saved in the middle of a step
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert (saved['weight'].item(), saved['total'].item()) == (0, 0)


def test_too_many_in_a_row_stop_the_run(tmp_path):
    cfg = number_cfg(tmp_path, [1, NAN, NAN, 2, NAN, NAN, NAN, 5])
    cfg.default_hooks.finite_steps = dict(type='SkipNonFiniteStepsHook', max_in_a_row=3)
    cfg.default_hooks.checkpoint.update(by_epoch=False)
    with pytest.raises(FloatingPointError) as caught:
        train(cfg)
    text = str(caught.value)
    assert text.startswith(
        'training stops at iteration 7 (epoch 1): loss or gradients were not finite in 3 steps in '
        'a row. All of them were skipped; the last one:\n'
        '  iteration 7 (epoch 1): loss nan, loss_w nan, loss_rest 1\n'
        '  images: 6 (6.jpg)\n'
        '  learning rate: 1; gradient clipping: off\n'
        'What helps: a lower learning rate (optim_wrapper.optimizer.lr'
    )
    assert text.endswith(f'the last is {tmp_path / "iter_6.pth"}.')
    last = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['state_dict']
    assert last['weight'].item() == -3


@pytest.mark.parametrize(
    ('number', 'wrapper', 'facts'),
    [
        (NAN, momentum(), ['iteration 10 (epoch 1)', 'in 10 steps in a row']),
        (
            0,  # the scale falls from 4 to 2 to 1 by design, then ten times below 1
            amp('float16', loss_scale=dict(init_scale=4.0)),
            ['iteration 12 ', 'overflow in float16 even without loss', 'training without --amp'],
        ),
    ],
)
def test_ten_in_a_row_by_default(tmp_path, number, wrapper, facts):
    with pytest.raises(FloatingPointError) as caught:
        train(number_cfg(tmp_path, [number] * 20, optim_wrapper=wrapper))
    for fact in facts:
        assert fact in str(caught.value)


def test_many_are_logged_now_and_then_and_counted_on_in_a_resumed_run(tmp_path):
    runner = train(number_cfg(tmp_path, [NAN, 1] * 110))
    assert len(skips(runner)) == 11  # the first ten, and number 100
    assert '100 in all' in skips(runner)[-1]
    runner = train(number_cfg(tmp_path, [NAN, 1] * 110, epochs=2, resume=True))
    assert runner.message_hub.get_info('skipped_steps') == 220


def test_the_average_in_the_log_leaves_them_out(tmp_path):
    runner = train(number_cfg(tmp_path, [1, NAN, 1]))
    # loss_w is 0, then -1 at weight -1
    assert runner.message_hub.get_scalar('train/loss_w').mean(50) == -0.5
    assert runner.message_hub.get_scalar('train/skipped_steps').current() == 1


@pytest.mark.parametrize('wrong', [0, -1, 'ten', 2.5])
def test_number_in_a_row(wrong):
    with pytest.raises(ValueError, match='max_in_a_row must be an integer of at least 1'):
        SkipNonFiniteStepsHook(wrong)


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
    print(type(runner.model).__name__)
torch.distributed.destroy_process_group()
"""


def test_two_processes_skip_together(tmp_path):
    out = run_processes(SCRIPT, tmp_path, tmp_path / 'work', 'skip')
    # Mean gradients 2 and 3, with momentum 2 and 4; the losses nan | 5 and 0 | 6 are skipped.
    assert 'weights [-6.0, -6.0] totals [3.0, 7.0]\nMMDistributedDataParallel' in out
    assert 'iteration 2 (epoch 1): loss nan' in out
    assert 'images: 2 (2.jpg)\n' in out  # of rank 0, which has no other
    assert '3 (3.jpg)' not in out


def test_two_processes_stop_together_and_name_the_image_of_one(tmp_path):
    out = run_processes(SCRIPT, tmp_path, tmp_path / 'work', 'stop')
    for rank in (0, 1):
        text = (tmp_path / f'work.{rank}').read_text()
        assert text.startswith('training stops at iteration 3 (epoch 1)')
        assert text.count('images: ') == text.count('images: 5 (5.jpg)\n') == 1
    assert 'weights [0.0, 0.0] totals [0.0, 0.0]' in out

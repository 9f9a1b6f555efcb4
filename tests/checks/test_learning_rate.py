"""The linear scaling rule: what it gives, and when it is applied."""

import pytest
from mmengine.config import Config

from ghmdet.checks.learning_rate import check_auto_scale_lr, find_reference
from ghmdet.engine.runner import scale_lr
from tests.number_runs import number_cfg, train

SGD = dict(type='SGD', lr=0.1)


def rates(runner):
    return runner.message_hub.get_scalar('train/lr').data[0].tolist()


def scaled(folder, base, accumulated=1, **changes):
    """A config of 2 images per batch."""
    settings = dict(auto_scale_lr=dict(enable=True, base_batch_size=base))
    settings['optim_wrapper'] = dict(optimizer=SGD, accumulative_counts=accumulated)
    return number_cfg(folder, [1] * 4, batch_size=2, **(settings | changes))


# 1 process x 2 images, and x 4 batches
@pytest.mark.parametrize(('base', 'accumulated', 'factor'), [(8, 1, 0.25), (16, 4, 0.5)])
def test_scaling(tmp_path, base, accumulated, factor):
    runner = train(scaled(tmp_path, base, accumulated))
    assert rates(runner) == [0.1 * factor] * 2
    assert runner.scale_lr.func is scale_lr
    assert type(runner).scale_lr is not scale_lr  # other Runners keep mmengine's


def test_all_groups_are_scaled(tmp_path):
    paramwise = dict(custom_keys={'weight': dict(lr_mult=0.1)})
    wrapper = dict(optimizer=SGD, paramwise_cfg=paramwise)
    runner = train(scaled(tmp_path, 4, optim_wrapper=wrapper))
    (group,) = runner.optim_wrapper.optimizer.param_groups
    assert group['lr'] == pytest.approx(0.1 * 0.1 / 2)


SCHEDULES = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=4, milestones=[1, 3], gamma=0.1),
]


@pytest.mark.parametrize('schedules', [SCHEDULES, None])
def test_a_resumed_run_is_not_scaled_again(tmp_path, schedules):
    def run(folder, epochs, **more):
        more['param_scheduler'] = schedules
        return train(scaled(tmp_path / folder, 16, 2, epochs=epochs, **more))

    whole = run('whole', 4)
    run('parts', 2)
    parts = run('parts', 4, resume=True)
    expected = rates(whole)
    assert len(expected) == 8
    assert expected[0] == pytest.approx(0.1 * 4 / 16 * (0.1 if schedules else 1))
    assert rates(parts) == expected  # the first half comes with the checkpoint
    assert parts.model.weight.item() == whole.model.weight.item()


@pytest.mark.parametrize('base', [0, -16, None, '16', True, float('nan')])
def test_an_invalid_base_batch_size(base):
    with pytest.raises(ValueError, match='a positive number of images in auto_scale_lr.base_batch'):
        check_auto_scale_lr(dict(enable=True, base_batch_size=base), '--auto-scale-lr')


def test_missing_keys(tmp_path):
    with pytest.raises(ValueError, match=r'e=True needs auto_scale_lr\.base_batch_size in the'):
        train(scaled(tmp_path, 16, auto_scale_lr=dict(enable=True)))
    with pytest.raises(ValueError, match=r'x needs auto_scale_lr\.enable and auto_scale_lr\.base'):
        check_auto_scale_lr(None, 'x')


BASE = """
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02))
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""
OWN_RATE = 'optim_wrapper = dict(optimizer=dict(lr=0.0025))'
OTHER = "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4))"
RATE, SIZE = 'optim_wrapper.optimizer.lr', 'auto_scale_lr.base_batch_size'


@pytest.mark.parametrize(
    ('text', 'options', 'rate', 'expected'),
    [
        ('', {}, 0.02, (0.02, 16, '')),
        (OWN_RATE, {}, 0.0025, (0.02, 16, 'base.py')),
        (f'{OWN_RATE}\nauto_scale_lr = dict(base_batch_size=2)', {}, 0.0025, (0.0025, 2, '')),
        (OTHER, {}, 1e-4, (1e-4, 16, '')),  # the rate of another optimizer is no reference
        ('auto_scale_lr = None', {}, 0.02, None),
        ('auto_scale_lr = dict(base_batch_size=0)', {}, 0.02, None),
        ('', {RATE: 0.1}, 0.1, (0.02, 16, 'base.py')),  # from the command line
        ('', {RATE: 0.1, SIZE: 4}, 0.1, (0.1, 4, '')),
    ],
)
def test_reference(tmp_path, monkeypatch, text, options, rate, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'child.py').write_text(f"_base_ = 'base.py'\n{text}")
    cfg = Config.fromfile('child.py')
    cfg.merge_from_dict(options)
    assert find_reference(cfg, rate) == expected


def test_reference_without_a_file():
    assert find_reference(Config({'auto_scale_lr': {'base_batch_size': 3}}), 0.5) == (0.5, 3, '')
    assert find_reference(Config(), 0.5) is None

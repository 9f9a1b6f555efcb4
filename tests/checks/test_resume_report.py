"""What a resumed run says of itself."""

from __future__ import annotations

from tests.number_runs import number_cfg, train


def resumed_lines(tmp_path, schedule=None, **changes):
    """Warnings and the line of a run that is resumed with another config."""
    first = number_cfg(tmp_path, [1, 1], epochs=1, **FIRST)
    train(first)
    cfg = number_cfg(tmp_path, [1, 1], epochs=2, resume=True, log_level='INFO', **FIRST)
    cfg.merge_from_dict(changes)
    if schedule is not None:
        cfg.param_scheduler = schedule
    lines = train(cfg).lines
    wanted = ('resuming from', 'of the checkpoint goes on', 'in param_scheduler', 'no state of')
    return [line for line in lines if any(text in line for text in wanted)]


FIRST = dict(
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.0)),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=3),
        dict(type='MultiStepLR', milestones=[8, 11], by_epoch=True, begin=0, end=12),
    ],
)
REST = 'of the config is not used. To use it, start anew from the weights with load_from.'


def test_the_same_settings_give_one_line(tmp_path):
    assert resumed_lines(tmp_path) == [
        f'resuming from {tmp_path}/epoch_1.pth after epoch 1, iteration 2, learning rate 1'
    ]


def test_settings_that_the_checkpoint_overrules(tmp_path):
    steps = dict(FIRST['param_scheduler'][1], milestones=[16, 22], gamma=0.5)
    assert resumed_lines(
        tmp_path,
        [FIRST['param_scheduler'][0], steps],
        **{'optim_wrapper.optimizer.lr': 0.25, 'optim_wrapper.optimizer.weight_decay': 0.125},
    ) == [
        f'resuming from {tmp_path}/epoch_1.pth after epoch 1, iteration 2, learning rate 1 of '
        "the checkpoint, not the config's 0.25",
        f'weight_decay of the optimizer: 0.0 of the checkpoint goes on; 0.125 {REST}',
        f'param_scheduler.1.gamma (MultiStepLR): 0.1 of the checkpoint goes on; 0.5 {REST}',
        'param_scheduler.1.milestones (MultiStepLR): [8, 11] of the checkpoint goes on; [16, 22] '
        f'{REST}',
    ]


def test_a_schedule_more(tmp_path):
    more = dict(type='ConstantLR', factor=0.5, begin=0, end=2, by_epoch=True)
    assert resumed_lines(tmp_path, [*FIRST['param_scheduler'], more])[1:] == [
        'the config has 3 entries in param_scheduler, the checkpoint 2: those of the same place go '
        'on, the others begin anew or are dropped'
    ]


def test_a_checkpoint_without_the_optimizer(tmp_path):
    cfg = number_cfg(tmp_path, [1, 1], epochs=1)
    cfg.default_hooks.checkpoint.save_optimizer = False
    train(cfg)
    lines = train(number_cfg(tmp_path, [1, 1], epochs=2, resume=True)).lines
    assert (
        f'{tmp_path}/epoch_1.pth has no state of the optimizer (default_hooks.checkpoint.'
        'save_optimizer): it begins anew, with the settings of the config'
    ) in lines

"""Weights that are not finite are neither saved nor trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from ghmdet.registry import HOOKS
from tests.number_runs import NAN, NumberModel, number_cfg, train


@HOOKS.register_module(force=True)
class SpoilHook(Hook):
    """Puts a number into a tensor after an iteration, as a kernel with a fault might do."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration, name='weight', value=NAN, moment='after_train_iter'):
        self.iteration, self.name, self.value, self.moment = iteration, name, value, moment

    def _spoil(self, runner, moment):
        if moment == self.moment and runner.iter >= self.iteration - 1:
            getattr(runner.model, self.name).data.fill_(self.value)

    def after_train_iter(self, runner, *_, **__):
        self._spoil(runner, 'after_train_iter')

    def before_val(self, runner):
        self._spoil(runner, 'before_val')


def spoiled(tmp_path, checkpoint, **spoil):
    cfg = number_cfg(tmp_path, [1, 1], epochs=3, custom_hooks=[dict(type='SpoilHook', **spoil)])
    cfg.default_hooks.checkpoint.update(checkpoint)
    loader = dict(cfg.train_dataloader)
    cfg.val_dataloader, cfg.val_cfg = loader, dict(type='ValLoop')
    cfg.val_evaluator = dict(type='RisingMetric')
    return cfg


def left(folder):
    return sorted(file.name for file in Path(folder).glob('*.pth'))


def saved(file):
    return torch.load(file, weights_only=False)['state_dict']['weight'].item()


def test_the_last_good_file_stays_the_last(tmp_path):
    cfg = spoiled(tmp_path, dict(max_keep_ckpts=1), iteration=4)
    with pytest.raises(FloatingPointError) as caught:
        train(cfg)
    # mmengine would have removed epoch_1.pth to make room.
    assert left(tmp_path) == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert saved(tmp_path / 'epoch_1.pth') == -2
    assert str(caught.value).startswith(
        'the weights are not finite at iteration 4, so they are not saved: weight (1 of 1 values). '
        f'The last good checkpoint is {tmp_path / "epoch_1.pth"}; resume from it with --resume'
    )


@pytest.mark.parametrize(
    ('checkpoint', 'spoil', 'message', 'files'),
    [
        (
            dict(by_epoch=False, interval=2, max_keep_ckpts=1),
            dict(iteration=3),
            'iteration 3, so they are not saved: weight',
            ['iter_2.pth'],
        ),
        (  # the best of epoch 1 is not removed for a better one that cannot be saved
            dict(save_best='up', rule='greater'),
            dict(iteration=4, moment='before_val'),
            'iteration 4, so they are not saved: weight',
            ['best_up_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth'],
        ),
        (
            {},
            dict(iteration=3, name='total', value=float('inf')),
            r'not saved: total \(1 of 1 values\)',
            ['epoch_1.pth'],
        ),
    ],
)
def test_by_iteration_the_best_and_buffers(tmp_path, checkpoint, spoil, message, files):
    with pytest.raises(FloatingPointError, match=message):
        train(spoiled(tmp_path, checkpoint, **spoil))
    assert left(tmp_path) == files
    assert saved(tmp_path / files[0]) == -2


def test_moving_averages(tmp_path):
    cfg = spoiled(tmp_path, {}, iteration=1)
    cfg.custom_hooks = [dict(type='EMAHook'), dict(type='SpoilEMAHook')]

    @HOOKS.register_module(name='SpoilEMAHook', force=True)
    class SpoilEMAHook(Hook):
        def after_train_iter(self, runner, *_, **__):
            ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
            ema.ema_model.module.weight.data.fill_(NAN)

    with pytest.raises(FloatingPointError, match='not finite'):
        train(cfg)
    assert left(tmp_path) == []


def test_a_mask_may_be_infinite(tmp_path, monkeypatch):
    before = NumberModel.__init__

    def with_mask(self):
        before(self)
        self.register_buffer('mask', torch.tensor([0, float('-inf')]))

    monkeypatch.setattr(NumberModel, '__init__', with_mask)
    train(number_cfg(tmp_path, [1]))
    assert left(tmp_path) == ['epoch_1.pth']


def test_a_checkpoint_that_is_bad_already(tmp_path):
    train(number_cfg(tmp_path, [1]))
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    checkpoint['state_dict']['weight'][0] = NAN
    torch.save(checkpoint, tmp_path / 'bad.pth')
    cfg = number_cfg(tmp_path / 'second', [1], load_from=str(tmp_path / 'bad.pth'))
    message = r'before the first step: weight \(1 of 1 values\). They come from .*bad\.pth'
    with pytest.raises(FloatingPointError, match=message):
        train(cfg)

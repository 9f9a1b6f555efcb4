"""What GHMStatsHook writes, and that nothing is kept in other steps."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

from ghmdet.engine.hooks import ghm_stats as ghm_stats_hook
from ghmdet.engine.hooks.ghm_stats import (
    GHMStatsHook,
)
from ghmdet.losses import GHMC, GHMR, FocalLoss


class TwoLevels(BaseModel):
    """Calls GHM-C twice a step, as for two levels of a pyramid: easy entries, then hard ones."""

    def __init__(self, loss_cls=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.loss_cls = loss_cls or GHMC(bins=2, momentum=0.5, loss_weight=7.0)
        self.recorded = []

    def forward(self, inputs, mode='loss'):
        self.recorded.append(getattr(self.loss_cls, 'bin_records', None) is not None)
        background = torch.ones(4, dtype=torch.int64)
        easy = self.loss_cls(self.weight + torch.full((4, 1), -3.0), background, torch.ones(4))
        hard = self.loss_cls(
            self.weight + torch.tensor([[3.0], [-3.0]]), background[:2], torch.ones(2)
        )
        return dict(loss_cls=[easy, hard])


def train(folder, model, hook, steps=4):
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=[torch.zeros(1)] * steps,
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        custom_hooks=[hook],
        visualizer=dict(
            type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name=uuid4().hex
        ),
        experiment_name=uuid4().hex,
        log_level='ERROR',
    )
    runner.train()
    return runner


def read_lines(folder, runner):
    file = folder / runner.timestamp / 'vis_data' / f'{runner.timestamp}.json'
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if any(key.startswith('ghm/') for key in line)]


def test_scalars_worked_by_hand(tmp_path):
    model = TwoLevels()
    runner = train(tmp_path, model, GHMStatsHook(interval=2))
    assert model.recorded == [False, True, False, True]
    assert model.loss_cls.bin_records is None
    lines = read_lines(tmp_path, runner)
    assert [line['step'] for line in lines] == [2, 4]
    first = {k: v for k, v in lines[0].items() if k != 'step'}
    # Running counts of the easy bin: 2, 1.5, then 2.75 and 1.875; of the hard one 0.5, then 0.75.
    # In the second step a level of 4 entries in one bin, then one of 2 in two bins.
    assert first == {
        'ghm/loss_cls/bin_00': 5,
        'ghm/loss_cls/bin_01': 1,
        'ghm/loss_cls/non_empty_bins': 2,
        'ghm/loss_cls/max_weight': pytest.approx(4 / 2.75),
        'ghm/loss_cls/acc_sum_00': 1.875,
        'ghm/loss_cls/acc_sum_01': 0.75,
    }


def test_several_losses_and_no_momentum(tmp_path):
    model = TwoLevels()
    model.bbox_head = torch.nn.Module()
    model.bbox_head.loss_bbox = GHMR(bins=2)  # never called
    model.loss_cls = GHMC(bins=2)
    keys = set(read_lines(tmp_path, train(tmp_path, model, GHMStatsHook(interval=4)))[0])
    assert keys == {
        'step',
        *(f'ghm/loss_cls/{key}' for key in ('bin_00', 'bin_01', 'non_empty_bins', 'max_weight')),
    }


def test_losses_of_one_name_keep_their_paths(tmp_path):
    model = TwoLevels()
    model.aux = torch.nn.Module()
    model.aux.loss_cls = model.loss_cls.__class__()
    hook = GHMStatsHook()
    runner = train(tmp_path, model, hook, steps=1)
    assert sorted(hook._losses) == ['aux.loss_cls', 'loss_cls']
    assert read_lines(tmp_path, runner) == []


def test_a_model_without_ghm_gets_a_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(ghm_stats_hook, 'print_log', lambda text, **_: said.append(text))
    train(tmp_path, TwoLevels(FocalLoss()), GHMStatsHook(interval=1))
    assert [text[:62] for text in said] == [
        'GHMStatsHook has nothing to write: the model has no GHM loss ('
    ]


@pytest.mark.parametrize('interval', [0, -1, 1.5, True, '50', None])
def test_interval_is_checked(interval):
    message = f'GHMStatsHook.interval must be an integer of at least 1, got {interval!r}'
    with pytest.raises(ValueError, match=message):
        GHMStatsHook(interval=interval)

"""What GHMStatsHook writes, and that nothing is kept in other steps."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.visualization.vis_backend import BaseVisBackend

from ghmdet.engine import build_runner
from ghmdet.engine.hooks.ghm_stats import GHMStatsHook
from ghmdet.registry import MODELS, VISBACKENDS
from tests.number_runs import number_cfg, own_scope
from tests.number_runs import train as train_number


class TwoLevels(BaseModel):
    """Calls GHM-C twice a step, as for two levels of a pyramid: easy entries, then hard ones."""

    def __init__(self, loss_cls, **unused):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.loss_cls = MODELS.build(loss_cls)
        self.aux = torch.nn.ModuleDict({k: MODELS.build(loss) for k, loss in unused.items()})
        self.recorded = []

    def forward(self, inputs, data_samples, mode='loss'):
        self.recorded.append(getattr(self.loss_cls, 'bin_records', None) is not None)
        background = torch.ones(4, dtype=torch.int64)
        logits = (torch.full((4, 1), -3.0), torch.tensor([[3.0], [-3.0]]))
        entries = [(self.weight + x, background[: len(x)], torch.ones(len(x))) for x in logits]
        return dict(loss_cls=[self.loss_cls(*each) for each in entries])


def train(folder, interval=50, steps=4, **losses):
    return train_number(config(folder, interval, steps, **losses))


def config(folder, interval=50, steps=4, **losses):
    cfg = number_cfg(folder, [0] * steps)
    cfg.custom_hooks = [dict(type='GHMStatsHook', interval=interval)]
    default = dict(type='GHMC', bins=2, momentum=0.5, loss_weight=7.0)
    cfg.model = dict(type=TwoLevels, **{'loss_cls': default, **losses})
    cfg.optim_wrapper.optimizer.lr = 0.0
    return cfg


def read_lines(folder, runner):
    file = folder / runner.timestamp / 'vis_data' / f'{runner.timestamp}.json'
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if any(key.startswith('ghm/') for key in line)]


def test_scalars_worked_by_hand(tmp_path):
    runner = train(tmp_path, interval=2)
    assert runner.model.recorded == [False, True, False, True]
    assert runner.model.loss_cls.bin_records is None
    lines = read_lines(tmp_path, runner)
    assert [line['step'] for line in lines] == [2, 4]
    # Running counts of the easy bin: 2, 1.5, then 2.75 and 1.875; of the hard one 0.5, then 0.75.
    # In the second step a level of 4 entries in one bin, then one of 2 in two bins.
    assert lines[0] == {
        'step': 2,
        'ghm/loss_cls/bin_00': 5,
        'ghm/loss_cls/bin_01': 1,
        'ghm/loss_cls/non_empty_bins': 2,
        'ghm/loss_cls/max_weight': pytest.approx(4 / 2.75),
        'ghm/loss_cls/acc_sum_00': 1.875,
        'ghm/loss_cls/acc_sum_01': 0.75,
    }


@VISBACKENDS.register_module(force=True)
class OtherTracker(BaseVisBackend):
    got: list = []

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        self.got.append((step, scalar_dict))

    def add_histogram(self, name, counts, step):
        self.got.append((name, counts, step))


def test_trackers_get_a_histogram_and_two_numbers(tmp_path):
    cfg = config(tmp_path, interval=4)
    backends = [dict(type='LocalVisBackend'), OtherTracker(str(tmp_path))]
    cfg.visualizer = dict(type='DetLocalVisualizer', vis_backends=backends[:1])
    with own_scope():
        runner = build_runner(cfg)
        runner.visualizer._vis_backends['other'] = backends[1]
        runner.train()
    weight = read_lines(tmp_path, runner)[0]['ghm/loss_cls/max_weight']
    numbers = {'ghm/loss_cls/non_empty_bins': 2, 'ghm/loss_cls/max_weight': weight}
    assert OtherTracker.got[:2] == [('ghm/loss_cls/bins', [5, 1], 4), (4, numbers)]


def test_several_losses_and_no_momentum(tmp_path):
    losses = dict(loss_cls=dict(type='GHMC', bins=2), loss_bbox=dict(type='GHMR', bins=2))
    (line,) = read_lines(tmp_path, train(tmp_path, 4, **losses))  # the second is never called
    assert sorted(line) == [
        *(f'ghm/loss_cls/{key}' for key in ('bin_00', 'bin_01', 'max_weight', 'non_empty_bins')),
        'step',
    ]


def test_losses_of_one_name_keep_their_paths(tmp_path):
    runner = train(tmp_path, steps=1, extra=dict(type='GHMC'))
    hook = next(hook for hook in runner.hooks if isinstance(hook, GHMStatsHook))
    assert sorted(hook._losses) == ['extra', 'loss_cls']
    runner.model.aux['loss_cls'] = runner.model.aux.pop('extra')
    hook.before_train(runner)
    assert sorted(hook._losses) == ['aux.loss_cls', 'loss_cls']
    assert read_lines(tmp_path, runner) == []


def test_a_model_without_ghm_gets_a_warning(tmp_path):
    runner = train(tmp_path, loss_cls=dict(type='FocalLoss'))
    text = 'GHMStatsHook has nothing to write: the model has no GHM loss ('
    assert len([line for line in runner.lines if line.startswith(text)]) == 1


@pytest.mark.parametrize('interval', [0, -1, 1.5, True, '50', None])
def test_interval_is_checked(interval):
    message = f'GHMStatsHook.interval must be an integer of at least 1, got {interval!r}'
    with pytest.raises(ValueError, match=message):
        GHMStatsHook(interval=interval)

"""What is forgotten of the logged numbers, and that the log does not show it."""

from __future__ import annotations

import copy
import json
import re
from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.runner import LogProcessor, Runner
from mmengine.structures import BaseDataElement

from ghmdet.engine.hooks import log_values
from ghmdet.engine.hooks.log_values import (
    LogHistoryHook,
    PeakMemoryHook,
)
from ghmdet.engine.hooks.non_finite_steps import (
    SkipNonFiniteStepsHook,
)
from ghmdet.registry import HOOKS
from tests.checks import test_start_check as start


class Wavy(BaseModel):
    """A loss that is another one at each step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps = 0

    def forward(self, inputs, mode='loss'):
        if mode == 'predict':
            return [BaseDataElement()]
        self.steps += 1
        wave = torch.sin(torch.tensor(self.steps * 0.7))
        return dict(loss_cls=self.weight.sum() + wave + 2, loss_bbox=self.weight.sum() * 0 + 0.1)


class Rising(BaseMetric):
    """0.5, 1.5, ... at each validation, also under a name that is averaged."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.value = getattr(self, 'value', -0.5) + 1
        return dict(mAP=self.value, loss=self.value)


class LongMemory(Hook):
    """Keeps all values that are logged, and asks at each log for the same line from them."""

    def __init__(self, monkeypatch):
        self.hub = MessageHub(uuid4().hex)
        self.compared = []
        remember = self.hub.update_scalar
        update, hub = MessageHub.update_scalar, self.hub

        def update_both(hub_of_run, key, value, count=1, resumed=True):
            update(hub_of_run, key, value, count, resumed)
            if hub_of_run is not hub:
                remember(key, value, count, resumed)

        monkeypatch.setattr(MessageHub, 'update_scalar', update_both)
        for name in ('get_log_after_iter', 'get_log_after_epoch'):
            self.compare(monkeypatch, name, getattr(LogProcessor, name))

    def compare(self, monkeypatch, name, original):
        def both(processor, runner, *args, **kwargs):
            known = copy.copy(runner)
            known.message_hub = self.hub
            self.hub._runtime_info = runner.message_hub.runtime_info
            found = original(processor, runner, *args, **kwargs)
            self.compared.append((found, original(processor, known, *args, **kwargs)))
            return found

        monkeypatch.setattr(LogProcessor, name, both)


def make_runner(folder, hooks, max_epochs=6, resume=False, **log_processor):
    loader = dict(num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    return Runner(
        model=Wavy(),
        work_dir=str(folder),
        train_dataloader=dict(dataset=[torch.zeros(1)] * 5, batch_size=1, **loader),
        val_dataloader=dict(dataset=[torch.zeros(1)] * 4, batch_size=1, **loader),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        val_cfg=dict(),
        val_evaluator=[Rising()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2, ignore_last=False)),
        custom_hooks=hooks,
        log_processor=dict(type='LogProcessor', by_epoch=True, **log_processor),
        experiment_name=uuid4().hex,
        log_level='ERROR',
        resume=resume,
    )


def lengths_of(runner):
    return {key: len(buffer.data[0]) for key, buffer in runner.message_hub.log_scalars.items()}


EPOCH = dict(data_src='loss', method_name='mean', window_size='epoch')
CUSTOM = {
    'window_size': [],
    'a wider window': [
        dict(data_src='loss', log_name='wide', method_name='max', window_size=7),
        dict(data_src='loss', log_name='now', method_name='current'),
    ],
    'epoch': [EPOCH, dict(data_src='time', method_name='min', window_size='epoch')],
    'global': [dict(data_src='loss', log_name='all', method_name='mean', window_size='global')],
    'no window': [dict(data_src='loss_cls', log_name='best', method_name='min')],
}
# Of 30 training steps. An epoch has 5; mmengine averages over one more of a validation.
KEPT = {'window_size': 6, 'a wider window': 7, 'epoch': 6, 'global': 30, 'no window': 30}


@pytest.mark.parametrize('hierarchy', [False, True])
@pytest.mark.parametrize('case', CUSTOM)
def test_the_log_is_that_of_a_run_that_forgets_nothing(tmp_path, monkeypatch, case, hierarchy):
    memory = LongMemory(monkeypatch)
    runner = make_runner(
        tmp_path,
        [LogHistoryHook(keep=1)],
        window_size=3,
        custom_cfg=CUSTOM[case],
        log_with_hierarchy=hierarchy,
    )
    runner.train()
    # Of each epoch training steps 2, 4, 5, validation steps 2, 4 and what came out are logged.
    assert len(memory.compared) == 6 * (3 + 2 + 1)
    for found, expected in memory.compared:
        assert found == expected
    kept = ('train/loss', 'train/lr', 'train/time')
    assert [lengths_of(runner)[key] for key in kept] == [KEPT[case]] * 3
    complete = {key: len(buffer.data[0]) for key, buffer in memory.hub.log_scalars.items()}
    assert (complete['train/loss'], complete['val/time'], complete['val/mAP']) == (30, 24, 6)


def test_window_sizes_that_mean_all_values(tmp_path):
    custom = [dict(data_src='loss', method_name='mean', window_size=0)]
    runner = make_runner(tmp_path, [LogHistoryHook(keep=1)], window_size=3, custom_cfg=custom)
    runner.train()
    assert lengths_of(runner)['train/loss'] == 30


def test_a_log_processor_of_another_class_keeps_everything(tmp_path):
    class Own(LogProcessor):
        pass

    runner = make_runner(tmp_path, [LogHistoryHook(keep=1)], window_size=3)
    runner.log_processor = Own(window_size=3)
    runner.train()
    assert lengths_of(runner)['train/loss'] == 30


def test_numbers_that_are_not_logged_are_bounded_too(tmp_path):
    class Notes(Hook):
        def after_train_iter(self, runner, *_, **__):
            runner.message_hub.update_scalar('own', float(runner.iter))

    runner = make_runner(tmp_path, [LogHistoryHook(keep=7), Notes()], window_size=3)
    runner.train()
    assert runner.message_hub.get_scalar('own').data[0].tolist() == [
        23.0,
        24.0,
        25.0,
        26.0,
        27.0,
        28.0,
        29.0,
    ]


def test_histories_of_a_resumed_checkpoint_are_cut(tmp_path):
    runner = make_runner(tmp_path, [], max_epochs=4, window_size=3)
    runner.train()
    assert lengths_of(runner)['train/loss'] == 20
    last = runner.message_hub.get_scalar('train/loss').data[0].tolist()[-7:]
    hub = MessageHub(uuid4().hex)
    hub.load_state_dict(runner.message_hub.state_dict())
    hub.update_scalar('train/gone', 1.0)  # which the resumed run does not update any more
    hub.log_scalars['train/gone'] = HistoryBuffer([1.0] * 9, [1] * 9)
    runner.message_hub = hub
    LogHistoryHook(keep=7).before_train(runner)
    history = hub.get_scalar('train/loss')
    assert history.data[0].tolist() == last
    assert history.data[1].tolist() == [1] * 7
    history.update(9.0)
    assert history.data[0].tolist() == [*last[1:], 9.0]
    assert lengths_of(runner)['train/gone'] == 7


def test_a_resumed_run_with_a_wider_window_keeps_more(tmp_path):
    make_runner(tmp_path, [LogHistoryHook(keep=1)], max_epochs=4, window_size=3).train()
    runner = make_runner(tmp_path, [LogHistoryHook(keep=1)], window_size=8, resume=True)
    runner.train()
    assert runner.iter == 30
    assert lengths_of(runner)['train/loss'] == 8
    custom = CUSTOM['global']
    runner = make_runner(
        tmp_path, [LogHistoryHook(keep=1)], max_epochs=8, custom_cfg=custom, resume=True
    )
    runner.train()
    assert lengths_of(runner)['train/loss'] == 8 + 10


def test_more_is_kept_than_steps_are_skipped_in_a_row():
    assert LogHistoryHook().keep > SkipNonFiniteStepsHook().max_in_a_row


@pytest.mark.parametrize('keep', [0, -1, 1.5, True, '50', None])
def test_keep_is_checked(keep):
    message = f'LogHistoryHook.keep must be an integer of at least 1, got {keep!r}'
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='LogHistoryHook', keep=keep))


def test_peak_memory_stands_in_the_log_line_and_in_the_scalars(tmp_path, monkeypatch):
    peaks = iter([300, 700, 500])
    monkeypatch.setattr(log_values, '_memory_mb', lambda: next(peaks))
    runner = start.make_runner(tmp_path, start.loader(), test=start.loader())
    runner.register_hook(PeakMemoryHook())
    lines = []
    monkeypatch.setattr(runner.logger, 'info', lines.append)
    next(h for h in runner.hooks if isinstance(h, LoggerHook)).interval = 1
    runner.train()
    logged = [line for line in lines if 'peak_memory: ' in line]
    assert [re.search(r'peak_memory: (\d+)', line)[1] for line in logged] == ['300', '700']
    scalars = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert [json.loads(line)['peak_memory'] for line in scalars] == [300, 700]
    assert runner.test() == {'n': 2}
    results = next(tmp_path.glob(f'{runner.timestamp}/*.json'))
    assert json.loads(results.read_text())['peak_memory'] == 700


def test_memory_of_the_process_and_of_the_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    usage = SimpleNamespace(ru_maxrss=3 * 1024**2)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setattr(log_values, 'resource', fake)
    monkeypatch.setattr(log_values.sys, 'platform', 'linux')
    assert log_values._memory_mb() == 3 * 1024  # from KB
    monkeypatch.setattr(log_values.sys, 'platform', 'darwin')
    assert log_values._memory_mb() == 3  # from bytes
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: 5 * 2**20)
    assert log_values._memory_mb() == 5


def test_without_a_figure_nothing_is_logged(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(log_values, 'resource', None)
    hook = PeakMemoryHook()
    hook.after_train_iter(SimpleNamespace())  # has no message_hub to report to
    assert hook.peak_mb == 0

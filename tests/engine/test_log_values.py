"""Which logged values are kept, and that the log does not depend on it; peak memory, slow steps."""

from __future__ import annotations

import copy
import json
import re
from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor

from ghmdet.engine import build_runner
from ghmdet.engine.hooks import log_values
from ghmdet.engine.hooks.log_values import LogHistoryHook, PeakMemoryHook, SlowStepsHook
from ghmdet.engine.hooks.non_finite_steps import SkipNonFiniteStepsHook
from ghmdet.registry import HOOKS, METRICS
from tests.number_runs import RisingMetric, number_cfg, own_scope


@pytest.fixture(autouse=True)
def scope():
    with own_scope():
        yield


@METRICS.register_module(force=True)
class LossMetric(RisingMetric):
    """The number of the validation, also under a name that is averaged."""

    def compute_metrics(self, results):
        return dict(super().compute_metrics(results), loss=self.value)


class LongMemory(Hook):
    """Keeps all values that are logged, and makes each log line from them too."""

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


def make_runner(folder, keep=1, max_epochs=6, resume=False, hooks=(), **log_processor):
    cfg = number_cfg(folder, [1, 2, 3, 4, 5], max_epochs, resume=resume)
    cfg.custom_hooks = [dict(type='LogHistoryHook', keep=keep), *hooks]
    dataset = dict(type='NumberDataset', numbers=[1] * 4)
    cfg.val_dataloader = dict(cfg.train_dataloader, dataset=dataset)
    cfg.update(val_cfg=dict(), val_evaluator=dict(type='LossMetric'))
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=2, ignore_last=False)
    cfg.log_processor = dict(type='LogProcessor', by_epoch=True, **log_processor)
    return build_runner(cfg)


def lengths_of(runner):
    return {key: len(buffer.data[0]) for key, buffer in runner.message_hub.log_scalars.items()}


EPOCH = dict(data_src='loss', method_name='mean', window_size='epoch')
GLOBAL = dict(data_src='loss', log_name='all', method_name='mean', window_size='global')
CASES = {  # custom_cfg, and how many of the values of 30 training steps are kept
    # An epoch has 5 steps; mmengine averages over one more of a validation.
    'window_size': ([], 6),
    'a wider window': (
        [
            dict(data_src='loss', log_name='wide', method_name='max', window_size=7),
            dict(data_src='loss', log_name='now', method_name='current'),
        ],
        7,
    ),
    'epoch': ([EPOCH, dict(data_src='time', method_name='min', window_size='epoch')], 6),
    'global': ([GLOBAL], 30),
    'no window': ([dict(data_src='loss_w', log_name='best', method_name='min')], 30),
}


@pytest.mark.parametrize('hierarchy', [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize('case', CASES)
def test_the_log_is_that_of_a_run_that_keeps_all(tmp_path, monkeypatch, case, hierarchy):
    memory = LongMemory(monkeypatch)
    custom, expected = CASES[case]
    runner = make_runner(tmp_path, window_size=3, custom_cfg=custom, log_with_hierarchy=hierarchy)
    runner.train()
    # Of each epoch training steps 2, 4, 5, validation steps 2, 4 and what came out are logged.
    assert len(memory.compared) == 6 * (3 + 2 + 1)
    for found, complete in memory.compared:
        assert found == complete
    kept = ('train/loss', 'train/lr', 'train/time')
    assert [lengths_of(runner)[key] for key in kept] == [expected] * 3
    complete = {key: len(buffer.data[0]) for key, buffer in memory.hub.log_scalars.items()}
    assert (complete['train/loss'], complete['val/time'], complete['val/up']) == (30, 24, 6)


def test_a_log_processor_that_may_look_at_all_values(tmp_path):
    custom = [dict(data_src='loss', method_name='mean', window_size=0)]
    runner = make_runner(tmp_path, window_size=3, custom_cfg=custom)
    assert log_values._largest_window(runner) == 1_000_000
    runner = make_runner(tmp_path, window_size=3)
    assert log_values._largest_window(runner) == 3
    runner.log_processor = type('Own', (LogProcessor,), {})(window_size=3)
    runner.train()
    assert lengths_of(runner)['train/loss'] == 30


def test_values_that_are_not_logged_are_bounded_too(tmp_path):
    class Notes(Hook):
        def after_train_iter(self, runner, *_, **__):
            runner.message_hub.update_scalar('own', float(runner.iter))

    runner = make_runner(tmp_path, keep=7, hooks=[dict(type=Notes)], window_size=3)
    runner.train()
    assert runner.message_hub.get_scalar('own').data[0].tolist() == [*range(23, 30)]


def test_histories_of_a_resumed_checkpoint_are_cut(tmp_path):
    runner = make_runner(tmp_path, keep=1000, max_epochs=4, window_size=3)
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
    make_runner(tmp_path, max_epochs=4, window_size=3).train()
    runner = make_runner(tmp_path, window_size=8, resume=True)
    runner.train()
    assert runner.iter == 30
    assert lengths_of(runner)['train/loss'] == 8
    runner = make_runner(tmp_path, max_epochs=8, custom_cfg=[GLOBAL], resume=True)
    runner.train()
    assert lengths_of(runner)['train/loss'] == 8 + 10


def test_more_is_kept_than_steps_are_skipped_in_a_row():
    assert LogHistoryHook().keep > SkipNonFiniteStepsHook().max_in_a_row


@pytest.mark.parametrize('keep', [0, -1, 1.5, True, '50', None])
def test_keep_is_checked(keep):
    message = f'LogHistoryHook.keep must be an integer of at least 1, got {keep!r}'
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='LogHistoryHook', keep=keep))


def test_peak_memory_is_in_the_log_line_and_in_the_scalars(tmp_path, monkeypatch):
    peaks = iter([300, 700, 500])
    monkeypatch.setattr(log_values, '_memory_mb', lambda: next(peaks))
    cfg = number_cfg(tmp_path, [1, 2], log_level='INFO')
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    test = dict(test_dataloader=cfg.train_dataloader, test_cfg={})
    cfg.update(test, test_evaluator=dict(type='RisingMetric'))
    runner = build_runner(cfg)
    lines = []
    monkeypatch.setattr(runner.logger, 'info', lines.append)
    runner.train()
    logged = [line for line in lines if 'peak_memory: ' in line]
    assert [re.search(r'peak_memory: (\d+)', line)[1] for line in logged] == ['300', '700']
    scalars = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert [json.loads(line)['peak_memory'] for line in scalars] == [300, 700]
    assert runner.test() == {'up': 1}
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


# --- slow steps ---------------------------------------------------------------------------------


def warnings_of(*steps):
    """Run the hook over steps of (seconds, side of the image); where it warned, and the texts."""
    hook, said = SlowStepsHook(), []
    history = HistoryBuffer()
    hub = SimpleNamespace(log_scalars={'train/time': history})
    logger = SimpleNamespace(warning=lambda text: said.append((step, text)))
    runner = SimpleNamespace(message_hub=hub, logger=logger)
    hook.before_train(runner)
    for step, (seconds, side) in enumerate(steps, 1):
        history.update(seconds)
        hook.after_train_iter(runner, step, dict(inputs=[torch.zeros(3, side, side)] * 2))
    return said


def test_slow_steps_are_told_once(monkeypatch):
    for name in log_values.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    # 6 of the last 10 are slow after step 46, and their median is 0.9.
    ((step, text),) = warnings_of(*[(0.3, 8)] * 40, *[(0.9, 8)] * 100, *[(5.0, 8)] * 100)
    assert step == 46
    assert text.startswith('a step takes 0.9 s, and took 0.3 s before the last 10. ')
    assert text.endswith('--resume --threads N')
    monkeypatch.setenv('OMP_WAIT_POLICY', 'ACTIVE')
    ((_, text),) = warnings_of(*[(0.3, 8)] * 20, *[(0.9, 8)] * 10)
    assert '; unset OMP_WAIT_POLICY: threads wait as it says' in text


@pytest.mark.parametrize(
    'steps',
    [
        [(0.3, 8)] * 40 + [(0.89, 8)] * 40,
        [(0.3, 8)] * 9 + [(0.9, 8)] * 40,  # slow so early that this may be normal
        [(0.01, 8)] * 40 + [(0.09, 8)] * 40,  # nobody waits for these
        [(0.3, 8)] * 40 + [(1.2, 16)] * 40,  # four times the pixels
        [(0.4, 16)] * 40 + [(0.4, 8)] * 40,
        ([(0.3, 8)] * 9 + [(30.0, 8)]) * 9,  # a checkpoint every 10 steps
        [(0.3, 8), (1.2, 8)] * 40,
        [(9.0, 8)] * 5 + [(0.3, 8)] * 60,  # a slow start
    ],
)
def test_steps_that_are_not_suddenly_slow(steps):
    assert warnings_of(*steps) == []


def test_without_the_timer_nothing_is_compared():
    hook = SlowStepsHook()
    hub = SimpleNamespace(log_scalars={})
    hook.before_train(SimpleNamespace())
    for _ in range(40):
        hook.after_train_iter(SimpleNamespace(message_hub=hub), 0, None)
    assert hook._steps == []

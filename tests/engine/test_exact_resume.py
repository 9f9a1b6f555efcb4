"""A run that was broken off anywhere and resumed ends with the bits of one that was not."""

from __future__ import annotations

import copy
import os
import random
import signal
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from ghmdet.engine import build_runner, load_checkpoint_file
from ghmdet.engine.hooks import stop as stop_hook
from ghmdet.engine.hooks.stop import StopHook, TrainingStopped
from ghmdet.losses import GHMR
from ghmdet.registry import DATASETS, MODELS
from tests.number_runs import number_cfg, own_scope, train

READ: list[tuple[int, float]] = []  # index and noise
FIRST = 1.6870884  # of the samples of seed 5


@DATASETS.register_module(force=True)
class NoisyDataset(Dataset):
    """A number for each index, changed at random by each of the three generators."""

    def __init__(self, length, broken=()):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def get_data_info(self, index):
        return dict(width=2 + index % 2, height=2)

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        READ.append((index, noise))
        metainfo = dict(img_id=index, img_path=f'{index}.jpg')
        number = float('nan') if index in self.broken else index / 10 + noise
        return dict(inputs=torch.tensor([number]), data_samples=SimpleNamespace(metainfo=metainfo))


@MODELS.register_module(force=True)
class NoisyModel(BaseModel):
    """Batch norm, dropout by all generators, and a GHM loss with running counts."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.loss = GHMR(momentum=0.7, bins=4)

    def forward(self, inputs, data_samples, mode='loss'):
        if mode == 'predict':
            torch.rand(3), np.random.rand(3), random.random()
            return data_samples
        x = self.norm(self.layer(torch.cat([torch.stack(inputs), torch.stack(inputs) ** 2])))
        noise = random.random() + np.random.rand() + torch.rand(())
        return dict(loss=self.loss(x * (torch.rand(4) < 0.7) * noise, torch.ones_like(x)))


def final(runner):
    return load_checkpoint_file((Path(runner.work_dir) / 'last_checkpoint').read_text())


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


def check_same(a, b):
    keys = ['state_dict', 'optimizer', 'ema_state_dict', 'param_schedulers', 'run_state']
    assert [key for key in keys if not equal(a.get(key), b.get(key))] == []


EPOCHS = dict(by_epoch=True, max_epochs=3)
ITERS = dict(train_cfg=dict(by_epoch=False, max_iters=11, val_interval=3))
ENDLESS = {**ITERS, 'train_dataloader.sampler.type': 'InfiniteSampler'}
ASPECT_RATIOS = {'train_dataloader.batch_sampler': dict(type='AspectRatioBatchSampler')}
ACCUMULATED = {'optim_wrapper.accumulative_counts': 3}
VALIDATION = dict(
    val_dataloader=dict(
        dataset=dict(type='NoisyDataset', length=3),
        batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
    ),
    val_evaluator=dict(type='RisingMetric'),
    val_cfg=dict(type='ValLoop'),
)
FLOAT16 = dict(type='AmpOptimWrapper', dtype='float16', loss_scale=2.0**10)
SCHEDULES = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
    dict(type='StepLR', step_size=1, gamma=0.5, by_epoch=True),
    dict(type='ReduceOnPlateauLR', monitor='up', rule='less', patience=0, factor=0.3),
]
CASES = {  # what each changes in the config
    'epochs': {},
    'iterations': ITERS,
    'iterations over an endless sampler': ENDLESS,
    'aspect ratios': ASPECT_RATIOS,
    'aspect ratios, endless': {**ENDLESS, **ASPECT_RATIOS},
    'accumulated': ACCUMULATED,
    'accumulated with a bad batch': {**ACCUMULATED, 'train_dataloader.dataset.broken': [4]},
    'average': dict(custom_hooks=[dict(type='EMAHook', momentum=0.1, update_buffers=True)]),
    'float16': dict(optim_wrapper=FLOAT16),
    'bfloat16': dict(optim_wrapper=dict(type='AmpOptimWrapper', dtype='bfloat16')),
    'validation': VALIDATION,
    'validation by iterations': {**ITERS, **VALIDATION},
    'schedules': dict(VALIDATION, param_scheduler=SCHEDULES),
}


def case_cfg(work_dir, case, **checkpoint):
    case = copy.deepcopy(case)
    train_cfg = case.pop('train_cfg', dict(EPOCHS))
    cfg = number_cfg(work_dir, [0], batch_size=2, train_cfg=train_cfg, custom_hooks=[])
    cfg.model = dict(type='NoisyModel')
    cfg.randomness = dict(seed=5)
    cfg.train_dataloader.dataset = dict(type='NoisyDataset', length=7)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=0.1)
    cfg.merge_from_dict(case)
    default = dict(type='CheckpointHook', by_epoch=False, interval=1)
    cfg.default_hooks.checkpoint = {**default, **checkpoint}
    return cfg


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Runs a case without a break, once: the folder and the last checkpoint."""

    @cache
    def run(name, **checkpoint):
        folder = tmp_path_factory.mktemp('whole')
        return folder, final(train(case_cfg(folder, CASES[name], **checkpoint)))

    return run


def resume(folder, name, checkpoint, changes=None, **saving):
    """Resume a case from a checkpoint in another folder; return the runner."""
    case = {**CASES[name], **(changes or {}), 'resume': True, 'load_from': str(checkpoint)}
    return train(case_cfg(folder, case, **saving))


AT_EACH = ('accumulated with a bad batch', 'aspect ratios, endless', 'schedules')
OTHERS = [name for name in CASES if name not in AT_EACH]


@pytest.mark.parametrize(
    ('name', 'iterations'),
    [
        *(pytest.param(name, range(1, 12), id=f'{name}, each') for name in AT_EACH),
        *(pytest.param(name, (1, 6, 11), id=name) for name in OTHERS),
        *(
            pytest.param(name, range(2, 12), id=f'{name}, each', marks=pytest.mark.long)
            for name in OTHERS
        ),
    ],
)
def test_from_an_iteration(whole, tmp_path, name, iterations):
    folder, expected = whole(name)
    last = expected['meta']['iter']
    assert last == (11 if 'train_cfg' in CASES[name] else 12)
    for iteration in {min(each, last - 1) for each in iterations}:
        file = folder / f'iter_{iteration}.pth'
        runner = resume(tmp_path / str(iteration), name, file, interval=100)  # saves at the end
        check_same(expected, final(runner))


def test_from_every_epoch(whole, tmp_path):
    folder, expected = whole('schedules', by_epoch=True)
    for epoch in (1, 2):
        file = folder / f'epoch_{epoch}.pth'
        runner = resume(tmp_path / str(epoch), 'schedules', file, by_epoch=True)
        check_same(expected, final(runner))
        assert runner.message_hub.get_scalar('val/up').current() == 4 - epoch  # all of them made


def test_the_comparison_sees_each_part(whole, tmp_path):
    """What is left out of a checkpoint shows."""
    folder, expected = whole('average')
    other = load_checkpoint_file(folder / 'iter_5.pth')['run_state']['processes'][0]['random']
    for name in ('python', 'numpy', 'torch', 'loss.acc_sum', 'norm.running_mean'):
        checkpoint = load_checkpoint_file(folder / 'iter_6.pth')
        if name in other:
            checkpoint['run_state']['processes'][0]['random'][name] = other[name]
        else:
            checkpoint['ema_state_dict'][f'module.{name}'].add_(1)
        torch.save(checkpoint, tmp_path / 'changed.pth')
        found = final(resume(tmp_path, 'average', tmp_path / 'changed.pth', interval=100))
        part = 'state_dict' if name in other else 'ema_state_dict'
        assert not equal(expected[part], found[part])


def test_the_images_before_are_not_read(whole, tmp_path):
    folder, _ = whole('epochs')
    READ.clear()
    resume(tmp_path, 'epochs', folder / 'iter_7.pth', interval=100)
    assert len(READ) == 1 + 7  # the last of 4 batches of the second epoch has one image
    assert len({index for index, _ in READ[1:]}) == 7


@pytest.mark.parametrize('workers', [2, pytest.param(1, marks=pytest.mark.long)])
def test_loader_workers_make_no_difference(whole, tmp_path, workers):
    cfg = case_cfg(tmp_path, CASES['epochs'])
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=True)
    check_same(whole('epochs')[1], final(train(cfg)))


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.long)])
def test_the_loader_of_a_runner_that_does_not_train(tmp_path, workers):
    cfg = case_cfg(tmp_path, CASES['epochs'])
    cfg.train_dataloader.update(num_workers=workers)
    with own_scope():
        loader = build_runner(cfg).train_dataloader

    def read():
        return [[image.item() for image in batch['inputs']] for batch in loader]

    first = read()
    assert [len(batch) for batch in first] == [2, 2, 2, 1]
    assert read() == first
    loader.batch_sampler.set_epoch(1)
    assert not set().union(*first) & set().union(*read())
    assert first[0][0] == pytest.approx(FIRST, rel=1e-6)  # with or without workers


def test_epochs_differ_in_what_is_random(tmp_path):
    READ.clear()
    train(case_cfg(tmp_path, {'train_dataloader.dataset.length': 1, 'model.type': 'NumberModel'}))
    assert len({noise for _, noise in READ[-3:]}) == 3


def test_a_run_without_a_seed_resumes_with_its_own(tmp_path):
    seed = dict(randomness=dict(seed=None))
    expected = final(train(case_cfg(tmp_path / 'whole', seed)))
    runner = resume(tmp_path / 'rest', 'epochs', tmp_path / 'whole/iter_6.pth', seed)
    check_same(expected, final(runner))


def test_another_batch_size_gets_a_warning(whole, tmp_path):
    folder, _ = whole('epochs')
    READ.clear()
    changes = {'train_dataloader.batch_size': 1}
    runner = resume(tmp_path, 'epochs', folder / 'iter_7.pth', changes)  # 6 images of epoch 2
    assert 'resumed with 1 images per iteration' in '\n'.join(runner.lines)
    assert len(READ) == 1 + 7


@pytest.mark.parametrize(('saved', 'told'), [(3, True), (1, False), (None, False)])
def test_another_number_of_threads_gets_a_warning(saved, told, whole, tmp_path):
    folder, expected = whole('epochs')
    checkpoint = load_checkpoint_file(folder / 'iter_7.pth')
    assert checkpoint['run_state'].pop('threads') == torch.get_num_threads() == 1
    if saved is not None:  # not of an earlier version
        checkpoint['run_state']['threads'] = saved
    torch.save(checkpoint, tmp_path / 'iter_7.pth')
    runner = resume(tmp_path / 'rest', 'epochs', tmp_path / 'iter_7.pth')
    check_same(expected, final(runner))
    text = 'resumed with 1 threads, but the checkpoint was saved with 3: '
    assert (text in '\n'.join(runner.lines)) == told
    assert ('threads, but' in '\n'.join(runner.lines)) == told


# --- signals ------------------------------------------------------------------------------------


class Signaller(Hook):
    """Sends signals to this process at an iteration of the training or the validation."""

    def __init__(self, stop, at, during='train', number=signal.SIGTERM):
        self.stop, self.at, self.during, self.number = stop, at, during, number
        self.count = 0

    def _count(self, moment):
        self.count += moment == self.during
        if moment == self.during and self.count == self.at:
            os.kill(os.getpid(), self.number)
            end = time.monotonic() + 20
            while not self.stop._received:  # it is noted in another thread
                assert time.monotonic() < end, f'signal {self.number} was not noted in 20 s'
                time.sleep(0.001)

    def before_train_iter(self, runner, *_, **__):
        self._count('train')

    def after_val_iter(self, runner, *_, **__):
        self._count('val')

    def before_save_checkpoint(self, runner, checkpoint):
        self._count('save')


def stopped(cfg, at, **signaller):
    """Train until the signal; return the exit code and what the log says."""
    stop, lines = StopHook(), []
    with own_scope():
        runner = build_runner(cfg)
        runner.register_hook(stop)
        runner.register_hook(Signaller(stop, at, **signaller))
        runner.logger.addFilter(lambda record: lines.append(record.getMessage()) or True)
        try:
            with pytest.raises(TrainingStopped) as raised:
                runner.train()
        finally:
            stop.release()
    return raised.value.code, '\n'.join(lines)


NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]
SIGNALS = [  # case, at which call, during what
    *(('epochs', at, 'train') for at in (1, 3, 4, 6)),
    *(('iterations', 11, 'train'), ('accumulated', 5, 'train'), ('epochs', 2, 'save')),
    *(('schedules', 2, 'val'), ('schedules', 3, 'val'), ('validation by iterations', 5, 'val')),
]
MORE_SIGNALS = [
    *(('epochs', 12, 'train'), ('iterations', 1, 'train'), ('iterations', 6, 'train')),
    *(('iterations', 2, 'save'), ('schedules', 9, 'val')),
]


@pytest.mark.parametrize(
    ('case', 'at', 'during'),
    [*SIGNALS, *(pytest.param(*each, marks=pytest.mark.long) for each in MORE_SIGNALS)],
)
def test_a_signal_saves_and_the_run_resumes(whole, tmp_path, case, at, during):
    number = NUMBERS[at % 4]
    by_epoch = 'train_cfg' not in CASES[case]
    every = dict(by_epoch=by_epoch, interval=1 if by_epoch else 3)
    folder, expected = whole(case, **every)
    before = [signal.getsignal(each) for each in NUMBERS]
    code, log = stopped(case_cfg(tmp_path, CASES[case], **every), at, during=during, number=number)
    assert code == 75
    assert [signal.getsignal(each) for each in NUMBERS] == before
    saved = (tmp_path / 'last_checkpoint').read_text()
    assert f'{signal.Signals(number).name}: stopped; {saved} is saved, ' in log
    assert '--resume' in log
    if during == 'train':
        assert load_checkpoint_file(saved)['meta']['iter'] == at
    check_same(expected, final(train(case_cfg(tmp_path, {**CASES[case], 'resume': True}, **every))))
    names = {file.name for file in folder.glob('*.pth')}
    assert {file.name for file in tmp_path.glob('*.pth')} == names


def test_a_signal_in_the_validation_that_was_left(whole, tmp_path):
    """A resumed run begins with it; it may stop within, since the training is saved."""
    case = CASES['schedules']
    for resumed in (False, True):
        cfg = case_cfg(tmp_path, {**case, 'resume': resumed}, by_epoch=True)
        code, log = stopped(cfg, 1, during='val')
        assert code == 75
        assert f'stopped; {tmp_path / "epoch_1.pth"} is saved' in log
        assert [file.name for file in tmp_path.glob('*.pth')] == ['epoch_1.pth']
    cfg = case_cfg(tmp_path, {**case, 'resume': True}, by_epoch=True)
    check_same(whole('schedules', by_epoch=True)[1], final(train(cfg)))


def test_a_signal_while_the_processes_agree_is_not_lost(monkeypatch):
    hook = StopHook()

    def exchange(flag, op):
        hook._received = int(signal.SIGTERM)  # as the thread notes it, too late for this step

    monkeypatch.setattr(stop_hook, 'all_reduce', exchange)
    assert not hook._is_stop_requested()
    monkeypatch.setattr(stop_hook, 'all_reduce', lambda flag, op: None)
    assert hook._is_stop_requested()

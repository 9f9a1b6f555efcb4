"""Trainings of a model with one weight, whose every step can be worked out by hand."""

from __future__ import annotations

import math
from contextlib import contextmanager
from types import SimpleNamespace
from uuid import uuid4

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch.utils.data import Dataset

from ghmdet.engine import build_runner
from ghmdet.registry import DATASETS, METRICS, MODELS

NAN = math.nan


@DATASETS.register_module(force=True)
class NumberDataset(Dataset):
    """Numbers in order, as images."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        metainfo = dict(img_id=index, img_path=f'{index}.jpg')
        return dict(
            inputs=torch.tensor([float(self.numbers[index])]),
            data_samples=SimpleNamespace(metainfo=metainfo),
        )


@MODELS.register_module(force=True)
class NumberModel(BaseModel):
    """loss_w = weight x number, so that the gradient is the number; counts the sum of numbers.

    The number 0 has loss 0 and a gradient that is not a number.
    """

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer('total', torch.zeros(1))

    def forward(self, inputs, data_samples, mode='loss'):
        numbers = torch.stack(inputs)
        if mode == 'predict':
            return data_samples
        self.total += numbers.sum()
        if (numbers == 0).any():
            return dict(loss_w=(self.weight * 0).sqrt().sum())
        return dict(loss_w=(self.weight * numbers).mean(), loss_rest=self.weight.new_ones(1))


@METRICS.register_module(force=True)
class RisingMetric(BaseMetric):
    """1 at the first validation, 2 at the second."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        self.value = getattr(self, 'value', 0) + 1
        return {'up': self.value}


def number_cfg(work_dir, numbers, epochs=1, batch_size=1, **changes):
    """A config without noise: SGD with lr 1, no hooks of mmengine that would write."""
    cfg = dict(
        model=dict(type='NumberModel'),
        work_dir=str(work_dir),
        default_scope='ghmdet',
        experiment_name=uuid4().hex,  # mmengine keeps loggers by it
        log_level='WARNING',
        train_dataloader=dict(
            dataset=dict(type='NumberDataset', numbers=list(numbers)),
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    return Config({**cfg, **changes})


@contextmanager
def own_scope():
    """Leave the default scope, which a Runner sets, as it was."""
    before = dict(DefaultScope._instance_dict)
    try:
        yield
    finally:
        DefaultScope._instance_dict.clear()
        DefaultScope._instance_dict.update(before)


def train(cfg):
    """Train; return the runner, which has what it logged as `lines`."""
    with own_scope():
        runner = build_runner(cfg)
        runner.lines = []
        runner.logger.addFilter(lambda record: runner.lines.append(record.getMessage()) or True)
        runner.train()
    return runner

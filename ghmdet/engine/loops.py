"""Training loops that go on exactly where a checkpoint was saved, in the middle of an epoch too."""

from __future__ import annotations

import copy
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from mmengine.dist import broadcast_object_list
from mmengine.runner import BaseLoop, Runner
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmengine.runner.utils import calc_dynamic_intervals
from torch.utils.data import BatchSampler, DataLoader

from ghmdet.datasets.random_state import preserve_random_state
from ghmdet.datasets.samplers import GlobalBatchSampler, seed_samples
from ghmdet.engine.run_state import (
    global_batch_size,
    mean_buffers,
    restore_process,
    restore_random,
)
from ghmdet.registry import LOOPS


class _ExactLoop(BaseLoop):
    """What both loops need to go on exactly."""

    resumed_state: dict[str, Any] | None = None
    """The `run_state` of the checkpoint; `CheckpointHook` sets it."""

    runner: Runner
    dataloader: DataLoader
    val_begin: int
    val_interval: int
    dynamic_milestones: Sequence[int]
    dynamic_intervals: Sequence[int]

    def validation_follows(self, done: int) -> bool:
        """Whether a validation follows when so many epochs, or iterations, are done."""
        interval = self.dynamic_intervals[bisect(self.dynamic_milestones, done + 1) - 1]
        last = self._last()
        return (
            self.runner.val_loop is not None
            and done >= self.val_begin
            and (done % interval == 0 or done == last)
        )

    def _last(self) -> int:
        raise NotImplementedError

    def _validation_is_left(self) -> bool:
        """Whether the run was left after training and before the validation that follows."""
        state = self.resumed_state
        return state is not None and state['validate'] and self.runner.val_loop is not None

    def _validate(self) -> None:
        """Validate so that the training does not notice."""
        with preserve_random_state(), mean_buffers(self.runner):
            self.runner.val_loop.run()

    def _set_up_loading(self, dataloader: Any) -> None:
        """Let loading leave the process's generators alone, and need no training to begin."""
        self.dataloader.generator = torch.Generator()
        seed_samples(self.dataloader.dataset, self.runner.seed)
        sampler = dataloader.get('sampler') if isinstance(dataloader, Mapping) else None
        self._sampler_follows = isinstance(sampler, Mapping) and sampler.get('seed') is None

    def _prepare(self) -> None:
        """Take over the seed and the state of the checkpoint, once all is built and loaded."""
        runner, state = self.runner, self.resumed_state
        seed = [runner.seed]  # that of the checkpoint in a resumed run
        broadcast_object_list(seed)
        seed_samples(self.dataloader.dataset, seed[0])
        sampler: Any = getattr(self.dataloader.batch_sampler, 'sampler', None)
        if self._sampler_follows and hasattr(sampler, 'seed'):
            sampler.seed = seed[0]
        if state is None:
            return
        restore_process(runner, state['processes'])
        size = global_batch_size(runner)
        if size != state['batch_size']:
            runner.logger.warning(
                f'resumed with {size} images per iteration (train_dataloader.batch_size times '
                f'processes), but the checkpoint was saved with {state["batch_size"]}: the order '
                'of the images is not that of an uninterrupted run, and schedules by iteration '
                'count other iterations'
            )

    def _restore_random(self) -> None:
        if self.resumed_state is not None:
            restore_random(self.resumed_state['processes'])

    def _batches(self, first: int) -> Iterator[Any]:
        """Load batches, from number `first` on; those before are not read."""
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, GlobalBatchSampler):
            sampler.first = first
            return iter(self.dataloader)
        return islice(self.dataloader, first, None)


@LOOPS.register_module()
class EpochBasedTrainLoop(_ExactLoop, _EpochBasedTrainLoop):
    """mmengine's loop over epochs, which a resumed run enters where it was left.

    A checkpoint inside of an epoch leads to its next batch, one that waits for its validation to
    that. Batches and random changes of images do not depend on the number of processes or loader
    workers (see `ghmdet.datasets.samplers`). A validation leaves random generators alone.

    Args:
        runner: see mmengine.
        dataloader: config; a loader that is built already is taken as it is.
        max_epochs: see mmengine.
        **kwargs: `val_begin`, `val_interval`, `dynamic_intervals`; see mmengine.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        super().__init__(runner, _elastic(dataloader, endless=False), max_epochs, **kwargs)
        self._set_up_loading(dataloader)
        self._first_batch = 0

    def run(self) -> torch.nn.Module:
        """Train."""
        runner = self.runner
        runner.call_hook('before_train')
        self._prepare()
        self._first_batch = self._find_first_batch()
        self._restore_random()
        if self._validation_is_left():
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self.validation_follows(self._epoch):
                self._validate()
        runner.call_hook('after_train')
        return runner.model

    def run_epoch(self) -> None:
        """Train an epoch, or what is left of it."""
        first, self._first_batch = self._first_batch, 0
        if isinstance(self.dataloader.batch_sampler, GlobalBatchSampler):
            self.dataloader.batch_sampler.set_epoch(self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if first:  # whatever the hooks have drawn
            self._restore_random()
        for idx, data_batch in enumerate(self._batches(first), first):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _last(self) -> int:
        return self._max_epochs

    def _find_first_batch(self) -> int:
        """The batch of the epoch to begin with."""
        if self.resumed_state is None:  # perhaps mmengine's checkpoint
            first = self._iter - self._epoch * len(self.dataloader)
            return first if 0 < first < len(self.dataloader) else 0
        done = self.resumed_state['batch']
        return done * self.resumed_state['batch_size'] // global_batch_size(self.runner)


@LOOPS.register_module()
class IterBasedTrainLoop(_ExactLoop, _IterBasedTrainLoop):
    """mmengine's loop over iterations, which a resumed run enters where it was left.

    See `EpochBasedTrainLoop`. The images of the iterations before are not read again.

    Args:
        runner: see mmengine.
        dataloader: config; a loader that is built already is taken as it is.
        max_iters: see mmengine.
        val_begin: first iteration after which to validate.
        val_interval: iterations from one validation to the next.
        dynamic_intervals: pairs of an iteration and the interval from there on.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        # Not mmengine's constructor, which starts to load before it is known where to begin.
        BaseLoop.__init__(self, runner, _elastic(dataloader, endless=True))
        self._set_up_loading(dataloader)
        self._max_iters, self._max_epochs = int(max_iters), 1
        self._epoch = self._iter = 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )

    def run(self) -> torch.nn.Module:
        """Train."""
        runner = self.runner
        runner.call_hook('before_train')
        self._prepare()
        runner.call_hook('before_train_epoch')
        batches = self._batches(self._iter)
        self._restore_random()
        if self._validation_is_left():
            self._validate()
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            if self.validation_follows(self._iter):
                self._validate()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _last(self) -> int:
        return self._max_iters

    def _batches(self, first: int) -> Iterator[Any]:
        if isinstance(self.dataloader.batch_sampler, GlobalBatchSampler):
            return super()._batches(first)
        return islice(_InfiniteDataloaderIterator(self.dataloader), first, None)


def _elastic(dataloader: Any, endless: bool) -> Any:
    """Let the batches of a loader's config be formed over all processes."""
    sampler = dataloader.get('sampler') if isinstance(dataloader, Mapping) else None
    inner = dataloader.get('batch_sampler') if isinstance(dataloader, Mapping) else None
    if not isinstance(sampler, Mapping) or not isinstance(inner, Mapping | None):
        return dataloader
    cfg: Any = copy.deepcopy(dataloader)
    if inner is None:
        inner = dict(type=BatchSampler, drop_last=cfg.pop('drop_last', False))
    cfg['batch_sampler'] = dict(type=GlobalBatchSampler, batches=inner, endless=endless)
    return cfg

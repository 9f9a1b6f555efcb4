"""Training loops that resume exactly where a checkpoint was saved, also within an epoch."""

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
    collect_run_state,
    global_batch_size,
    restore_process,
    restore_random,
)
from ghmdet.models.buffers import averaged_buffers
from ghmdet.models.wrappers import detectors_of
from ghmdet.registry import LOOPS


class _ExactLoop(BaseLoop):
    """What both loops need to resume exactly."""

    runner: Runner
    dataloader: DataLoader
    val_begin: int
    val_interval: int
    dynamic_milestones: Sequence[int]
    dynamic_intervals: Sequence[int]

    _last: int
    """The number of epochs, or iterations, after which the training ends."""
    _resumed: dict[str, Any] | None = None
    """The state of the checkpoint that the run resumes from."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run, see `collect_run_state`; all processes have to call it.

        To be called by hooks after an iteration or an epoch, before the loop has counted it.
        """
        return collect_run_state(self.runner, *self._position())

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take what `state_dict` returned (None: a checkpoint of mmengine) for the next `run`."""
        self._resumed = state

    def _position(self) -> tuple[int, bool]:
        """How many batches of the epoch are done, and whether a validation comes next."""
        raise NotImplementedError

    def _validation_follows(self, done: int) -> bool:
        """Whether a validation follows when so many epochs, or iterations, are done."""
        interval = self.dynamic_intervals[bisect(self.dynamic_milestones, done + 1) - 1]
        is_due = done >= self.val_begin and (done % interval == 0 or done == self._last)
        return is_due and self.runner.val_loop is not None

    def _validate(self) -> None:
        """Validate without changing the state of the training."""
        with preserve_random_state(), averaged_buffers(detectors_of(self.runner)):
            self.runner.val_loop.run()

    def _validate_if_pending(self) -> None:
        """Validate if the checkpoint was saved after training and before its validation."""
        if self._resumed and self._resumed['validate'] and self.runner.val_loop is not None:
            self._validate()

    def _set_up_loading(self, dataloader: Any) -> None:
        """Let loading leave the process's random generators alone; seed the samples."""
        self.dataloader.generator = torch.Generator()
        seed_samples(self.dataloader.dataset, self.runner.seed)
        sampler = dataloader.get('sampler') if isinstance(dataloader, Mapping) else None
        self._seeds_sampler = isinstance(sampler, Mapping) and sampler.get('seed') is None

    def _prepare(self) -> None:
        """Take the seed and the state of the checkpoint, once all is built and loaded."""
        runner, state = self.runner, self._resumed
        seed = [runner.seed]  # that of the checkpoint in a resumed run
        broadcast_object_list(seed)
        seed_samples(self.dataloader.dataset, seed[0])
        sampler: Any = getattr(self.dataloader.batch_sampler, 'sampler', None)
        if self._seeds_sampler and hasattr(sampler, 'seed'):
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
        threads, before = torch.get_num_threads(), state.get('threads')
        if before not in (None, threads):
            runner.logger.warning(
                f'resumed with {threads} threads, but the checkpoint was saved with {before}: on '
                'the CPU results differ by rounding from those of an uninterrupted run; --threads '
                f'{before} gives equal ones'
            )

    def _restore_random(self) -> None:
        if self._resumed is not None:
            restore_random(self._resumed['processes'])

    def _batches(self, first: int) -> Iterator[Any]:
        """Load batches, from number `first` on; those before are not read."""
        sampler = self.dataloader.batch_sampler
        if isinstance(sampler, GlobalBatchSampler):
            sampler.first = first
            return iter(self.dataloader)
        return islice(self.dataloader, first, None)


@LOOPS.register_module()
class EpochBasedTrainLoop(_ExactLoop, _EpochBasedTrainLoop):
    """mmengine's loop over epochs, which resumes exactly, see docs/train/resume.md.

    The arguments are mmengine's; a `dataloader` that is built already is taken as it is.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        loader = _form_global_batches(dataloader, endless=False)
        super().__init__(runner, loader, max_epochs, **kwargs)
        self._set_up_loading(dataloader)
        self._last = self._max_epochs
        self._first_batch = self._batches_done = 0

    def run(self) -> torch.nn.Module:
        """Train."""
        runner = self.runner
        runner.call_hook('before_train')
        self._prepare()
        self._first_batch = self._find_first_batch()
        self._restore_random()
        self._validate_if_pending()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._validation_follows(self._epoch):
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
        if first:  # hooks may have drawn random numbers
            self._restore_random()
        for idx, data_batch in enumerate(self._batches(first), first):
            self._batches_done = idx + 1
            self.run_iter(idx, data_batch)
        self._batches_done = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _position(self) -> tuple[int, bool]:
        done = self._batches_done
        return done, done == 0 and self._validation_follows(self._epoch + 1)

    def _find_first_batch(self) -> int:
        """The batch of the epoch to begin with."""
        if self._resumed is None:  # a checkpoint of mmengine, or none
            first = self._iter - self._epoch * len(self.dataloader)
            return first if 0 < first < len(self.dataloader) else 0
        done = self._resumed['batch']
        return done * self._resumed['batch_size'] // global_batch_size(self.runner)


@LOOPS.register_module()
class IterBasedTrainLoop(_ExactLoop, _IterBasedTrainLoop):
    """mmengine's loop over iterations, which resumes exactly; see `EpochBasedTrainLoop`."""

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        # Not mmengine's constructor, which starts to load before the first batch is known.
        BaseLoop.__init__(self, runner, _form_global_batches(dataloader, endless=True))
        self._set_up_loading(dataloader)
        self._last = self._max_iters = int(max_iters)
        self._max_epochs = 1
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
        self._validate_if_pending()
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            if self._validation_follows(self._iter):
                self._validate()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _position(self) -> tuple[int, bool]:
        return 0, self._validation_follows(self._iter + 1)

    def _batches(self, first: int) -> Iterator[Any]:
        if isinstance(self.dataloader.batch_sampler, GlobalBatchSampler):
            return super()._batches(first)
        return islice(_InfiniteDataloaderIterator(self.dataloader), first, None)


def _form_global_batches(dataloader: Any, endless: bool) -> Any:
    """Return the config of a loader whose batches are formed over all processes."""
    sampler = dataloader.get('sampler') if isinstance(dataloader, Mapping) else None
    inner = dataloader.get('batch_sampler') if isinstance(dataloader, Mapping) else None
    if not isinstance(sampler, Mapping) or not isinstance(inner, Mapping | None):
        return dataloader
    cfg: Any = copy.deepcopy(dataloader)
    if inner is None:
        inner = dict(type=BatchSampler, drop_last=cfg.pop('drop_last', False))
    cfg['batch_sampler'] = dict(type=GlobalBatchSampler, batches=inner, endless=endless)
    return cfg

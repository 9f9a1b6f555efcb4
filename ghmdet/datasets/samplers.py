"""Batches by aspect ratio, batches that do not depend on the number of processes, sample seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.structures import BaseDataElement
from torch.utils.data import BatchSampler, Sampler

from ghmdet.argument_checks import check_integer
from ghmdet.datasets.random_state import preserve_random_state
from ghmdet.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Batches of either portrait images (`width < height`) or landscape and square ones.

    A batch is yielded as soon as its group is full. The rest of both groups, portrait images first,
    is cut into batches at the end of the epoch, so one of the last batches may be mixed.

    Unlike MMDetection's, a full last batch is kept with `drop_last=True`, so that there are always
    `len(self)` batches; and an epoch that is not finished leaves no indices for the next one.

    Args:
        sampler: yields indices and has `dataset`, whose `get_data_info(index)` returns at least
            `width` and `height`; mmengine's samplers and dataset wrappers do.
        batch_size: images per batch.
        drop_last: whether to drop a last batch that is not full.
    """

    # For torch a sampler has neither a dataset nor a length.
    sampler: Any

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(sampler, Sampler):
            raise TypeError(f'sampler must be a torch Sampler, got {type(sampler).__name__}')
        dataset = getattr(sampler, 'dataset', None)
        if not hasattr(dataset, 'get_data_info'):
            raise TypeError(
                'AspectRatioBatchSampler needs a sampler whose dataset has get_data_info, got '
                f'{type(sampler).__name__} over {type(dataset).__name__}; remove batch_sampler '
                'from the dataloader in the config, or use a mmengine dataset and sampler'
            )
        check_integer('AspectRatioBatchSampler.batch_size', batch_size, 1)
        super().__init__(sampler, batch_size, drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches of indices."""
        portrait: list[int] = []
        landscape: list[int] = []
        for index in self.sampler:
            info = self.sampler.dataset.get_data_info(index)
            group = portrait if info['width'] < info['height'] else landscape
            group.append(index)
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()
        yield from BatchSampler(portrait + landscape, self.batch_size, self.drop_last)


class SampleIndex(NamedTuple):
    """The index of a sample for the data loader: the sample, and the epoch for its random seed."""

    sample: int  # index in the dataset
    epoch: int  # passes over the dataset before this one
    is_padding: bool = False  # pads the batch of a process that has no other sample


@DATA_SAMPLERS.register_module()
class GlobalBatchSampler(BatchSampler):
    """Splits batches that are the same for any number of processes between the processes.

    Another batch sampler forms batches of `batch_size * processes` samples, of which sample i goes
    to process i modulo the number of processes. If a smaller last batch has no sample for a
    process, it gets the first one as a padding sample, which the head leaves out of the loss.

    This works for mmengine's `DefaultSampler` and `InfiniteSampler` and their subclasses. Other
    samplers are used as they are: each process has its own order, and batches are not split.

    Args:
        sampler: yields indices.
        batch_size: samples per process and batch.
        batches: config of the batch sampler that forms the batches.
        endless: start the next pass over the dataset after the last batch of one.
    """

    def __init__(
        self, sampler: Sampler, batch_size: int, batches: Mapping[str, Any], endless: bool = False
    ) -> None:
        self.sampler: Any = sampler
        self.batch_size, self.endless = batch_size, endless
        self.first = 0  # how many batches the next iteration over it skips; 0 after that
        self.epoch = 0  # of the next iteration over it
        self.rank, self.world_size = 0, 1
        if isinstance(sampler, DefaultSampler | InfiniteSampler):
            self.rank, self.world_size = get_dist_info()
            sampler.rank, sampler.world_size = 0, 1  # it yields those of all processes
            if isinstance(sampler, DefaultSampler):
                sampler.num_samples = sampler.total_size = len(sampler.dataset)
        given = dict(sampler=sampler, batch_size=batch_size * self.world_size)
        self.batches = DATA_SAMPLERS.build(dict(batches), default_args=given)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that comes next."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[SampleIndex]]:  # type: ignore[override]
        """Yield the batches of an epoch, or endless ones."""
        first, self.first = self.first, 0
        if not self.endless:
            batches = self._epoch()
        elif isinstance(self.sampler, InfiniteSampler):
            batches = self._stream()
        else:
            epoch, first = divmod(first, len(self.batches))
            batches = chain.from_iterable(map(self._epoch, count(epoch)))
        for batch in islice(batches, first, None):
            own = batch[self.rank :: self.world_size]
            yield own or [batch[0]._replace(is_padding=True)]

    def __len__(self) -> int:
        """Return the number of batches of one epoch."""
        return len(self.batches)

    def _epoch(self, epoch: int | None = None) -> Iterator[list[SampleIndex]]:
        if epoch is not None:
            self.set_epoch(epoch)
        epoch = self.epoch
        for batch in self.batches:
            yield [SampleIndex(index, epoch) for index in batch]

    def _stream(self) -> Iterator[list[SampleIndex]]:
        seen = 0
        for batch in self.batches:
            yield [SampleIndex(index, seen // len(self.sampler)) for index in batch]
            seen += len(batch)


def seed_samples(dataset: Any, seed: int) -> None:
    """Make the random transforms of a sample depend on (seed, epoch, index) only.

    A data loader may then use `SampleIndex` with the dataset. Python's, numpy's and torch's CPU
    generators are seeded before each sample and restored after it. The dataset keeps its class.
    """
    dataset.__getitems__ = partial(_get_samples, dataset, seed)


def _get_samples(dataset: Any, seed: int, indices: Sequence[SampleIndex | int]) -> list[Any]:
    """Return the samples of a batch, as torch's data loader asks for them."""
    samples = []
    for index in indices:
        if not isinstance(index, SampleIndex):
            samples.append(dataset[index])
            continue
        words = np.random.SeedSequence((seed, index.epoch, index.sample)).generate_state(3).tolist()
        with preserve_random_state():
            random.seed(words[0])
            np.random.seed(words[1])
            torch.default_generator.manual_seed(words[2])  # of the CPU; torch.manual_seed seeds all
            sample = dataset[index.sample]
        if index.is_padding and isinstance(sample, dict):
            data_sample = sample.get('data_samples')
            if isinstance(data_sample, BaseDataElement):  # else it is learnt from
                data_sample.set_metainfo(dict(is_padding=True))
        samples.append(sample)
    return samples

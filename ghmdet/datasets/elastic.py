"""The same samples in the same order, with the same random changes, however they are spread.

A batch of the training is formed once, over all processes, and each takes its share. What is random
about a sample follows from the seed, the epoch and its index, not from who loads it. So neither the
number of processes nor that of loader workers matters, and a run that goes on in the middle of an
epoch needs no image of those before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.structures import BaseDataElement
from torch.utils.data import BatchSampler, Sampler

from ghmdet.registry import DATA_SAMPLERS


class Place(NamedTuple):
    """Where in the training a sample stands; the index that a loader worker is given."""

    sample: int
    """Its index in the dataset."""
    epoch: int
    """How often the training has gone through the dataset before."""
    stand_in: bool = False
    """Whether it is there only because a process needs some sample to take part in a step."""


@DATA_SAMPLERS.register_module()
class ElasticBatchSampler(BatchSampler):
    """Gives each process its share of batches that are formed over all processes.

    A batch of `batch_size * processes` samples, as another batch sampler forms it from the order
    of all samples, is dealt out to them in turn. Of a last batch that is smaller some get less; a
    process for which nothing is left gets the first sample as a stand-in, which the head leaves out
    of the loss. With one process the batches are the other sampler's.

    That holds for samplers that know how to leave out what other processes take, `DefaultSampler`
    and `InfiniteSampler` of mmengine and their subclasses. Any other one gives each process a
    stream of its own, which is not dealt out.

    Args:
        sampler: gives indices.
        batch_size: samples per process and batch.
        batches: config of the batch sampler that forms the batches.
        endless: begin the next pass over the dataset where one ends.

    Example:
        >>> sampler = DefaultSampler(range(5), shuffle=False)
        >>> batches = ElasticBatchSampler(sampler, 2, dict(type=BatchSampler, drop_last=False))
        >>> batches.first = 1  # left out in the coming epoch
        >>> [[place.sample for place in batch] for batch in batches]
        [[2, 3], [4]]
    """

    first: int
    """How many batches are left out when the next iteration begins; 0 after that."""
    epoch: int
    """The epoch that the next iteration is of."""

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        batches: Mapping[str, Any],
        endless: bool = False,
    ) -> None:
        self.sampler: Any = sampler
        self.batch_size = batch_size
        self.endless = endless
        self.first = self.epoch = 0
        self.rank, self.world_size = 0, 1
        if _make_whole(sampler):
            self.rank, self.world_size = get_dist_info()
        self.batches = DATA_SAMPLERS.build(
            dict(batches),
            default_args=dict(sampler=sampler, batch_size=batch_size * self.world_size),
        )

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Place]]:  # type: ignore[override]
        """Give out the batches of an epoch, or of all to come."""
        first, self.first = self.first, 0
        if not self.endless:
            batches = self._epoch()
        elif isinstance(self.sampler, InfiniteSampler):
            batches = self._stream()
        else:
            epoch, first = divmod(first, len(self.batches))
            batches = chain.from_iterable(map(self._epoch, count(epoch)))
        yield from map(self._share, islice(batches, first, None))

    def __len__(self) -> int:
        """Count the batches of one epoch."""
        return len(self.batches)

    def _epoch(self, epoch: int | None = None) -> Iterator[list[Place]]:
        if epoch is not None:
            self.set_epoch(epoch)
        epoch = self.epoch
        for batch in self.batches:
            yield [Place(index, epoch) for index in batch]

    def _stream(self) -> Iterator[list[Place]]:
        seen = 0
        for batch in self.batches:
            yield [Place(index, seen // len(self.sampler)) for index in batch]
            seen += len(batch)

    def _share(self, batch: list[Place]) -> list[Place]:
        return batch[self.rank :: self.world_size] or [batch[0]._replace(stand_in=True)]


def _make_whole(sampler: Any) -> bool:
    """Let a sampler give the indices of all processes; whether it can."""
    if not isinstance(sampler, DefaultSampler | InfiniteSampler):
        return False
    sampler.rank, sampler.world_size = 0, 1
    if isinstance(sampler, DefaultSampler):
        sampler.num_samples = sampler.total_size = len(sampler.dataset)
    return True


def seed_samples(dataset: Any, seed: int) -> None:
    """Let what a dataset does to a sample depend on (seed, epoch, index) alone.

    From then on a loader may ask the dataset for a `Place`. Python's, numpy's and torch's own
    generators are seeded before each sample and put back after it; the generators of a device are
    left alone. The dataset keeps its class, which others may look at.
    """
    dataset.__getitems__ = partial(_get_samples, dataset, seed)


def _get_samples(dataset: Any, seed: int, places: Sequence[Place | int]) -> list[Any]:
    """What a loader worker calls for a batch."""
    samples = []
    for place in places:
        if not isinstance(place, Place):
            samples.append(dataset[place])
            continue
        with _seeded(seed, place.epoch, place.sample):
            sample = dataset[place.sample]
        if place.stand_in and isinstance(sample, dict):
            data_sample = sample.get('data_samples')
            if isinstance(data_sample, BaseDataElement):  # else it counts as a repeat
                data_sample.set_metainfo(dict(stand_in=True))
        samples.append(sample)
    return samples


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed the generators of this process for as long as it lasts."""
    python, numpy = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    words = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(words[2])  # of the CPU, without asking for a device
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)

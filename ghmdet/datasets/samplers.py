"""Batches: images of one aspect ratio, one order for all processes, a seed per sample."""

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


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Group the indices of a sampler by `width < height` into batches.

    A batch is given out as soon as its group is full. What is left at the end, first the upright
    images and then the others, is cut into batches too, so one or more of these may be mixed.

    Unlike MMDetection's, a full last batch is kept with `drop_last=True`, so that there are always
    `len(self)` batches; and an epoch broken off leaves nothing behind for the next.

    Args:
        sampler: gives indices and has `dataset`, whose `get_data_info(index)` returns at least
            `width` and `height`; mmengine's samplers and dataset wrappers do.
        batch_size: images per batch.
        drop_last: whether to leave out a last batch that is not full.

    Raises:
        TypeError: the sampler is no `Sampler` or its dataset has no `get_data_info`.
        ValueError: `batch_size` is not a positive int.

    Example:
        >>> from mmengine.dataset import DefaultSampler
        >>> class Sizes:
        ...     sizes_wh = [(4, 3), (3, 4), (4, 3), (3, 4), (4, 3)]
        ...     def __len__(self):
        ...         return len(self.sizes_wh)
        ...     def get_data_info(self, index):
        ...         return dict(zip(('width', 'height'), self.sizes_wh[index]))
        >>> list(AspectRatioBatchSampler(DefaultSampler(Sizes(), shuffle=False), batch_size=2))
        [[0, 2], [1, 3], [4]]
    """

    # torch's annotation knows of no dataset and no length.
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
        if not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(f'batch_size must be a positive int, got {batch_size!r}')
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        """Give out batches of indices."""
        upright: list[int] = []
        lying: list[int] = []
        for index in self.sampler:
            info = self.sampler.dataset.get_data_info(index)
            group = upright if info['width'] < info['height'] else lying
            group.append(index)
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()
        rest = upright + lying
        for start in range(0, len(rest), self.batch_size):
            batch = rest[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        """Count the batches of one epoch."""
        full, short = divmod(len(self.sampler), self.batch_size)
        return full + (short > 0 and not self.drop_last)


class SampleIndex(NamedTuple):
    """Where in the training a sample stands; the index that a loader worker is given."""

    sample: int
    """Its index in the dataset."""
    epoch: int
    """How often the training has gone through the dataset before."""
    is_padding: bool = False
    """Whether it is there only because a process needs some sample to take part in a step."""


@DATA_SAMPLERS.register_module()
class GlobalBatchSampler(BatchSampler):
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
        >>> batches = GlobalBatchSampler(sampler, 2, dict(type=BatchSampler, drop_last=False))
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

    def __iter__(self) -> Iterator[list[SampleIndex]]:  # type: ignore[override]
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

    def _share(self, batch: list[SampleIndex]) -> list[SampleIndex]:
        return batch[self.rank :: self.world_size] or [batch[0]._replace(is_padding=True)]


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

    From then on a loader may ask the dataset for a `SampleIndex`. Python's, numpy's and torch's own
    generators are seeded before each sample and put back after it; the generators of a device are
    left alone. The dataset keeps its class, which others may look at.
    """
    dataset.__getitems__ = partial(_get_samples, dataset, seed)


def _get_samples(dataset: Any, seed: int, places: Sequence[SampleIndex | int]) -> list[Any]:
    """What a loader worker calls for a batch."""
    samples = []
    for place in places:
        if not isinstance(place, SampleIndex):
            samples.append(dataset[place])
            continue
        with _seeded(seed, place.epoch, place.sample):
            sample = dataset[place.sample]
        if place.is_padding and isinstance(sample, dict):
            data_sample = sample.get('data_samples')
            if isinstance(data_sample, BaseDataElement):  # else it counts as a repeat
                data_sample.set_metainfo(dict(is_padding=True))
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

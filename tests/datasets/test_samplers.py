"""Batches by aspect ratio, and the same samples in the same order for any number of processes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import (
    BaseDataset,
    ConcatDataset,
    DefaultSampler,
    InfiniteSampler,
    RepeatDataset,
)
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from ghmdet.datasets import AspectRatioBatchSampler, samplers
from ghmdet.datasets.random_state import preserve_random_state
from ghmdet.datasets.samplers import GlobalBatchSampler, SampleIndex, seed_samples
from ghmdet.registry import DATA_SAMPLERS
from ghmdet.structures import DetDataSample

PLAIN = dict(type=BatchSampler, drop_last=False)
GROUPED = dict(type='AspectRatioBatchSampler')


class Sizes(Dataset):
    """Image i is portrait where the i-th letter is 'p', square where it is 's', else landscape."""

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def __len__(self) -> int:
        return len(self.letters)

    def get_data_info(self, index: int) -> dict:
        width, height = {'p': (3, 4), 's': (4, 4), 'l': (4, 3)}[self.letters[index]]
        return {'width': width, 'height': height}


@pytest.mark.parametrize(
    ('letters', 'batch_size', 'drop_last', 'batches'),
    [
        ('plpl', 2, False, [[0, 2], [1, 3]]),
        # A square image counts as landscape; the last two batches are the rest, portrait first.
        ('lpplspl', 2, False, [[1, 2], [0, 3], [4, 6], [5]]),
        ('lpl', 2, True, [[0, 2]]),
        ('lp', 2, False, [[1, 0]]),
        # MMDetection drops this last batch although it is full and its length counts it.
        ('lp', 2, True, [[1, 0]]),
        ('lpllp', 3, False, [[0, 2, 3], [1, 4]]),
        ('ppll', 3, False, [[0, 1, 2], [3]]),
        ('ppll', 3, True, [[0, 1, 2]]),
        ('plp', 1, False, [[0], [1], [2]]),
    ],
)
def test_batches(letters, batch_size, drop_last, batches):
    sampler = DefaultSampler(Sizes(letters), shuffle=False)
    batch_sampler = AspectRatioBatchSampler(sampler, batch_size, drop_last)
    next(iter(batch_sampler))  # an epoch that is not finished leaves nothing for the next
    assert list(batch_sampler) == batches
    assert len(batch_sampler) == len(batches)


def test_wrapped_datasets():
    infos = [dict(img_id=1, width=3, height=4), dict(img_id=2, width=5, height=4)]
    dataset = BaseDataset(lazy_init=True)
    dataset.load_data_list = lambda: infos
    for wrapped in (RepeatDataset(dataset, 2), ConcatDataset([dataset, dataset])):
        sampler = DefaultSampler(wrapped, shuffle=False)
        batches = DATA_SAMPLERS.build(GROUPED, default_args=dict(sampler=sampler, batch_size=2))
        assert list(batches) == [[0, 2], [1, 3]]


def test_sampler_must_have_the_sizes_and_batches_a_size():
    with pytest.raises(TypeError, match='sampler must be a torch Sampler, got list'):
        AspectRatioBatchSampler([0, 1], 2)
    with pytest.raises(TypeError, match='got SequentialSampler over NoneType; remove'):
        AspectRatioBatchSampler(SequentialSampler([0, 1]), 2)
    for size in (0, -1, 1.5, '2', True):
        with pytest.raises(ValueError, match=f'batch_size must be an integer .* 1, got {size!r}'):
            AspectRatioBatchSampler(DefaultSampler(Sizes('pl')), size)


# --- batches of several processes ---------------------------------------------------------------


@pytest.fixture
def make(monkeypatch):
    def make_sampler(kind, letters, rank, world_size, batch_size, batches, **settings):
        monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
        sampler = kind(Sizes(letters), shuffle=settings.pop('shuffle', False), seed=3)
        # As mmengine's samplers are built in such a process.
        sampler.rank, sampler.world_size = rank, world_size
        if kind is DefaultSampler:
            sampler.num_samples = -(-len(letters) // world_size)
            sampler.total_size = sampler.num_samples * world_size
        return GlobalBatchSampler(sampler, batch_size, dict(batches), **settings)

    return make_sampler


def indices(batches):
    return [[index.sample for index in batch if not index.is_padding] for batch in batches]


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def test_shares_of_two_processes(make):
    found = [list(make(DefaultSampler, 'l' * 9, rank, 2, 2, PLAIN)) for rank in (0, 1)]
    assert indices(found[0]) == [[0, 2], [4, 6], [8]]
    assert indices(found[1]) == [[1, 3], [5, 7], []]
    assert found[1][2] == [SampleIndex(8, 0, is_padding=True)]
    assert len(make(DefaultSampler, 'l' * 9, 1, 2, 2, PLAIN)) == 3


def test_groups_are_formed_over_all_processes(make):
    found = [indices(make(DefaultSampler, 'plplllp', rank, 2, 1, GROUPED)) for rank in (0, 1)]
    # Together [0, 2], [1, 3], [4, 5], [6], as of one process
    assert indices(make(DefaultSampler, 'plplllp', 0, 1, 2, GROUPED)) == [
        [0, 2],
        [1, 3],
        [4, 5],
        [6],
    ]
    assert found == [[[0], [1], [4], [6]], [[2], [3], [5], []]]


@pytest.mark.parametrize('batches', [PLAIN, GROUPED], ids=['plain', 'grouped'])
@pytest.mark.parametrize('length', [12, 13, 14, 15])
@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
def test_any_number_of_processes_sees_the_same(make, kind, length, batches):
    letters = ''.join(random.Random(length).choices('pl', k=length))
    settings = dict(endless=True, shuffle=True)

    def steps(world_size):
        """Sets of samples with their epochs, of 10 steps."""
        size = 4 // world_size
        shares = [
            take(make(kind, letters, rank, world_size, size, batches, **settings), 10)
            for rank in range(world_size)
        ]
        together = zip(*shares, strict=True)
        return [sorted(i for part in step for i in part if not i.is_padding) for step in together]

    alone = steps(1)
    assert sum(map(len, alone)) >= 34
    assert steps(2) == alone
    assert steps(4) == alone


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('first', [0, 1, 4, 5, 13])
def test_skipped_batches(make, kind, first):
    settings = dict(endless=True, shuffle=True)
    whole, rest = (make(kind, 'lplpllllpl', 0, 1, 2, GROUPED, **settings) for _ in range(2))
    rest.first = first
    assert take(rest, 6) == take(whole, first + 6)[first:]


def test_an_epoch_left_in_the_middle(make):
    sampler = make(DefaultSampler, 'lllll', 0, 1, 2, PLAIN)
    sampler.set_epoch(3)
    sampler.first = 2
    assert list(sampler) == [[SampleIndex(4, 3)]]
    assert indices(sampler) == [[0, 1], [2, 3], [4]]  # only once


def test_other_samplers_are_used_as_they_are(monkeypatch):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (1, 2))
    batches = GlobalBatchSampler(SequentialSampler(range(3)), 2, PLAIN)
    assert indices(batches) == [[0, 1], [2]]


# --- random changes -----------------------------------------------------------------------------


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


class Noise(Dataset):
    """Draws from all generators."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        sample = DetDataSample(metainfo=dict(img_id=index))
        return dict(inputs=(index, *draw()), data_samples=sample)


def first_inputs(batch):
    return batch[0]['inputs']


def load(seed, keys, workers=0):
    dataset = Noise()
    seed_samples(dataset, seed)
    batches = [[key] for key in keys]
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=first_inputs
    )
    return dict(zip(keys, loader, strict=True))


def test_changes_depend_on_seed_epoch_and_sample():
    keys = [SampleIndex(index, epoch) for epoch in (0, 1) for index in range(4)]
    found = load(5, keys)
    assert load(5, keys[::-1], workers=2) == found
    draws = [draw for sample in found.values() for draw in sample[1:]]
    assert len(set(draws)) == 24  # no two alike
    assert not {draw for sample in load(6, keys).values() for draw in sample[1:]} & set(draws)


def test_the_generators_of_the_process_are_restored():
    dataset = Noise()
    seed_samples(dataset, 0)
    with preserve_random_state():
        expected = draw()
    dataset.__getitems__([SampleIndex(0, 0), SampleIndex(1, 0)])
    assert draw() == expected


def test_a_padding_sample_is_marked():
    dataset = Noise()
    seed_samples(dataset, 0)
    samples = dataset.__getitems__([SampleIndex(1, 0), SampleIndex(1, 0, is_padding=True), 2])
    assert [s['data_samples'].get('is_padding', False) for s in samples] == [False, True, False]
    assert samples[0]['inputs'] == samples[1]['inputs']
    assert samples[2]['inputs'][0] == 2

"""The same samples in the same order, whoever loads them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from ghmdet.datasets import AspectRatioBatchSampler
from ghmdet.datasets import samplers as elastic
from ghmdet.datasets.samplers import GlobalBatchSampler, SampleIndex, seed_samples
from ghmdet.structures import DetDataSample

PLAIN = dict(type=BatchSampler, drop_last=False)
GROUPED = dict(type='AspectRatioBatchSampler')


class Sizes(Dataset):
    """Image i is upright where the i-th letter is 'u'."""

    def __init__(self, letters):
        self.letters = letters

    def __len__(self):
        return len(self.letters)

    def get_data_info(self, index):
        return dict(width=3, height=4 if self.letters[index] == 'u' else 2)


def sampler_of(kind, letters, monkeypatch, rank, world_size, batch_size, batches, **settings):
    monkeypatch.setattr(elastic, 'get_dist_info', lambda: (rank, world_size))
    sampler = kind(Sizes(letters), shuffle=settings.pop('shuffle', False), seed=3)
    # As mmengine's samplers are built in such a process.
    sampler.rank, sampler.world_size = rank, world_size
    if kind is DefaultSampler:
        sampler.num_samples = -(-len(letters) // world_size)
        sampler.total_size = sampler.num_samples * world_size
    return GlobalBatchSampler(sampler, batch_size, dict(batches), **settings)


def indices(batches):
    return [[place.sample for place in batch if not place.is_padding] for batch in batches]


def test_shares_of_two_processes(monkeypatch):
    found = [
        list(sampler_of(DefaultSampler, 'l' * 9, monkeypatch, rank, 2, 2, PLAIN)) for rank in (0, 1)
    ]
    assert indices(found[0]) == [[0, 2], [4, 6], [8]]
    assert indices(found[1]) == [[1, 3], [5, 7], []]
    assert found[1][2] == [SampleIndex(8, 0, is_padding=True)]
    assert len(sampler_of(DefaultSampler, 'l' * 9, monkeypatch, 1, 2, 2, PLAIN)) == 3


def test_groups_are_formed_over_all_processes(monkeypatch):
    found = [
        indices(sampler_of(DefaultSampler, 'ululllu', monkeypatch, rank, 2, 1, GROUPED))
        for rank in (0, 1)
    ]
    # Together [0, 2], [1, 3], [4, 5], [6]
    assert found == [[[0], [1], [4], [6]], [[2], [3], [5], []]]


@pytest.mark.parametrize('batches', [PLAIN, GROUPED], ids=['plain', 'grouped'])
@pytest.mark.parametrize('length', [12, 13, 14, 15])
@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
def test_any_number_of_processes_sees_the_same(monkeypatch, kind, length, batches):
    letters = ''.join(random.Random(length).choices('ul', k=length))

    def steps(world_size):
        """Sets of samples with their epochs, of 10 steps."""
        shares = []
        for rank in range(world_size):
            sampler = sampler_of(
                kind,
                letters,
                monkeypatch,
                rank,
                world_size,
                4 // world_size,
                batches,
                endless=True,
                shuffle=True,
            )
            shares.append([batch for batch, _ in zip(sampler, range(10), strict=False)])
        dealt = zip(*shares, strict=True)
        return [sorted(p for part in step for p in part if not p.is_padding) for step in dealt]

    alone = steps(1)
    assert sum(map(len, alone)) >= 34
    assert steps(2) == alone
    assert steps(4) == alone


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('first', [0, 1, 4, 5, 13])
def test_batches_left_out(monkeypatch, kind, first):
    def take(skip, count):
        sampler = sampler_of(
            kind, 'lulullullu', monkeypatch, 0, 1, 2, GROUPED, endless=True, shuffle=True
        )
        sampler.first = skip
        return [batch for batch, _ in zip(sampler, range(count), strict=False)]

    assert take(first, 6) == take(0, first + 6)[first:]


def test_an_epoch_left_in_the_middle(monkeypatch):
    sampler = sampler_of(DefaultSampler, 'lllll', monkeypatch, 0, 1, 2, PLAIN)
    sampler.set_epoch(3)
    sampler.first = 2
    assert list(sampler) == [[SampleIndex(4, 3)]]
    assert indices(sampler) == [[0, 1], [2, 3], [4]]  # only once


def test_other_samplers_are_left_to_themselves(monkeypatch):
    monkeypatch.setattr(elastic, 'get_dist_info', lambda: (1, 2))
    batches = GlobalBatchSampler(SequentialSampler(range(3)), 2, PLAIN)
    assert indices(batches) == [[0, 1], [2]]


def test_one_process_has_the_batches_of_the_other_sampler():
    letters = 'luulsul'
    plain = AspectRatioBatchSampler(DefaultSampler(Sizes(letters), seed=1), 2)
    batches = GlobalBatchSampler(DefaultSampler(Sizes(letters), seed=1), 2, GROUPED)
    assert indices(batches) == list(plain)


# --- random changes -----------------------------------------------------------------------------


class Noise(Dataset):
    """Draws from all generators."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        sample = DetDataSample(metainfo=dict(img_id=index))
        noise = (random.random(), np.random.rand(), torch.rand(()).item())
        return dict(inputs=(index, *noise), data_samples=sample)


def load(seed, places, workers=0):
    dataset = Noise()
    seed_samples(dataset, seed)
    loader = DataLoader(
        dataset,
        batch_sampler=[[place] for place in places],
        num_workers=workers,
        collate_fn=lambda batch: batch[0]['inputs'],
    )
    return dict(zip(places, loader, strict=True))


def test_changes_belong_to_seed_epoch_and_sample():
    places = [SampleIndex(index, epoch) for epoch in (0, 1) for index in range(4)]
    found = load(5, places)
    assert load(5, places[::-1], workers=2) == found
    assert load(5, places[::-1], workers=1) == found
    draws = [draw for sample in found.values() for draw in sample[1:]]
    assert len(set(draws)) == 24  # no two alike
    assert not {draw for sample in load(6, places).values() for draw in sample[1:]} & set(draws)


def test_the_generators_of_the_process_do_not_notice():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    dataset = Noise()
    seed_samples(dataset, 0)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    dataset.__getitems__([SampleIndex(0, 0), SampleIndex(1, 0)])
    assert draw() == expected


def test_a_stand_in_is_marked():
    dataset = Noise()
    seed_samples(dataset, 0)
    samples = dataset.__getitems__([SampleIndex(1, 0), SampleIndex(1, 0, is_padding=True), 2])
    assert [s['data_samples'].get('is_padding', False) for s in samples] == [False, True, False]
    assert samples[0]['inputs'] == samples[1]['inputs']
    assert samples[2]['inputs'][0] == 2

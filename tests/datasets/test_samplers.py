from __future__ import annotations

import json

import pytest
from mmengine.dataset import ConcatDataset, DefaultSampler, RepeatDataset
from torch.utils.data import SequentialSampler

from ghmdet.datasets import AspectRatioBatchSampler, CocoDataset
from ghmdet.registry import DATA_SAMPLERS


class Sizes:
    """Image i is upright where the i-th letter is 'u', square where it is 's', else lying."""

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def __len__(self) -> int:
        return len(self.letters)

    def get_data_info(self, index: int) -> dict:
        width, height = {'u': (3, 4), 's': (4, 4), 'l': (4, 3)}[self.letters[index]]
        return {'width': width, 'height': height}


def make_batches(letters: str, batch_size: int, drop_last: bool = False) -> list[list[int]]:
    sampler = DefaultSampler(Sizes(letters), shuffle=False)
    batch_sampler = AspectRatioBatchSampler(sampler, batch_size, drop_last)
    batches = list(batch_sampler)
    assert len(batches) == len(batch_sampler)
    assert list(batch_sampler) == batches
    return batches


@pytest.mark.parametrize(
    ('letters', 'batch_size', 'drop_last', 'batches'),
    [
        ('ulul', 2, False, [[0, 2], [1, 3]]),
        # A square image lies; the last two batches are the rest, upright first.
        ('luulsul', 2, False, [[1, 2], [0, 3], [4, 6], [5]]),
        ('lul', 2, True, [[0, 2]]),
        ('lu', 2, False, [[1, 0]]),
        # MMDetection drops this last batch although it is full and its length counts it.
        ('lu', 2, True, [[1, 0]]),
        ('lullu', 3, False, [[0, 2, 3], [1, 4]]),
        ('uull', 3, False, [[0, 1, 2], [3]]),
        ('uull', 3, True, [[0, 1, 2]]),
        ('ulu', 1, False, [[0], [1], [2]]),
    ],
)
def test_batches(letters, batch_size, drop_last, batches):
    assert make_batches(letters, batch_size, drop_last) == batches


def test_an_epoch_broken_off_leaves_nothing_behind():
    sampler = DefaultSampler(Sizes('uulll'), shuffle=False)
    batch_sampler = AspectRatioBatchSampler(sampler, 2)
    assert next(iter(batch_sampler)) == [0, 1]
    assert list(batch_sampler) == [[0, 1], [2, 3], [4]]


def test_wrapped_datasets(tmp_path):
    images = [
        {'id': number, 'file_name': f'{number}.jpg', 'width': width, 'height': 4}
        for number, width in ((1, 3), (2, 5))
    ]
    coco = {'images': images, 'annotations': [], 'categories': [{'id': 1, 'name': 'cat'}]}
    (tmp_path / 'ann.json').write_text(json.dumps(coco))
    dataset = CocoDataset(str(tmp_path / 'ann.json'), metainfo={'classes': ('cat',)})
    for wrapped in (RepeatDataset(dataset, 2), ConcatDataset([dataset, dataset])):
        sampler = DefaultSampler(wrapped, shuffle=False)
        cfg = {'type': 'AspectRatioBatchSampler'}
        batches = DATA_SAMPLERS.build(cfg, default_args={'sampler': sampler, 'batch_size': 2})
        assert list(batches) == [[0, 2], [1, 3]]


@pytest.mark.parametrize('batch_size', [0, -1, 1.5, '2'])
def test_batch_size_must_be_positive(batch_size):
    sampler = DefaultSampler(Sizes('ul'), shuffle=False)
    with pytest.raises(ValueError, match=f'batch_size must be a positive int, got {batch_size!r}'):
        AspectRatioBatchSampler(sampler, batch_size)


def test_sampler_must_know_the_sizes():
    with pytest.raises(TypeError, match='sampler must be a torch Sampler, got list'):
        AspectRatioBatchSampler([0, 1], 2)
    with pytest.raises(TypeError, match='got SequentialSampler over NoneType; remove'):
        AspectRatioBatchSampler(SequentialSampler([0, 1]), 2)

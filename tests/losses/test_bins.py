"""Counting bins and looking up their weights, two at a time, against one at a time."""

import numpy as np
import pytest
import torch

from ghmdet.losses import bins as bin_functions


def draw(bins, num):
    generator = torch.Generator().manual_seed(bins + num)
    inds = torch.randint(0, bins + 1, (num,), generator=generator, dtype=torch.uint8)
    return inds, torch.rand(bins + 1, generator=generator)


@pytest.mark.parametrize('bins', [1, 10, 30, 126, 127, 128, 254, 255])
@pytest.mark.parametrize('num', [0, 2, 4096])
def test_neighbours_are_counted_and_looked_up(bins, num):
    inds, weights = draw(bins, num)
    expected = np.bincount(inds.numpy(), minlength=bins + 1)[:bins]
    assert bin_functions.count_bins(inds, bins).tolist() == expected.tolist()
    found = bin_functions.prepare_look_up(weights)(inds)
    assert found.equal(weights[inds.long()])


def test_order_and_the_weight_of_entries_that_do_not_count():
    look_up = bin_functions.prepare_look_up(torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64))
    found = look_up(torch.tensor([0, 1, 2, 0], dtype=torch.uint8))
    assert found.tolist() == [0.5, 2.0, 0.0, 0.5]
    assert found.dtype == torch.float32

import math

import numpy as np
import pytest
import torch

from ghmdet.boxes import AnchorGenerator
from tests import golden


@pytest.fixture
def retina():
    return AnchorGenerator(
        octave_base_scale=4,
        scales_per_octave=3,
        ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
    )


def test_base_anchors_grids_and_flags_are_golden(retina):
    figures = golden.load('anchors')
    sizes = [tuple(size) for size in figures['sizes'].tolist()]
    grids = retina.grid_priors(sizes)
    flags = retina.valid_flags(sizes, figures['pad_shape'].tolist())
    for i in range(5):
        np.testing.assert_array_equal(retina.base_anchors[i], figures[f'base{i}'])
        np.testing.assert_array_equal(grids[i], figures[f'grid{i}'])
        np.testing.assert_array_equal(flags[i], figures[f'valid{i}'])


def test_grid_worked_by_hand():
    anchors = AnchorGenerator(strides=[(10, 20)], ratios=[1.0, 4.0], scales=[2.0], base_sizes=[4])
    # Area (4 * 2) ** 2 = 64: 8 x 8, and 4 wide by 16 high. Cells are 10 wide and 20 high.
    base = torch.tensor([[-4.0, -4.0, 4.0, 4.0], [-2.0, -8.0, 2.0, 8.0]])
    right, down = torch.tensor([10.0, 0, 10, 0]), torch.tensor([0, 20.0, 0, 20])
    expected = torch.cat([base, base + right, base + down, base + right + down])
    assert torch.equal(anchors.grid_priors([(2, 2)])[0], expected)


def test_scale_major_runs_over_scales_first():
    kwargs = dict(strides=[1], ratios=[1.0, 4.0], scales=[1.0, 10.0])
    by_ratio = AnchorGenerator(**kwargs).base_anchors[0]
    by_scale = AnchorGenerator(**kwargs, scale_major=False).base_anchors[0]
    widths = by_ratio[:, 2] - by_ratio[:, 0]
    assert widths.tolist() == [1.0, 10.0, 0.5, 5.0]
    assert torch.equal(by_scale, by_ratio[[0, 2, 1, 3]])


def test_center_offset_moves_by_a_share_of_the_base_size():
    anchors = AnchorGenerator(strides=[8], ratios=[1.0], scales=[1.0], center_offset=0.5)
    assert anchors.base_anchors[0].tolist() == [[0.0, 0.0, 8.0, 8.0]]


def test_valid_flags_round_a_part_of_a_cell_up():
    anchors = AnchorGenerator(strides=[8], ratios=[1.0], scales=[1.0, 2.0])
    flags = anchors.valid_flags([(2, 3)], pad_shape=(8, 9))[0]
    # One row of two cells, two anchors each, then the second row of padding.
    assert flags.tolist() == [True] * 4 + [False] * 2 + [False] * 6


def test_wrong_number_of_levels_names_the_keys(retina):
    with pytest.raises(ValueError, match=r'strides has 5 levels .* 2 feature maps.*neck\.num_outs'):
        retina.grid_priors([(1, 1), (1, 1)])
    with pytest.raises(ValueError, match='5 levels'):
        retina.valid_flags([(1, 1)], (8, 8))


OCTAVE = dict(strides=[8], ratios=[1.0], octave_base_scale=4, scales_per_octave=3)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(octave_base_scale=None), ': set either `scales` or both'),
        (dict(scales=[1.0]), ': set either `scales` or both'),
        (dict(base_sizes=[8, 16]), ': 1 strides but 2 base_sizes'),
        (dict(center_offset=2.0), r'.center_offset must be a number in \[0, 1\], got 2.0'),
        (dict(strides=[]), r'.strides must be positive numbers, at least one, got \[\]'),
        (dict(strides=8), '.strides .* got 8'),
        (dict(strides=[(8, 0)]), r'.strides .* got \[\(8, 0\)\]'),
        (dict(ratios=[0.5, -1]), r'.ratios .* got \[0.5, -1\]'),
        (dict(ratios='[0.5,1]'), r".ratios .* got '\[0.5,1\]'"),
        (dict(ratios=['0.5']), r".ratios .* got \['0.5'\]"),
        (dict(octave_base_scale='4'), '.octave_base_scale must be positive'),
        (dict(octave_base_scale=math.nan), '.octave_base_scale must be positive'),
        (dict(scales_per_octave=0), '.scales_per_octave must be an integer of at least 1, got 0'),
        (dict(scales_per_octave=1.5), '.scales_per_octave .* got 1.5'),
        (dict(base_sizes=[0]), r'.base_sizes .* got \[0\]'),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=f'^anchor_generator{message}'):
        AnchorGenerator(**{**OCTAVE, **change})

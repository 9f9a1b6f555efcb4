"""Charts of the gradient norms."""

import json

import numpy as np
import pytest
import torch
from results.gradient_counts import GradientCounts

from ghmdet.losses import GHMC, GHMR
from ghmdet.reports.ghm import draw_densities, draw_history
from ghmdet.reports.plots import COLORS
from tests.tools.analysis_tools.test_gradient_counts import draw_entries


def content_of(seed=0, boxes=True):
    cls, bbox = GradientCounts(GHMC(bins=5), GHMC()), GradientCounts(GHMR(bins=4), GHMR())
    for level in ('stride 8', 'stride 16'):
        cls.add(level, *draw_entries(seed))
        pred = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))
        bbox.add(level, pred / 20, torch.zeros(50, 4), torch.full((50, 4), float(boxes)))
    return dict(checkpoint='x', loss_cls=cls.content(), loss_bbox=bbox.content())


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_densities_are_entries_per_unit_of_the_norm():
    content = json.loads(json.dumps(dict(models=[content_of(0), content_of(1)])))
    axes = draw_densities(content).axes
    assert len(axes) == 6
    levels, harmonised, shares = (lines_of(each) for each in axes[:3])
    first, second = (model['loss_cls'] for model in content['models'])
    assert levels['stride 16'].get_xdata().tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert levels['stride 16'].get_ydata().tolist() == [5 * n for n in first['counts'][1]]
    total = np.sum(second['counts'], axis=0) * 5
    assert levels['all (compared)'].get_ydata().tolist() == total.tolist()
    assert list(levels) == ['all', 'stride 8', 'stride 16', 'all (compared)']
    flat = harmonised['after harmonising'].get_ydata()
    assert flat == pytest.approx(np.full(5, flat[0]))
    assert flat.sum() / 5 == pytest.approx(np.sum(first['counts']))
    assert shares['GHM (compared)'].get_ydata() == pytest.approx(second['shares']['GHM'])
    # Models differ in dashes, lines in markers: also in black and white.
    assert {line.get_linestyle() for line in shares.values()} == {'-', '--'}
    for each in axes:
        lines = [line for line in each.get_lines() if line.get_linestyle() == '-']
        assert len({line.get_marker() for line in lines}) == len(lines)
        assert {line.get_color() for line in lines} <= set(COLORS)


def test_a_loss_without_entries_is_left_out_and_so_are_empty_bins():
    content = content_of(boxes=False)
    content['loss_cls']['counts'] = [[3, 0, 0, 0, 1]] * 2
    figure = draw_densities(dict(models=[content]))
    assert [each.get_title() for each in figure.axes] == ['GHM-C, classification'] * 3
    drawn = lines_of(figure.axes[0])['all'].get_ydata()
    assert np.isnan(drawn).tolist() == [False, True, True, True, False]


def test_history_has_a_column_for_each_record():
    names = 'loss_cls', 'loss_bbox'
    records = [
        {'iter': step, **{f'ghm/{name}/bin_{i:02}': step * i for name in names for i in range(3)}}
        for step in (10, 20, 40)
    ]
    del records[1]['ghm/loss_cls/bin_02'], records[2]['ghm/loss_bbox/bin_00']
    records += [{'iter': 50, 'loss': 1.0}]  # of another hook
    records[0]['ghm/loss_cls/max_weight'] = 7.0
    panels = [each for each in draw_history(records).axes if each.get_title()]
    assert [each.get_title() for each in panels] == list(names)
    (mesh,) = panels[0].collections
    counts = mesh.get_array()
    # Bins upwards, records to the right; 0 and missing are white.
    assert counts.filled(-1).tolist() == [[-1, -1, -1], [10, 20, 40], [20, -1, 80]]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [10, 20, 40, 60]
    assert mesh.get_coordinates()[:, 0, 1].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_history_of_one_record_without_entries():
    (panel, _) = draw_history([{'iter': 50, 'ghm/loss_cls/bin_00': 0}]).axes
    assert panel.collections[0].get_array().mask.all()


def test_history_without_records():
    with pytest.raises(ValueError, match='no record has counts of a GHM loss'):
        draw_history([{'iter': 1, 'loss': 2.0}])

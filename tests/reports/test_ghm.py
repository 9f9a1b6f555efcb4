"""Gradient norms before and after harmonising, and their charts."""

import json

import numpy as np
import pytest
import torch

from ghmdet.losses import GHMC, GHMR, CrossEntropyLoss, FocalLoss, L1Loss
from ghmdet.reports.ghm import GradientCounts, draw_densities, draw_history
from ghmdet.reports.plots import COLORS

# Probabilities of 4 rows of 1 class: norms 0.1, 0.3, 0.2 (background) and 0.9 (label 0).
PRED = torch.tensor([0.1, 0.3, 0.2, 0.1]).logit()[:, None]
LABELS, WEIGHT = torch.tensor([1, 1, 1, 0]), torch.ones(4)


def draw_entries(seed=0, rows=2000, classes=3):
    generator = torch.Generator().manual_seed(seed)
    pred = 2 * torch.randn(rows, classes, generator=generator) - 2
    labels = torch.randint(0, 2 * classes, (rows,), generator=generator).clamp(max=classes)
    weight = (torch.rand(rows, generator=generator) > 0.1).float()
    return pred, labels, weight


def test_worked_by_hand():
    part = GradientCounts(GHMC(bins=4), GHMC(bins=30))
    part.add('stride 8', PRED, LABELS, WEIGHT)
    content = part.content()
    assert content['edges'] == [0, 0.25, 0.5, 0.75, 1]
    assert content['counts'] == [[2, 1, 0, 1]]
    # Weights are 4 / 3 / count: each of the three bins holds 4 / 3.
    assert content['harmonised'] == [pytest.approx([4 / 3, 4 / 3, 0, 4 / 3])]
    sums = {'cross entropy': [0.3, 0.3, 0, 0.9], 'GHM': [0.15, 0.3, 0, 0.9]}
    p = np.array([0.1, 0.3, 0.2])  # of background; the norm of the last entry is 1 - 0.1
    focal = 0.75 * p**2 * (p - 2 * (1 - p) * np.log(1 - p))
    hard = 0.25 * 0.9**2 * (0.9 - 2 * 0.1 * np.log(0.1))
    sums['focal loss'] = [focal[0] + focal[2], focal[1], 0, hard]
    for name, expected in sums.items():
        shares = np.divide(expected, sum(expected))
        assert content['shares'][name] == pytest.approx(shares.tolist(), rel=1e-5), name


def test_deltas_worked_by_hand():
    """Norms 0, 3/5, 4/5 and 0.96 at mu 1; the second row has no weight."""
    pred = torch.tensor([[0.0, 0.75, 4 / 3, 24 / 7], [9.0, 9.0, 9.0, 9.0]])
    weight = torch.tensor([[1.0] * 4, [0.0] * 4])
    part = GradientCounts(GHMR(mu=1, bins=2), GHMR())
    part.add('a', pred, torch.zeros(2, 4), weight)
    content = part.content()
    assert content['counts'] == [[1, 3]]
    assert content['harmonised'][0] == pytest.approx([2, 2])
    assert content['shares']['smooth L1 (ASL1)'] == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ('name', 'loss'),
    [
        ('focal loss', FocalLoss(reduction='sum')),
        ('cross entropy', CrossEntropyLoss(use_sigmoid=True, reduction='sum')),
        ('GHM', GHMC(bins=30)),
    ],
)
def test_shares_are_those_of_the_gradients_of_the_losses(name, loss):
    """Gradients by autograd, summed in the bins of numpy."""
    pred, labels, weight = draw_entries()
    part = GradientCounts(GHMC(bins=30), GHMC(bins=30))
    part.add('a', pred, labels, weight)
    pred.requires_grad_()
    loss(pred, labels, weight).backward()
    target = torch.eye(4)[labels][:, :3]
    norms = (pred.detach().sigmoid() - target).abs()[weight > 0].flatten()
    gradients = pred.grad.abs()[weight > 0].flatten().double()
    expected, _ = np.histogram(norms, np.linspace(0, 1, 31), weights=gradients)
    found = part.content()['shares'][name]
    assert found == pytest.approx((expected / expected.sum()).tolist(), rel=1e-3)


def test_without_momentum_each_bin_that_has_entries_holds_the_same():
    part = GradientCounts(GHMC(bins=30), GHMC())
    totals = []
    for seed, level in enumerate(['stride 8', 'stride 8', 'stride 16']):
        entries = draw_entries(seed, 10 * (seed + 1))
        part.add(level, *entries)
        totals.append(int(entries[2].sum()) * 3)
    content = part.content()
    assert content['levels'] == ['stride 8', 'stride 16']
    assert np.sum(content['counts'], axis=1).tolist() == [totals[0] + totals[1], totals[2]]
    filled = np.array(content['counts'][1]) > 0
    assert 10 < filled.sum() < 30
    expected = np.where(filled, totals[2] / filled.sum(), 0)
    assert content['harmonised'][1] == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize('bias_correct', [False, True])
def test_with_momentum_the_deviation_is_that_of_the_counts_from_the_running_ones(bias_correct):
    """Running counts of one call, of other entries; scaled to the sum of the counts."""
    loss = GHMC(bins=30, momentum=0.75, bias_correct=bias_correct)
    loss(*draw_entries(1))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    running = loss.acc_sum / (loss.acc_share if bias_correct else 1)
    part = GradientCounts(loss, GHMC())
    part.add('a', *draw_entries(2))
    content = part.content()
    counts, harmonised = np.array(content['counts'][0]), np.array(content['harmonised'][0])
    running = running.numpy() * (counts.sum() / running.sum().item())
    filled = (counts > 0) & (running >= 1)
    assert content['acc_sum'] == loss.acc_sum.tolist()
    expected = counts.sum() / (counts > 0).sum() * counts / running
    assert harmonised[filled] == pytest.approx(expected[filled], rel=1e-4)
    assert filled.sum() > 20
    # The loss of the model is as it was.
    assert loss.training
    assert loss.bin_records is None
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_other_losses_are_counted_by_the_default():
    part = GradientCounts(FocalLoss(), GHMC(bins=30))
    own = GradientCounts(GHMC(bins=30), GHMC(bins=7))
    for each in (part, own):
        each.add('a', *draw_entries())
    content, expected = part.content(), own.content()
    assert content == {**expected, 'own_loss': False}
    assert content['acc_sum'] is None
    assert GradientCounts(L1Loss(), GHMR(bins=10)).loss.bins == 10
    assert GradientCounts(GHMR(mu=0.5, bins=7), GHMR()).loss.mu == 0.5


# --- charts ---------------------------------------------------------------------------------------


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

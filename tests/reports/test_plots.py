"""What stands in the panels of the curves."""

import math

import pytest

from ghmdet.reports.logs import RunLog
from ghmdet.reports.plots import draw_curves


def log(name, count, ap=()):
    """A run of 10 iterations an epoch, a record each 5, and validations after the first epochs."""
    train = [
        dict(iter=5 * i, epoch=(i + 1) // 2, loss=1 / i, loss_cls=0.5 / i, lr=0.1)
        for i in range(1, count + 1)
    ]
    val = [{'iter': 10 * i, 'coco/bbox_mAP': value} for i, value in enumerate(ap, 1)]
    return RunLog(name, train, val)


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_losses_metrics_and_others_have_panels():
    figure = draw_curves([log('a', 4, [0.1, 0.2])], ['loss', 'loss_cls', 'bbox_mAP', 'lr'])
    assert [axes.get_ylabel() for axes in figure.axes] == ['loss', 'validation', 'lr']
    assert lines(figure.axes[0])['loss_cls'] == [[5, 0.5], [10, 0.25], [15, 0.5 / 3], [20, 0.125]]
    assert lines(figure.axes[1]) == {'coco/bbox_mAP': [[10, 0.1], [20, 0.2]]}
    assert draw_curves([log('a', 4)], []).axes == []


def test_runs_of_other_lengths_share_a_panel():
    (axes,) = draw_curves([log('a', 2), log('b', 3)], ['loss'], by_epoch=True).axes
    assert lines(axes) == {
        'loss (a)': [[0.5, 1], [1, 0.5]],
        'loss (b)': [[0.5, 1], [1, 0.5], [1.5, 1 / 3]],
    }
    assert axes.get_xlabel() == 'epoch'


def test_lines_differ_in_colour_or_style():
    runs = [log(f'run {i}', 2) for i in range(7)]
    for some in (runs[:1], runs):
        axes = draw_curves(some, ['loss', 'loss_cls']).axes[0]
        looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
        assert len(looks) == len(axes.lines) == 2 * len(some)


def test_values_that_are_not_finite_are_counted_in_the_legend():
    run = log('a', 4)
    run.train[1]['loss'], run.train[2]['loss'] = math.inf, math.nan
    (axes,) = draw_curves([run], ['loss']).axes
    assert [line.get_label() for line in axes.lines] == ['loss, 2 not finite']
    assert axes.get_ylim()[1] < 1.1


def test_names_are_no_formulas(tmp_path):
    draw_curves([log('cost$', 2), log('_a', 2)], ['loss']).savefig(tmp_path / 'a.svg')
    assert 'cost' in (tmp_path / 'a.svg').read_text()


@pytest.mark.follows('has no epochs, an iteration-based run: draw')
def test_what_cannot_be_drawn_is_an_error():
    run = log('a', 2)
    for record in run.train:
        del record['epoch']

"""Precision, recall, F1 and the best thresholds, worked by hand and by trying all."""

import csv
import json

import numpy as np
import pytest

from ghmdet.evaluation.matching import match
from ghmdet.evaluation.thresholds import (
    ALL,
    best_thresholds,
    draw_curves,
    format_thresholds,
    make_curves,
    write_curves,
)
from tests.evaluation.test_matching import CLASSES, annotations, found, random_truth


@pytest.fixture
def by_hand(tmp_path):
    """Three cats, of which two are found; no dog is there; the owl is not found."""
    cats = [(1, 'cat', x, 0, 10, 10) for x in (0, 50, 100)]
    crowd = (1, 'cat', 300, 0, 100, 100, dict(iscrowd=1))
    truth = annotations([*cats, crowd, (1, 'owl', 0, 200, 10, 10)], tmp_path)
    detections = [
        ('cat', 0, 0, 10, 10, 0.9),
        ('cat', 0, 0, 10, 10, 0.7),  # a second one of the same cat
        ('cat', 50, 0, 10, 10, 0.7),
        ('cat', 200, 0, 10, 10, 0.2),
        ('cat', 310, 10, 10, 10, 0.8),  # in the crowd
        ('dog', 0, 0, 10, 10, 0.6),
    ]
    return match(truth, [found(1, *detections)], CLASSES)


def test_figures_worked_by_hand(by_hand):
    curves = make_curves(by_hand)
    assert list(curves) == [*CLASSES, ALL]
    cat = curves['cat']
    assert cat.score.tolist() == [0.9, 0.7, 0.2]
    assert cat.precision.tolist() == [1, 2 / 3, 2 / 4]
    assert cat.recall.tolist() == [1 / 3, 2 / 3, 2 / 3]
    assert cat.f1.tolist() == [2 / 4, 4 / 6, 4 / 7]
    best = best_thresholds(curves, 0.5)
    nothing = dict.fromkeys(('threshold', 'precision', 'recall', 'f1'))
    two_thirds = dict.fromkeys(('precision', 'recall', 'f1'), 2 / 3)
    assert best == {
        'iou_thr': 0.5,
        'classes': {
            'cat': dict(threshold=0.7, **two_thirds, objects=3, detections=4),
            'dog': dict(**nothing, objects=0, detections=1),
            'owl': dict(**nothing, objects=1, detections=0),
        },
        'all': dict(threshold=0.7, precision=2 / 3, recall=0.5, f1=4 / 7, objects=4, detections=5),
    }
    lines = [line.split() for line in format_thresholds(best).splitlines()]
    assert lines == [
        ['class', 'threshold', 'precision', 'recall', 'f1', 'objects', 'detections'],
        ['cat', '0.700', '0.667', '0.667', '0.667', '3', '4'],
        ['dog', 'n/a', 'n/a', 'n/a', 'n/a', '0', '1'],
        ['owl', 'n/a', 'n/a', 'n/a', 'n/a', '1', '0'],
        ['(all)', '0.700', '0.667', '0.500', '0.571', '4', '5'],
    ]


def test_of_equal_f1_the_higher_score_is_the_threshold(tmp_path):
    truth = annotations([(1, 'cat', x, 0, 10, 10) for x in (0, 50)], tmp_path)
    scores = [('cat', 0, 0, 10, 10, 0.8), ('cat', 200, 0, 10, 10, 0.5), ('cat', 50, 0, 9, 10, 0.5)]
    scores += [('cat', 300 + i, 0, 10, 10, 0.4) for i in range(3)]
    # 0.8: 2 / (1 + 2); 0.5: 4 / (3 + 2); 0.4: 4 / (6 + 2)
    curves = make_curves(match(truth, [found(1, *scores)], CLASSES))
    assert curves['cat'].f1.tolist() == [2 / 3, 4 / 5, 4 / 8]
    scores[2:3] = []  # the second cat is not found, F1 falls from 2/3 at once
    scores += [('cat', 50, 0, 9, 10, 0.3)]
    curves = make_curves(match(truth, [found(1, *scores)], CLASSES))
    assert curves['cat'].f1.tolist() == [2 / 3, 2 / 4, 2 / 7, 4 / 8]
    scores[1:5] = [('cat', 200, 0, 10, 10, 0.7), ('cat', 200, 0, 10, 10, 0.6)]
    curves = make_curves(match(truth, [found(1, *scores)], CLASSES))
    assert curves['cat'].f1.tolist() == [2 / 3, 2 / 4, 2 / 5, 4 / 6]
    assert curves['cat'].find_best()['threshold'] == 0.8


@pytest.mark.parametrize('seed', range(4))
def test_thresholds_equal_trying_every_score(seed, tmp_path):
    truth, images = random_truth(seed, tmp_path, 40)
    best = best_thresholds(make_curves(match(truth, images, CLASSES)), 0.5)
    scores = np.unique(np.concatenate([image['scores'] for image in images]))
    results = {}
    for score in scores.tolist():
        matches = match(truth, images, CLASSES, score_thr=score)  # from the start, each time
        found, objects = matches.detections, matches.count_objects()
        for label, name in [*enumerate(CLASSES), (slice(None), ALL)]:
            of_class = np.isin(found.label, np.arange(3)[label])
            true, false = (int((flag & of_class).sum()) for flag in (found.is_true, found.is_false))
            missed = int(objects[label].sum()) - true
            if true:
                f1 = true / (true + (false + missed) / 2)
                figures = true / (true + false), true / (true + missed), f1
                results.setdefault(name, {})[score] = figures
    for name, of_class in results.items():
        ours = best['classes'].get(name, best['all'])
        highest = max(f1 for _, _, f1 in of_class.values())
        expected = max(score for score, (_, _, f1) in of_class.items() if f1 > highest - 1e-12)
        assert ours['threshold'] == expected
        figures = [ours[key] for key in ('precision', 'recall', 'f1')]
        np.testing.assert_allclose(figures, of_class[expected], rtol=1e-12)
    assert {'cat', 'dog', ALL} == results.keys()
    assert best['classes']['owl']['threshold'] is None


def test_a_threshold_is_the_score_itself(tmp_path):
    truth = annotations([(1, 'cat', 0, 0, 10, 10)], tmp_path)
    image = found(1, ('cat', 0, 0, 10, 10, 0.7))
    image['scores'] = image['scores'].astype(np.float32)  # as a test keeps them
    best = best_thresholds(make_curves(match(truth, [image], CLASSES)), 0.5)
    threshold = json.loads(json.dumps(best))['classes']['cat']['threshold']
    assert threshold == 0.699999988079071
    assert (image['scores'] >= threshold).all()


def test_the_files_have_the_curves(by_hand, tmp_path):
    curves = make_curves(by_hand)
    write_curves(tmp_path / 'new', curves)
    rows = list(csv.reader((tmp_path / 'new/curves.csv').open()))
    assert rows[:4] == [
        ['class', 'threshold', 'precision', 'recall', 'f1'],
        ['cat', '0.9', '1.0', '0.3333333333333333', '0.5'],
        ['cat', '0.7', '0.6666666666666666', '0.6666666666666666', '0.6666666666666666'],
        ['cat', '0.2', '0.5', '0.6666666666666666', '0.5714285714285714'],
    ]
    assert [row[0] for row in rows[4:]] == ['dog', *[ALL] * 4]
    assert (tmp_path / 'new/curves.png').read_bytes()[:4] == b'\x89PNG'
    lines = draw_curves(curves).axes[1].lines
    # From 0.9 down to 0.7 one cat of three is found; a point marks the best.
    assert [line.get_xdata().tolist() for line in lines[:2]] == [[0.9, 0.7, 0.2, 0], [0.7]]
    assert lines[0].get_ydata().tolist() == [1 / 3, 2 / 3, 2 / 3, 2 / 3]
    assert lines[0].get_drawstyle() == 'steps-post'


def test_the_files_have_names_in_any_script(by_hand, tmp_path):
    curves = {'貓 \ud800': make_curves(by_hand)['dog']}  # as in a file on any system
    write_curves(tmp_path, curves)
    assert (tmp_path / 'curves.csv').read_bytes().splitlines()[
        1
    ].decode() == '貓 \\ud800,0.6,0.0,nan,0.0'


def test_long_curves_are_written_in_part_with_the_best_point(tmp_path):
    rng = np.random.default_rng(0)
    truth = annotations([(1, 'cat', 0, 0, 10, 10)], tmp_path)
    noise = [('cat', 100, 100, 5, 5, s) for s in rng.random(5000).tolist()]
    images = [found(1, *noise, ('cat', 0, 0, 10, 10, 0.51234567))]
    curves = make_curves(match(truth, images, CLASSES))
    write_curves(tmp_path, curves)
    rows = [row for row in csv.reader((tmp_path / 'curves.csv').open()) if row[0] == 'cat']
    assert 1000 <= len(rows) <= 1001
    assert '0.51234567' in [row[1] for row in rows]
    assert float(rows[0][1]) == max(image['scores'].max() for image in images)


def test_nothing_found_gives_no_threshold_and_no_picture(tmp_path):
    truth = annotations([(1, 'cat', 0, 0, 10, 10)], tmp_path)
    for image in (found(1), found(1, ('cat', 90, 0, 10, 10, 0.5))):
        curves = make_curves(match(truth, [image], CLASSES))
        assert best_thresholds(curves, 0.5)['all']['threshold'] is None
        write_curves(tmp_path, curves)
        assert not (tmp_path / 'curves.png').exists()
        count = len(image['scores'])
        assert len((tmp_path / 'curves.csv').read_text().splitlines()) == 1 + 2 * count

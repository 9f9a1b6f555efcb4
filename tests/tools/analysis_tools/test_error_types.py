"""TIDE's kinds of errors, against tidecv 1.0.1 and worked by hand."""

import json
import math
from pathlib import Path

import pytest
from results.error_types import DESCRIPTIONS, KINDS, find_errors
from results.files import read_results

from ghmdet.evaluation.coco_annotations import CocoAnnotations
from ghmdet.evaluation.matching import match
from tests.data.golden.tide_sets import as_detections, draw_truth, drawn_sets, photograph_sets
from tests.golden import FOLDER

GOLDEN = json.loads((FOLDER / 'tide.json').read_text())
PHOTOGRAPHS = Path(__file__).parents[4] / 'shared' / 'data'
DRAWN = drawn_sets()


def measure(folder, truth, results):
    for name, content in (('truth', truth), ('results', results)):
        (folder / f'{name}.json').write_text(json.dumps(content))
    annotations = CocoAnnotations.from_file(str(folder / 'truth.json'))
    classes = [category['name'] for category in truth['categories']]
    images = read_results(folder / 'results.json', annotations, classes)
    return find_errors(match(annotations, images, classes))


def total(errors):
    return dict(zip(KINDS, errors.counts.sum(axis=1).tolist(), strict=True))


def check_golden(errors, name):
    golden = GOLDEN[name]
    assert errors.ap50 == pytest.approx(golden['AP50'], abs=1e-6)
    assert errors.dap == pytest.approx(golden['dAP'], abs=1e-6)
    return golden['counts']


@pytest.mark.parametrize('name', DRAWN)
def test_drawn_sets_as_tidecv(name, tmp_path):
    errors = measure(tmp_path, *DRAWN[name])
    counts = check_golden(errors, name)
    if name in ('crowds', 'perfect'):  # tidecv counts detections of crowd regions as errors
        assert all(total(errors)[kind] <= counts[kind] for kind in KINDS)
        assert total(errors)['Miss'] == counts['Miss']
    else:
        assert total(errors) == counts


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason='no ../shared/data')
@pytest.mark.parametrize('name', ['coco_mini', 'deeppcb', 'bloodcells', 'microcontroller'])
def test_detections_for_photographs_as_tidecv(name, tmp_path):
    check_golden(measure(tmp_path, *photograph_sets(PHOTOGRAPHS)[name]), name)


def box(category, bbox, **more):
    return {'image_id': 1, 'category_id': category, 'bbox': bbox, **more}


def content(*boxes, num_classes=2):
    annotations = [{'id': i, 'iscrowd': 0, **each} for i, each in enumerate(boxes, 1)]
    return {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 1000, 'height': 1000}],
        'categories': [{'id': i + 1, 'name': f'c{i + 1}'} for i in range(num_classes)],
        'annotations': annotations,
    }


def test_one_error_of_each_kind(tmp_path):
    """Four objects of class 1 and one of class 2, of which the first is found."""
    truth = content(
        box(1, [0, 0, 100, 100]),
        box(1, [200, 0, 100, 100]),
        box(1, [400, 0, 100, 100]),
        box(1, [600, 0, 100, 100]),
        box(2, [800, 0, 100, 100]),
    )
    results = [
        box(1, [0, 0, 100, 100], score=0.9),  # true
        box(1, [0, 0, 100, 90], score=0.8),  # Dupe
        box(1, [200, 0, 100, 40], score=0.7),  # Loc: IoU 0.4
        box(2, [400, 0, 100, 100], score=0.6),  # Cls
        box(2, [600, 0, 100, 30], score=0.5),  # Both: IoU 0.3
        box(2, [0, 500, 10, 10], score=0.4),  # Bkg
    ]
    errors = measure(tmp_path, truth, results)
    names = [KINDS[kind] if kind >= 0 else '' for kind in errors.kind.tolist()]
    assert names == ['', 'Dupe', 'Loc', 'Cls', 'Both', 'Bkg']
    assert errors.target.tolist() == [-1, -1, 1, 2, -1, -1]
    assert errors.missed.tolist() == [False, False, False, True, True]
    assert errors.counts.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 1]]
    # Class 1: recall 1/4 at precision 1, so 26 of 101 points; class 2 nothing. Mean over both.
    ap50 = 100 * (26 / 101) / 2
    assert errors.ap50 == pytest.approx(ap50)
    # Loc: 0.9 true, 0.8 false, 0.7 true: 25 more points, 26 to 50, at precision 2/3.
    # Cls: 0.9 true, then 0.8 and 0.7 false, 0.6 true: the same points at 2/4.
    # Miss: class 1 has 3 objects (34 points at precision 1), class 2 none but false detections.
    # FalseNeg: class 1 has 1 object, so all 101 points at 1; class 2 has none.
    gains = {
        'Cls': 25 / 101 * 2 / 4 / 2,
        'Loc': 25 / 101 * 2 / 3 / 2,
        'Miss': 8 / 101 / 2,
        'FalseNeg': 75 / 101 / 2,
    }
    expected = {name: 100 * gains.get(name, 0) for name in DESCRIPTIONS}
    assert errors.dap == pytest.approx(expected)


def test_ground_truth_has_no_errors(tmp_path):
    """With boxes drawn twice, shared by two classes, crowds, ignored ones, 120 in an image."""
    truth = draw_truth('all right', 12, 3, crowd=0.2, same_box=0.4)
    grid = [box(1 + i % 3, [i % 12 * 50, i // 12 * 50, 60, 60]) for i in range(120)]
    marked = [box(1, [5, 5, 50, 50], ignore=1), box(1, [5, 5, 50, 50]), box(2, [5, 5, 50, 50])]
    truth['annotations'] += [{'iscrowd': 0, **each} for each in grid + marked]
    for number, each in enumerate(truth['annotations'], 1):
        each['id'] = number
    errors = measure(tmp_path, truth, as_detections(truth))
    assert errors.ap50 == 100
    assert errors.dap == dict.fromkeys(DESCRIPTIONS, 0)
    assert not errors.counts.any()
    assert not errors.missed.any()
    assert (errors.kind == -1).all()


def test_without_detections_everything_is_missed(tmp_path):
    truth = content(box(1, [0, 0, 10, 10]), box(1, [0, 50, 10, 10]), box(2, [50, 0, 10, 10]))
    errors = measure(tmp_path, truth, [])
    assert errors.ap50 == 0
    assert errors.missed.all()
    # Without the missed ones nothing is wrong.
    expected = dict.fromkeys(DESCRIPTIONS, 0) | {'Miss': 100, 'FalseNeg': 100}
    assert errors.dap == expected
    assert errors.counts[KINDS.index('Miss')].tolist() == [2, 1]


def test_without_objects_there_is_no_ap(tmp_path):
    results = [box(2, [0, 0, 10, 10], score=0.5), box(2, [5, 0, 10, 10], score=0.4)]
    errors = measure(tmp_path, content(), results)
    assert math.isnan(errors.ap50)
    assert all(map(math.isnan, errors.dap.values()))
    assert total(errors) == dict.fromkeys(KINDS, 0) | {'Bkg': 2}

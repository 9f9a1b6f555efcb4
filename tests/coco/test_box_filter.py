"""Which boxes are used in training and in a test, and what a file without usable boxes is told."""

from __future__ import annotations

import pytest

from ghmdet.coco.box_filter import check_boxes
from ghmdet.coco.records import CocoRecords, convert_records

LABELS = {1: 0}
NAMES = {1: 'cat', 2: 'dog'}
SIZE = dict(width=100, height=80)


def make(boxes: list[dict], size: dict = SIZE) -> CocoRecords:
    annotations = [dict(id=i, image_id=7, category_id=1) | box for i, box in enumerate(boxes)]
    categories = [dict(id=id_, name=name) for id_, name in NAMES.items()]
    images = [dict(id=7, file_name='a.jpg') | size]
    data = dict(images=images, annotations=annotations, categories=categories)
    return convert_records(data, 'ann.json')


USED = 'used'
TABLE = [
    # box, in training, in a test
    (dict(bbox=[10, 10, 20, 20]), USED, USED),
    (dict(bbox=[10, 10, 20, 20], category_id=2), 'of other classes', 'of other classes'),
    (dict(bbox=[0, 0, 0, 0], area=0), 'without width or height', 'without width or height'),
    (dict(bbox=[30, 30, -10, 5]), 'without width or height', 'without width or height'),
    (dict(bbox=[100, 10, 20, 20]), 'outside the image', 'outside the image'),
    (dict(bbox=[-20, 10, 20, 20]), 'outside the image', 'outside the image'),
    (dict(bbox=[99, 79, 20, 20]), USED, USED),
    (dict(bbox=[10, 10, 0.5, 20]), 'thinner than a pixel', USED),
    (dict(bbox=[10, 10, 20, 20], area=0), 'with an area of 0 or less', USED),
    (dict(bbox=[10, 10, 20, 20], area=-3), 'with an area of 0 or less', USED),
    (dict(bbox=[10, 10, 20, 20], iscrowd=1), USED, USED),
    (dict(bbox=[10, 10, 20, 20], ignore=1), USED, USED),
]


@pytest.mark.parametrize('test_mode', [False, True])
def test_the_rule_for_each_kind_of_box(test_mode):
    check = check_boxes(make([box for box, *_ in TABLE]), LABELS, test_mode)
    expected = [kinds[test_mode] for _, *kinds in TABLE]
    assert check.used.tolist() == [i for i, kind in enumerate(expected) if kind == USED]
    counts = {kind: expected.count(kind) for kind in expected if kind != USED}
    assert check.count_dropped() == counts
    # Defects are named only where the box is left out.
    assert ('thinner than a pixel' in check.describe_defects()) == (not test_mode)
    assert check.explain(NAMES) == ''


@pytest.mark.parametrize('size', [{}, dict(width=None, height=None), dict(width=0, height=0)])
def test_without_the_size_of_an_image_only_left_and_above_are_outside(size):
    boxes = [[5000, 5000, 9, 9], [-9, 5, 9, 9], [5, -20, 9, 9], [-8, 5, 9, 9]]
    check = check_boxes(make([dict(bbox=bbox) for bbox in boxes], size), LABELS, test_mode=True)
    assert check.used.tolist() == [0, 3]


def box(**change):
    return dict(bbox=[10, 10, 20, 20]) | change


UNIT = [0.1, 0.2, 0.5, 0.25]
PIXELS = [10, 16, 50, 20]  # UNIT times 100, 80, 100, 80


@pytest.mark.parametrize(
    ('faulty', 'words', 'repaired'),
    [
        (
            box(area=0),
            "of 3 boxes cannot be learnt: the key 'area' is 0 or negative, as some converters "
            'write it: write width x height, or remove the key',
            [box(area=400), box()],
        ),
        (
            box(iscrowd=1),
            'they are crowd regions (iscrowd=1), as some tools export every mask: set iscrowd to 0',
            [box(iscrowd=0)],
        ),
        (box(ignore=1), "marked to be ignored: set the key 'ignore' to 0", [box(ignore=0)]),
        (
            box(bbox=UNIT),
            'their coordinates look normalised (none is above 1): multiply x and width by the '
            "image's width, y and height by its height",
            [box(bbox=PIXELS)],
        ),
        (box(bbox=[0, 0, 1, 1]), 'look normalised', [box(bbox=[0, 0, 100, 80])]),
        (
            box(bbox=[30, 30, -20, -20]),
            'width or height is 0 or negative: bbox must be x, y, width, height, not two corners',
            [box()],
        ),
        (
            box(bbox=[0, 0, 0, 0]),
            'remove placeholders, an image without objects needs no annotation',
            [],
        ),
        (
            box(bbox=[110, 10, 20, 20]),
            'outside their images: bbox must be x, y, width, height in pixels',
            [box()],
        ),
        (box(bbox=[9, 9, 0.5, 0.5]), 'thinner than a pixel: bbox must be in pixels', [box()]),
        (
            box(category_id=2),
            'their classes (dog) are not in metainfo.classes: name these there, or take another',
            [box()],
        ),
    ],
)
def test_what_is_wrong_where_no_box_can_be_used(faulty, words, repaired):
    """The advice is followed: each repair makes the boxes usable, or leaves a file without any."""
    check = check_boxes(make([faulty] * 3), LABELS)
    assert check.explain(NAMES).startswith('3 of 3 boxes cannot be learnt: ')
    assert words in check.explain(NAMES)
    for good in repaired:
        check = check_boxes(make([good] * 3), LABELS)
        assert len(check.used) == 3
        assert check.explain(NAMES) == ''
    if not repaired:
        assert check_boxes(make([]), LABELS).explain(NAMES) == 'the file has no annotations'


def test_classes_that_are_named_as_advised_are_used():
    records = make([box(category_id=2)])
    assert check_boxes(records, LABELS).explain(NAMES) != ''
    assert check_boxes(records, {1: 0, 2: 1}).explain(NAMES) == ''


def test_the_most_frequent_reason_is_named():
    """Boxes of other classes do not matter where there are some of the classes."""
    boxes = [box(category_id=2)] * 9 + [box(iscrowd=1)] * 2 + [box(area=0)] * 3
    check = check_boxes(make(boxes), LABELS)
    assert check.explain(NAMES).startswith("3 of 14 boxes cannot be learnt: the key 'area'")
    # In a test they count, so that nothing is wrong.
    assert check_boxes(make(boxes), LABELS, test_mode=True).explain(NAMES) == ''


def test_normalised_boxes_of_a_test_are_told():
    check = check_boxes(make([box(bbox=UNIT)]), LABELS, test_mode=True)
    assert check.used.tolist() == [0]
    assert check.explain(NAMES).startswith(
        '1 of 1 boxes cannot be measured: their coordinates look'
    )

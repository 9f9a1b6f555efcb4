"""Pairs and exceptions of detections made by hand; each box has a side of 100 pixels."""

import pytest
import torch

from ghmdet.export.difference import find_excepted, find_pairs, measure_pairs
from ghmdet.structures import InstanceData

CFG = dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)


def detections(*rows):
    """Of rows x, score, label."""
    x, scores, labels = (torch.tensor(column) for column in zip(*rows))
    boxes = torch.stack([x, torch.zeros(len(x)), x + 100, torch.full((len(x),), 100.0)], dim=1)
    return InstanceData(bboxes=boxes, scores=scores, labels=labels)


def nothing():
    return detections((0.0, 0.5, 0))[:0]


def excepted(a, b, cfg=CFG):
    """Scores of the detections without an equal partner that are excepted, and the others'."""
    pairs = find_pairs(a, b)
    right = pairs[measure_pairs(a, b, pairs)[2]]
    odd = torch.ones(len(a) + len(b), dtype=torch.bool)
    odd[right[:, 0]] = odd[len(a) + right[:, 1]] = False
    found, scores = find_excepted(a, b, odd, cfg), torch.cat([a.scores, b.scores])
    return [[round(s, 6) for s in scores[each].tolist()] for each in (found, odd & ~found)]


def test_places_do_not_count():
    a = detections((0.0, 0.9, 0), (300.0, 0.9, 0), (300.0, 0.9, 1))
    b = a[torch.tensor([2, 0, 1])]
    assert sorted(find_pairs(a, b).tolist()) == [[0, 1], [1, 2], [2, 0]]


def test_a_pair_is_of_one_class_and_overlaps_by_half():
    a = detections((0.0, 0.9, 0), (300.0, 0.8, 1), (600.0, 0.7, 1), (900.0, 0.6, 2))
    b = detections((33.0, 0.9, 0), (334.0, 0.8, 1), (600.0, 0.7, 0), (900.5, 0.6, 2))
    pairs = find_pairs(a, b)  # IoU 67 / 133, 66 / 134, of another class, nearly 1
    assert pairs.tolist() == [[3, 3], [0, 0]]
    box, score, equal = measure_pairs(a, b, pairs)
    assert (box.tolist(), score.tolist(), equal.tolist()) == ([0.5, 33.0], [0, 0], [False] * 2)


def test_the_nearest_box_is_the_partner():
    a = detections((0.0, 0.9, 0), (10.0, 0.8, 0))
    b = detections((9.0, 0.8, 0), (-5.0, 0.9, 0))
    assert find_pairs(a, b).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ('moved', 'score', 'expected'),
    [(0.0009, 0.9, True), (0.0011, 0.9, False), (0, 0.90009, True), (0, 0.9002, False)],
)
def test_limits_of_equal_pairs(moved, score, expected):
    a, b = detections((0.0, 0.9, 0)), detections((0.0, score, 0))
    b.bboxes[0, 2] += moved
    assert measure_pairs(a, b, find_pairs(a, b))[2].tolist() == [expected]


def test_limit_of_boxes_in_a_photograph_of_16000_pixels():
    """Two steps of float32 are 0.002 there."""
    a, b = detections((16000.0, 0.9, 0)), detections((16000.002, 0.9, 0))
    assert b.bboxes[0, 0] - a.bboxes[0, 0] > 0.0015
    assert measure_pairs(a, b, find_pairs(a, b))[2].tolist() == [True]


def test_without_detections():
    assert find_pairs(nothing(), detections((0.0, 0.9, 0))).shape == (0, 2)
    assert excepted(nothing(), nothing()) == [[], []]
    assert excepted(detections((0.0, 0.9, 0)), nothing()) == [[], [0.9]]


def test_near_the_score_threshold():
    a = detections((0.0, 0.050009, 0), (300.0, 0.050012, 0))
    assert excepted(a, nothing()) == [[0.050009], [0.050012]]


# Boxes of side 100 that are moved by 100 / 3 have an IoU of 1 / 2.
@pytest.mark.parametrize(('moved', 'expected'), [(33.3333, True), (33.32, False), (33.35, False)])
def test_near_the_threshold_of_nms(moved, expected):
    better = (0.0, 0.9, 0)
    a, b = detections(better, (moved, 0.8, 0)), detections(better)
    assert excepted(a, b) == [[0.8] * expected, [0.8] * (not expected)]
    assert excepted(b, a) == excepted(a, b)


def test_of_another_class_nothing_is_suppressed():
    a, b = detections((0.0, 0.9, 1), (33.3333, 0.8, 0)), detections((0.0, 0.9, 1))
    assert excepted(a, b) == [[], [0.8]]
    agnostic = {**CFG, 'nms': dict(iou_threshold=0.5, class_agnostic=True)}
    assert excepted(a, b, agnostic) == [[0.8], []]


def test_chain():
    """B suppresses the second, near the threshold, which uncovers a third; that hides a fourth."""
    first, second, third, fourth = (
        *((0.0, 0.9, 0), (33.3333, 0.8, 0), (60.0, 0.7, 0)),
        (85.0, 0.6, 0),
    )
    a, b = detections(first, second, fourth), detections(first, third)
    assert excepted(a, b) == [[0.8, 0.6, 0.7], []]
    # Without the second nothing explains the third.
    assert excepted(detections(first), detections(first, third)) == [[], [0.7]]


def test_equal_scores_take_turns():
    x, y = (0.0, 0.8, 0), (20.0, 0.800005, 0)
    assert excepted(detections(x), detections(y)) == [[0.8, 0.800005], []]
    assert excepted(detections(x), detections((20.0, 0.9, 0))) == [[], [0.8, 0.9]]


def test_a_full_result_ends_where_the_other_goes_on():
    cfg = {**CFG, 'max_per_img': 2}
    first, lost, second = ((300.0 * i, 0.9 - i / 10, 0) for i in range(3))
    # A detection that only one has moves the end; it is an error itself.
    a, b = detections(first, lost), detections(first, second)
    assert excepted(a, b, cfg) == [[0.7], [0.8]]
    assert excepted(detections(first), detections(first, second), cfg) == [[], [0.7]]
    tie = (300.0 * 2, 0.799995, 0)
    assert excepted(detections(first, lost), detections(first, tie), cfg) == [[0.8, 0.799995], []]

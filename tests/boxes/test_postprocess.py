import pytest
import torch

from ghmdet.boxes import class_wise_nms, finish_detections, select_candidates
from ghmdet.boxes.postprocess import check_test_cfg

CFG = dict(min_bbox_size=0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)


def test_candidates_are_the_best_above_the_threshold():
    scores = torch.tensor([[[0.05, 0.9], [0.7, 0.06], [0.8, 0.01]]])
    best, labels, priors = select_candidates(scores, score_thr=0.05, nms_pre=3)
    assert best[0].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert labels.tolist() == [[1, 0, 0]]
    assert priors.tolist() == [[0, 2, 1]]
    assert select_candidates(scores, score_thr=0.05, nms_pre=-1)[0].shape == (1, 4)


def test_equal_candidates_are_in_order_and_short_images_end_with_empty_slots():
    scores = torch.tensor([[[0.5, 0.5], [0.5, 0.9]], [[0.0, 0.0], [0.25, 0.0]]])
    best, labels, priors = select_candidates(scores, score_thr=0.05, nms_pre=3)
    assert best.tolist() == pytest.approx(torch.tensor([[0.9, 0.5, 0.5], [0.25, 0, 0]]))
    assert (priors[0] * 2 + labels[0]).tolist() == [3, 0, 1]
    assert (priors[1, 0], labels[1, 0]) == (1, 0)


def test_no_candidate():
    best, labels, priors = select_candidates(torch.zeros(2, 4, 2), score_thr=0.05, nms_pre=10)
    assert best.tolist() == labels.tolist() == priors.tolist() == [[0], [0]]  # an empty slot
    boxes = torch.ones(2, 1, 4)
    _, scores, _ = finish_detections(boxes, best, labels, CFG, torch.full((2, 2), 0.5))
    assert scores.tolist() == [[0], [0]]


BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 10], [20, 20, 30, 30]])
SCORES = torch.tensor([0.6, 0.9, 0.8, 0.7])
LABELS = torch.tensor([0, 0, 1, 0])


def test_nms_is_class_wise_and_sorted():
    with pytest.raises(ValueError, match=r"test_cfg\.nms\.type must be 'nms', got 'soft_nms'"):
        class_wise_nms(BOXES, SCORES, LABELS, 0.5, type='soft_nms')
    assert class_wise_nms(BOXES, SCORES, LABELS, 0.5).tolist() == [1, 2, 3]
    assert class_wise_nms(BOXES, SCORES, LABELS, 0.5, class_agnostic=True).tolist() == [1, 3]


def test_nms_keeps_an_overlap_at_the_threshold():
    pair = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU exactly 0.5
    labels = torch.zeros(2, dtype=torch.int64)
    assert class_wise_nms(pair, torch.tensor([0.9, 0.8]), labels, 0.5).tolist() == [0, 1]
    assert class_wise_nms(pair, torch.tensor([0.9, 0.8]), labels, 0.49).tolist() == [0]


def test_rescale_filter_and_limit():
    boxes = torch.tensor([[[0.0, 0, 20, 40], [10, 10, 10, 30], [100, 100, 140, 180]]])
    scores, labels = torch.tensor([[0.5, 0.9, 0.7]]), torch.tensor([[3, 3, 4]])
    inverse = torch.tensor([[1 / 2, 1 / 4]])
    found = finish_detections(boxes, scores, labels, CFG, inverse)
    # The second box has no width.
    assert found[0].tolist() == [[[50, 25, 70, 45], [0, 0, 10, 10]]]
    assert found[1][0].tolist() == pytest.approx([0.7, 0.5])
    assert found[2].tolist() == [[4, 3]]
    assert finish_detections(boxes, scores, labels, {**CFG, 'max_per_img': 1})[1].shape == (1, 1)
    keep_all = {**CFG, 'min_bbox_size': -1, 'max_per_img': -1}
    assert finish_detections(boxes, scores, labels, keep_all)[1].shape == (1, 3)


def test_each_image_of_a_batch_is_as_alone():
    """Empty slots, classes of other images and larger images of the batch change nothing."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 40, 2, generator=generator) * 30 - 10
    boxes = torch.cat([corners, corners + torch.rand(3, 40, 2, generator=generator) * 20], dim=-1)
    scores, labels = torch.rand(3, 40, generator=generator), torch.arange(40).expand(3, -1) % 3
    boxes[1] *= 50
    scores[2] = scores[2].where(scores[2] > 0.7, 0)
    together = finish_detections(boxes, scores, labels, CFG)
    for i in range(3):
        own = scores[i] > 0
        rows = boxes[i][own], scores[i][own], labels[i][own]
        keep = class_wise_nms(*rows, iou_threshold=0.5)
        found = together[1][i] > 0
        for row, whole in zip(rows, together, strict=True):
            assert torch.equal(row[keep], whole[i][found])
    assert 0 < len(keep) < together[1].shape[1]


TEST_CFG = dict(nms_pre=10, score_thr=0.05, nms=dict(iou_threshold=0.5), max_per_img=5)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(nms=dict(type='soft_nms', iou_threshold=0.5)), "nms.type must be 'nms', got"),
        (dict(nms=dict(type='nms', iou_thr=0.5)), "nms must be a dict of .*'iou_threshold'"),
        (dict(nms=0.5), 'nms must be a dict of .*, got 0.5'),
        (dict(nms=dict(type='nms')), r'nms.iou_threshold must be a number in \[0, 1\], got None'),
        (dict(nms=dict(iou_threshold=50)), 'nms.iou_threshold must .* got 50'),
        (dict(score_thr='0.05'), r"score_thr must be a number in \[0, 1\], got '0.05'"),
        (dict(score_thr=5), 'score_thr must .* got 5'),
        (dict(nms_pre=True), 'nms_pre must .* got True'),
        (dict(max_per_img=None), r'max_per_img must be a number in \[-1, inf\], got None'),
    ],
)
def test_settings_are_checked_before_they_are_needed(change, message):
    check_test_cfg(TEST_CFG)
    with pytest.raises(ValueError, match=f'^model.test_cfg.{message}'):
        check_test_cfg({**TEST_CFG, **change})
    for key in ('nms', 'max_per_img'):
        rest = {name: value for name, value in TEST_CFG.items() if name != key}
        with pytest.raises(ValueError, match=rf'^model.test_cfg.{key} is needed, got only \['):
            check_test_cfg(rest)

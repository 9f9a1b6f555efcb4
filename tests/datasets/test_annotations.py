import numpy as np
import pytest

from ghmdet.datasets.transforms import FilterAnnotations

# 3 x 2, 2 x 2, 1 x 9 and 0 x 0
BOXES = [[0, 0, 3, 2], [1, 1, 3, 3], [2, 0, 3, 9], [4, 4, 4, 4]]


def results(boxes=BOXES):
    labels = np.arange(len(boxes))
    return dict(
        gt_bboxes=np.array(boxes, np.float64).reshape(-1, 4),
        gt_bboxes_labels=labels,
        gt_ignore_flags=labels == 1,
    )


@pytest.mark.parametrize(
    ('settings', 'kept'),
    [
        ({}, [0, 1]),  # wider and higher than 1, so not the third
        (dict(min_gt_bbox_wh=(2, 1)), [0]),
        (dict(min_gt_bbox_wh=(0, 2)), [2]),
        (dict(min_gt_bbox_wh=(0.01, 0.01)), [0, 1, 2]),
        (dict(min_gt_bbox_wh=(9, 9)), None),
        (dict(min_gt_bbox_wh=(9, 9), keep_empty=False), []),
    ],
)
def test_which_boxes_are_kept(settings, kept):
    found = FilterAnnotations(**settings)(results())
    if kept is None:
        assert found is None
        return
    assert found['gt_bboxes'].tolist() == [BOXES[index] for index in kept]
    assert found['gt_bboxes_labels'].tolist() == kept
    assert found['gt_ignore_flags'].tolist() == [index == 1 for index in kept]


def test_an_image_without_boxes_is_kept():
    assert FilterAnnotations()(results([]))['gt_bboxes'].shape == (0, 4)
    assert FilterAnnotations()({'img': 3}) == {'img': 3}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(min_gt_bbox_wh=3), 'min_gt_bbox_wh must be 2 numbers, got 3'),
        (dict(by_mask=True), 'by_mask must be False, got True'),
        (dict(by_box=False), 'by_box must be True, got False'),
        (dict(keep_empty=1), 'keep_empty must be True or False, got 1'),
    ],
)
def test_filter_annotations_refuses(settings, message):
    with pytest.raises(ValueError, match=f'^FilterAnnotations.{message}$'):
        FilterAnnotations(**settings)

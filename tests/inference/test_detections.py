"""What is made of detections, with values worked out by hand."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch

from ghmdet.inference import Detections

CLASSES = ('cat', 'dog', 'ewe')


def make(**options):
    values = dict(
        boxes=np.float32([[10, 20, 50, 40], [0, 0, 100, 80], [1.5, 2.25, 4, 8]]),
        scores=np.float32([0.9, 0.3, 0.1]),
        labels=np.int64([2, 0, 2]),
        classes=CLASSES,
        shape=(80, 100),
        name='b/1.jpg',
        path='photos/b/1.jpg',
    )
    return Detections(**{**values, **options})


def empty():
    return make()[[]]


def test_objects_one_by_one():
    found = make()
    assert len(found) == 3
    assert found.names == ['ewe', 'cat', 'ewe']
    rows = [(box.tolist(), label, name) for box, _, label, name in found]
    assert rows[1] == ([0, 0, 100, 80], 0, 'cat')
    assert [score for _, score, _, _ in found] == [float(np.float32(x)) for x in (0.9, 0.3, 0.1)]
    assert found[-1][0].tolist() == [1.5, 2.25, 4, 8]
    assert found[-1][3] == 'ewe'
    assert repr(found) == 'Detections(b/1.jpg 100x80: 2 ewe, 1 cat)'
    assert repr(empty()) == 'Detections(b/1.jpg 100x80: none)'
    with pytest.raises(IndexError):
        found[3]


@pytest.mark.parametrize(
    ('index', 'kept'),
    [
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([False, True, False], [1]),
        (torch.tensor([True, False, False]), [0]),
        ([], []),
        (np.zeros(3, bool), []),
    ],
)
def test_a_part(index, kept):
    found, whole = make(frame=7)[index], make()
    assert found.boxes.tolist() == [whole.boxes[i].tolist() for i in kept]
    assert found.labels.tolist() == [whole.labels[i] for i in kept]
    assert found.pred_instances.scores.tolist() == [whole.scores[i] for i in kept]
    assert found.boxes.shape == (len(kept), 4)
    assert (found.name, found.frame, found.shape) == ('b/1.jpg', 7, (80, 100))


def test_above_keeps_scores_of_the_threshold():
    found = make()
    assert found.above(0.2).labels.tolist() == [2, 0]
    assert len(found.above(0)) == 3
    # 0.3 in float32 is 0.300000012: at its own value it is kept, just above it is not.
    score = float(found.scores[1])
    assert len(found.above(score)) == 2
    assert len(found.above(np.nextafter(score, 1))) == 1
    assert found.above({'ewe': 0.5}).labels.tolist() == [2, 0]
    assert found.above({'ewe': 0.95, 'cat': score}).labels.tolist() == [0]
    assert len(empty().above(0.5)) == len(empty().above({'cat': 0.5})) == 0
    for threshold, message in [
        (1.5, 'must be a number in \\[0, 1\\], got 1.5'),
        ('0.5', "must be a number in \\[0, 1\\], got '0.5'"),
        ({'cat': float('nan')}, "the threshold of 'cat' must be a number in"),
        ({'cats': 0.5}, "there is no class 'cats'; did you mean cat\\?"),
        ({'horse': 0.5}, r"there is no class 'horse' among \('cat', 'dog', 'ewe'\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            found.above(threshold)


@pytest.mark.follows('category_ids must have one id for each of the')
def test_coco():
    first, *_ = make().to_coco('b/1.jpg')
    score = float(np.float32(0.9))
    assert first == dict(image_id='b/1.jpg', category_id=3, bbox=[10, 20, 40, 20], score=score)
    assert json.loads(json.dumps(make().to_coco(7)))[2]['bbox'] == [1.5, 2.25, 2.5, 5.75]
    with pytest.raises(ValueError, match='category_ids must have one id for each of the 3 classes'):
        make().to_coco(7, [18, 17])
    assert [each['category_id'] for each in make().to_coco(7, [18, 17, 3])] == [3, 18, 3]
    assert empty().to_coco(7) == []


def test_plain_values():
    found = json.loads(json.dumps(make(frame=2).to_dict()))
    assert found['names'] == ['ewe', 'cat', 'ewe']
    assert found['boxes'][2] == [1.5, 2.25, 4, 8]
    assert found['scores'] == make().scores.tolist()
    meta = [found[key] for key in ('name', 'path', 'frame', 'shape', 'labels')]
    assert meta == ['b/1.jpg', 'photos/b/1.jpg', 2, [80, 100], [2, 0, 2]]


def test_yolo():
    lines = make().to_yolo().splitlines()
    assert lines[0] == '2 0.300000000 0.375000000 0.400000000 0.250000000 0.899999976'
    assert make().to_yolo(with_scores=False).splitlines()[1] == (
        '0 0.500000000 0.500000000 1.000000000 1.000000000'
    )
    assert empty().to_yolo() == ''


def test_yolo_keeps_boxes_in_large_images():
    corners = np.random.default_rng(0).uniform(0, 10_000, (200, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    scores = np.random.default_rng(1).uniform(0, 1, 200).astype(np.float32)
    found = make(boxes=boxes, scores=scores, labels=np.zeros(200, int), shape=(10_000, 10_000))
    rows = np.array([line.split() for line in found.to_yolo().splitlines()], float)
    centre, size = rows[:, 1:3] * 10_000, rows[:, 3:5] * 10_000
    back = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    assert np.abs(back - boxes).max() < 1e-4
    assert np.array_equal(rows[:, 5].astype(np.float32), scores)


@pytest.mark.follows('has no file of its own: use plot(image)')
def test_a_picture(tmp_path):
    image = np.zeros((80, 100, 3), np.uint8)
    cv2.imwrite(str(tmp_path / '1.png'), image)
    found = make(path=str(tmp_path / '1.png'))[:1]
    drawn = found.plot()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    blue, green, red = drawn[30, 50].tolist()  # the right side of the box
    assert max(blue, green, red) > 100
    assert not drawn[60:, :].any()
    assert np.array_equal(found.plot(image), drawn)
    assert not image.any()
    rgb = found.plot(image, channel_order='rgb')
    assert np.array_equal(rgb[..., ::-1], drawn)
    assert np.array_equal(empty().plot(image), image)
    assert not np.array_equal(make()[2:].plot(image), image)  # also of a low score
    for other in (make(path=None), make(frame=3)):
        with pytest.raises(ValueError, match=r'has no file of its own: use plot\(image\)'):
            other.plot()
        assert other[:1].plot(image).any()
    with pytest.raises(ValueError, match=r'was \(80, 100\) .* image to draw into is \(100, 80\)'):
        found.plot(image.transpose(1, 0, 2))


def test_they_can_be_sent_to_another_process():
    found = pickle.loads(pickle.dumps(make()))
    assert found.to_dict() == make().to_dict()


def test_supervision_takes_them():
    supervision = pytest.importorskip('supervision')
    found = supervision.Detections.from_mmdetection(make())
    assert found.xyxy.tolist() == make().boxes.tolist()
    assert found.class_id.tolist() == [2, 0, 2]
    assert found.confidence.tolist() == make().scores.tolist()
    assert len(supervision.Detections.from_mmdetection(empty())) == 0

"""The one matching, against pycocotools' own, and worked by hand."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ghmdet.evaluation.coco_annotations import CocoAnnotations
from ghmdet.evaluation.coco_results import number_detections
from ghmdet.evaluation.matching import match

CLASSES = ('cat', 'dog', 'owl')
NUMBER = dict(zip(CLASSES, (7, 5, 3)))


def annotations(boxes, tmp_path, image_ids=(1,), **sizes):
    """Write and read a file; each box is (image, class, x, y, w, h) and perhaps a dict."""
    size = dict(width=640, height=480) | sizes
    content = dict(
        images=[dict(id=id_, file_name=f'{id_}.jpg', **size) for id_ in image_ids],
        categories=[dict(id=id_, name=name) for name, id_ in NUMBER.items()],
        annotations=[
            dict(id=i, image_id=image, category_id=NUMBER[name], bbox=list(rest[:4]))
            | (rest[4] if len(rest) > 4 else {})
            for i, (image, name, *rest) in enumerate(boxes, 1)
        ],
    )
    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(content))
    return CocoAnnotations.from_file(str(file))


def found(img_id, *detections):
    """Detections of an image: (class, x, y, w, h, score)."""
    xywh = np.array([d[1:5] for d in detections], float).reshape(-1, 4)
    return dict(
        img_id=img_id,
        bboxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        scores=np.array([d[5] for d in detections], float),
        labels=np.array([CLASSES.index(d[0]) for d in detections], int),
    )


def random_truth(seed, tmp_path, num_images=200):
    """Objects in clusters, with crowd regions, ignored boxes, odd areas; detections near them."""
    rng = np.random.default_rng(seed)
    boxes, images = [], []
    for image in range(num_images):
        count = int(rng.integers(0, 10))
        xywh = np.concatenate([rng.uniform(0, 200, (count, 2)), rng.uniform(20, 90, (count, 2))], 1)
        xywh = xywh.round(int(rng.integers(0, 3)))
        xywh[count // 2 :, :2] = xywh[: count - count // 2, :2]  # some share a corner
        names = rng.choice(CLASSES[:2], count)
        for box, name in zip(xywh.tolist(), names, strict=True):
            kind = rng.choice(['', 'crowd', 'ignore', 'area'], p=[0.7, 0.1, 0.1, 0.1])
            more = dict(crowd=dict(iscrowd=1), ignore=dict(ignore=1), area=dict(area=-1)).get(kind)
            boxes.append((image, str(name), *box, more or {}))
        near = np.repeat(xywh, 2, axis=0) + rng.normal(0, 6, (2 * count, 4)).round(1)
        near[:, 2:] = near[:, 2:].clip(1)
        labels = rng.choice(CLASSES, len(near), p=[0.45, 0.45, 0.1])
        scores = rng.random(len(near)).round(1)  # many are equal
        images.append(found(image, *([n, *b, s] for n, b, s in zip(labels, near.tolist(), scores))))
    return annotations(boxes, tmp_path, range(num_images)), images


def pycocotools_flags(truth, images, iou_thr, count_all):
    """For each detection: the number of its object from 1 (0 for none), and whether ignored."""
    ids = [image['img_id'] for image in images]
    rows, _, _ = truth.ground_truth(truth.find_categories(CLASSES), ids, count_all)
    cocos = []
    for entries in (rows, number_detections(images)):
        coco = COCO()
        coco.dataset = dict(
            images=[dict(id=i) for i in range(len(ids))],
            categories=[dict(id=i) for i in range(len(CLASSES))],
            annotations=entries,
        )
        cocos.append(coco)
    with redirect_stdout(io.StringIO()):
        for coco in cocos:
            coco.createIndex()
        evaluation = COCOeval(*cocos, 'bbox')
        evaluation.params.iouThrs = np.array([iou_thr])
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
    flags, missed = {}, 0
    for each in evaluation.evalImgs:
        if each is not None and each['aRng'] == [0, 1e10]:
            for id_, object_, ignored in zip(
                each['dtIds'], each['dtMatches'][0], each['dtIgnore'][0], strict=True
            ):
                flags[id_] = int(object_), bool(ignored)
            missed += sum(
                (m == 0) & (i == 0) for m, i in zip(each['gtMatches'][0], each['gtIgnore'])
            )
    return [flags[id_] for id_ in sorted(flags)], [row['id'] for row in rows], missed


@pytest.mark.parametrize('count_all', [False, True])
@pytest.mark.parametrize(('seed', 'iou_thr'), [(0, 0.5), (1, 0.75), (2, 0.3)])
def test_each_detection_matches_the_object_that_cocoeval_gives_it(
    seed, iou_thr, count_all, tmp_path
):
    truth, images = random_truth(seed, tmp_path)
    matches = match(truth, images, CLASSES, iou_thr=iou_thr, count_all=count_all)
    expected, ids, missed = pycocotools_flags(truth, images, iou_thr, count_all)
    # COCOeval numbers objects as the file does; ours are sorted by image, as the file is.
    ours = [ids[o] if o >= 0 else 0 for o in matches.detections.object]
    assert list(zip(ours, matches.detections.ignored.tolist(), strict=True)) == expected
    assert ((matches.objects.detection < 0) & ~matches.objects.ignored).sum() == missed
    assert sum(o > 0 for o in ours) > 200
    assert len(ids) - matches.count_objects().sum() == matches.objects.ignored.sum() > 50
    assert matches.detections.is_true.sum() + missed == matches.count_objects().sum()


def test_a_lower_score_threshold_only_adds_matches(tmp_path):
    truth, images = random_truth(3, tmp_path, 50)
    all_, high = (match(truth, images, CLASSES, score_thr=t) for t in (0, 0.5))
    chosen = all_.detections.score >= 0.5
    assert 0 < chosen.sum() < len(chosen)
    np.testing.assert_array_equal(all_.detections.object[chosen], high.detections.object)


def test_what_is_left_is_matched_across_classes(tmp_path):
    boxes = [(1, 'cat', 0, 0, 10, 10), (1, 'dog', 100, 0, 10, 10), (1, 'owl', 0, 50, 10, 10)]
    truth = annotations([*boxes, (1, 'owl', 200, 0, 10, 10, dict(iscrowd=1))], tmp_path)
    images = [
        found(
            1,
            ('dog', 0, 0, 10, 10, 0.9),  # best of all on the cat, which the next one takes
            ('cat', 0, 0, 10, 9, 0.4),
            ('cat', 100, 0, 10, 8, 0.5),  # of two on the dog, the higher score
            ('owl', 100, 0, 10, 10, 0.45),
            ('owl', 0, 45, 10, 10, 0.8),  # IoU 1/3
            ('cat', 201, 1, 2, 2, 0.7),  # inside a crowd region of another class
            ('owl', 201, 1, 2, 2, 0.7),
        )
    ]
    matches = match(truth, images, CLASSES)
    detections = matches.detections
    assert detections.object.tolist() == [-1, 0, -1, -1, -1, -1, 3]
    assert detections.confused.tolist() == [-1, -1, 1, -1, -1, -1, -1]
    assert detections.ignored.tolist() == [False] * 6 + [True]
    np.testing.assert_allclose(detections.iou, [0, 0.9, 0.8, 0, 0, 0, 1])
    assert matches.objects.detection.tolist() == [1, -1, -1, 6]
    assert matches.objects.confused.tolist() == [-1, 2, -1, -1]
    assert matches.count_objects().tolist() == [1, 1, 1]
    pairs = zip(matches.pair_detection, matches.pair_object, matches.pair_iou.round(3))
    assert [tuple(map(float, pair)) for pair in pairs] == [
        *[(0, 0, 1), (1, 0, 0.9), (2, 1, 0.8), (3, 1, 1), (4, 2, 0.333)],
        *[(5, 3, 1), (6, 3, 1)],
    ]


@pytest.mark.parametrize('seed', range(3))
def test_the_ground_truth_finds_itself(seed, tmp_path):
    """Also where two classes share a box, a box is there twice, and beside ignored ones."""
    rng = np.random.default_rng(seed)
    boxes = [
        (image, str(rng.choice(CLASSES)), *rng.integers(1, 40, 4).tolist())
        for image in range(20)
        for _ in range(8)
    ]
    boxes += [(i, 'cat' if n == 'dog' else 'dog', *box) for i, n, *box in boxes[::3]] + boxes[::5]
    crowds = [(i, n, *box, dict(iscrowd=1)) for i, n, *box in boxes[::7]]
    ignored = [(i, n, *box, dict(ignore=1)) for i, n, *box in boxes[::4]]
    all_boxes = [*boxes, *crowds, *ignored]
    truth = annotations(all_boxes, tmp_path, range(20))
    images = [
        found(image, *((n, *box[:4], 1.0) for i, n, *box in all_boxes if i == image))
        for image in range(20)
    ]
    matches = match(truth, images, CLASSES)
    assert not matches.detections.is_false.any()
    assert (matches.objects.detection[~matches.objects.ignored] >= 0).all()
    assert matches.detections.is_true.sum() == len(boxes)
    assert (matches.detections.confused < 0).all()


def test_nothing_to_match(tmp_path):
    nothing = match(annotations([], tmp_path, ()), [], CLASSES)
    assert (len(nothing.detections.score), len(nothing.objects.label)) == (0, 0)
    truth = annotations([(1, 'cat', 0, 0, 9, 9)], tmp_path, (1, 2))
    missed = match(truth, [found(2), found(1)], CLASSES)
    assert missed.objects.image.tolist() == [1]  # the index in the images given
    assert missed.objects.detection.tolist() == [-1]
    no_truth = match(annotations([], tmp_path), [found(1, ('cat', 0, 0, 9, 9, 0.3))], CLASSES)
    assert no_truth.detections.is_false.tolist() == [True]
    # The threshold itself counts.
    above = match(truth, [found(1, ('cat', 0, 0, 9, 9, 0.3), ('cat', 0, 0, 9, 9, 0.29))], CLASSES,
                  score_thr=0.3)  # fmt: skip
    assert above.detections.is_true.tolist() == [True]


def test_boxes_without_a_positive_size_find_nothing(tmp_path):
    truth = annotations([(1, 'cat', 10, 10, 10, 10)], tmp_path)
    sizes = (-10, 10), (10, -10), (-10, -10), (0, 10), (0, 0)
    images = [found(1, *(('cat', 10, 10, *size, 0.9) for size in sizes))]
    assert match(truth, images, CLASSES).detections.is_false.all()


def test_many_detections_of_one_image_need_little_memory_and_give_the_same(tmp_path, monkeypatch):
    truth, images = random_truth(5, tmp_path, 10)
    whole = match(truth, images, CLASSES)
    monkeypatch.setattr('ghmdet.evaluation.matching._CELLS', 20)  # rows of a matrix
    parts = match(truth, images, CLASSES)
    np.testing.assert_array_equal(parts.pair_iou, whole.pair_iou)
    np.testing.assert_array_equal(parts.detections.object, whole.detections.object)

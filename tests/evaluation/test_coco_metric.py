"""CocoMetric, DumpDetResults, and the reading and summing below them."""

import io
import json
import logging
import math
from contextlib import redirect_stdout

import mmengine
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ghmdet.datasets import CocoDataset
from ghmdet.evaluation import CocoMetric, DumpDetResults
from ghmdet.registry import METRICS
from ghmdet.structures import DetDataSample, InstanceData

BACKENDS = ('faster_coco_eval', 'pycocotools')


def all_but_first_long(first, *others):
    return [first, *(pytest.param(other, marks=pytest.mark.long) for other in others)]


NAMES = ('cat', 'dog', 'owl')
BOX_KEYS = ('bbox', 'bbox_label')
MEAN_NAMES = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']


def write(folder, content, name='truth.json'):
    file = folder / name
    file.write_text(json.dumps(content))
    return str(file)


def coco_content(annotations, image_ids=(1, 2), categories=((1, 'cat'), (2, 'dog'))):
    return {
        'images': [{'id': id_, 'width': 640, 'height': 480} for id_ in image_ids],
        'categories': [{'id': id_, 'name': name} for id_, name in categories],
        'annotations': annotations,
    }


def box(image_id, category_id, bbox, id_=0, **more):
    return {'id': id_, 'image_id': image_id, 'category_id': category_id, 'bbox': bbox, **more}


def sample(img_id, bboxes=(), scores=(), labels=()):
    return {
        'img_id': img_id,
        'pred_instances': {
            'bboxes': torch.tensor(bboxes, dtype=torch.float32).reshape(-1, 4),
            'scores': torch.tensor(scores, dtype=torch.float32),
            'labels': torch.tensor(labels, dtype=torch.int64),
        },
    }


def evaluate(ann_file, samples, classes=('cat', 'dog'), **kwargs):
    metric = CocoMetric(ann_file, **kwargs)
    metric.dataset_meta = {'classes': classes}
    metric.process({}, samples)
    return metric.evaluate(size=len(samples))


@pytest.fixture
def logged(monkeypatch):
    """The lines that CocoMetric logs, as (level, text)."""
    lines = []
    monkeypatch.setattr(
        'ghmdet.evaluation.coco_metric.print_log',
        lambda text, logger, level=logging.INFO: lines.append((level, text)),
    )
    return lines


@pytest.fixture
def two_boxes(tmp_path):
    """A medium cat in image 1 and a large dog in image 2; three.json has an empty image 3 too."""
    annotations = [box(1, 1, [0, 0, 40, 40]), box(2, 2, [0, 0, 200, 100], id_=1)]
    write(tmp_path, coco_content(annotations, (1, 2, 3)), 'three.json')
    return write(tmp_path, coco_content(annotations))


def random_set(seed, num_images=25):
    """Seeded truth with crowds and empty images, detections as jittered truth and noise."""
    rng = np.random.default_rng(seed)
    annotations, samples = [], []
    for image_id in range(10, 10 + num_images):
        count = int(rng.integers(0, 9))
        xy, wh = rng.uniform(0, 300, (count, 2)), rng.uniform(5, 180, (count, 2))
        labels = rng.integers(0, 2, count)  # no owl in the truth
        for corner, size, label in zip(xy, wh, labels, strict=True):
            crowd = int(rng.random() < 0.15)
            bbox = [*corner.tolist(), *size.tolist()]
            annotations.append(
                box(image_id, 7 - 2 * int(label), bbox, len(annotations) + 1, iscrowd=crowd)
                | {'area': float(size.prod() * 0.9)}
            )
        noise = int(rng.integers(0, 6))
        near = np.concatenate([xy, xy + wh], axis=1) + rng.normal(0, 4, (count, 4))
        far = np.sort(rng.uniform(0, 400, (noise, 2, 2)), axis=1).reshape(-1, 4)
        found = np.concatenate([near, far])
        found_labels = np.concatenate([labels, rng.integers(0, 3, noise)])
        # Two decimals make equal scores, whose order the evaluation must keep.
        scores = rng.random(len(found)).round(2)
        if image_id % 6 == 0:
            found, scores, found_labels = found[:0], scores[:0], found_labels[:0]
        samples.append(sample(image_id, found, scores, found_labels))
    content = coco_content(
        annotations, range(10, 10 + num_images), ((3, 'owl'), (7, 'cat'), (5, 'dog'))
    )
    return content, samples


def oracle(content, samples, category_ids, max_dets=(1, 10, 100), use_cats=1):
    """The twelve numbers of pycocotools' own loading and summary."""
    results = []
    for item in samples:
        found = item['pred_instances']
        columns = (found['bboxes'].double(), found['scores'], found['labels'])
        for (x1, y1, x2, y2), score, label in zip(*(c.tolist() for c in columns), strict=True):
            bbox = [x1, y1, x2 - x1, y2 - y1]
            result = dict(category_id=category_ids[label], bbox=bbox, score=score)
            results.append(dict(image_id=item['img_id'], **result))
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content | {'info': {}}))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), 'bbox')
        evaluation.params.maxDets = list(max_dets)
        evaluation.params.useCats = use_cats
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('seed', all_but_first_long(0, 1, 2))
def test_numbers_are_those_of_pycocotools(tmp_path, backend, seed):
    content, samples = random_set(seed)
    file = write(tmp_path, content)
    items = [*MEAN_NAMES, 'AR@1', 'AR@10', 'AR@100', 'AR_s@100', 'AR_m@100', 'AR_l@100']
    metrics = evaluate(
        file, samples, NAMES, backend=backend, proposal_nums=(1, 10, 100), metric_items=items
    )
    expected = oracle(content, samples, [7, 5, 3])
    assert 0.05 < metrics['coco/bbox_mAP'] < 0.95
    assert list(metrics) == [f'coco/bbox_{name}' for name in items]
    np.testing.assert_allclose(list(metrics.values()), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    ('max_dets', 'alarms', 'rises'),
    [
        ((1, 10, 100), 0, [True, False]),
        ((1, 10, 100), 50, [True, True]),
        ((1, 10, 100), 200, [True, False]),
        ((100, 300, 1000), 0, [False, False]),
        ((100, 300, 1000), 200, [True, False]),
        ((100, 300, 1000), 400, [False, True]),
    ],
)
def test_limits_that_some_images_exceed(tmp_path, backend, max_dets, alarms, rises):
    """One image has better scored false alarms before its cats, the others have up to 11 boxes."""
    content, samples = random_set(6)
    # Proposals of equal score are taken class by class: let ids and labels agree on the order.
    for annotation in content['annotations']:
        annotation['category_id'] = 8 - annotation['category_id']
    for category in content['categories']:
        category['id'] = 8 - category['id']
    found = {name: values.tolist() for name, values in samples[1]['pred_instances'].items()}
    samples[1] = sample(
        samples[1]['img_id'],
        found['bboxes'] + [[500, 400, 520, 420]] * alarms,
        found['scores'] + [1] * alarms,
        found['labels'] + [0] * alarms,
    )
    items = [*MEAN_NAMES, *(f'AR@{n}' for n in max_dets)]
    items += [f'AR_{size}@{max_dets[2]}' for size in 'sml']
    settings = {'backend': backend, 'metric': ['bbox', 'proposal'], 'metric_items': items}
    file = write(tmp_path, content)
    metrics = evaluate(file, samples, NAMES, proposal_nums=max_dets, **settings)
    boxes = oracle(content, samples, [1, 3, 5], max_dets)
    assert [bool(step > 0) for step in np.diff(boxes[6:9])] == rises
    recall = oracle(content, samples, [1, 3, 5], max_dets, use_cats=0)[6:]
    numbers = list(metrics.values())
    np.testing.assert_allclose(numbers[:12], boxes, rtol=0, atol=1e-9)
    np.testing.assert_allclose(numbers[18:], recall, rtol=0, atol=1e-9)


@pytest.mark.parametrize('backend', BACKENDS)
def test_average_precision_by_hand(tmp_path, backend):
    """One of two cats found, after a false alarm: precision 1/2 up to recall 1/2, so 51 of 101."""
    content = coco_content([box(1, 1, [0, 0, 40, 40]), box(2, 1, [0, 0, 40, 40], id_=1)])
    samples = [sample(1, [[300, 300, 340, 340], [0, 0, 40, 40]], [0.9, 0.8], [0, 0]), sample(2)]
    metrics = evaluate(write(tmp_path, content), samples, backend=backend, classwise=True)
    assert metrics['coco/bbox_mAP'] == pytest.approx(0.5 * 51 / 101, abs=1e-12)
    assert metrics['coco/cat_precision'] == metrics['coco/bbox_mAP']
    assert metrics['coco/bbox_mAP_s'] == metrics['coco/bbox_mAP_l'] == -1


# Image and category ids: shuffled, sparse, from 0, negative, as text, of several kinds.
ID_KINDS = {
    'from 0': (range(6), range(3)),
    'sparse': ([900, 7, 2**40, 31, 0, 12], [90, 0, 17]),
    'text of numbers': ([*'320145'], ['2', '10', '1']),
    'text': (['b.jpg', 'a', '', '0007', 'x/y', 'é'], ['zz', 'a', '']),
    'negative': (range(-6, 0), [-1, -3, 2]),
    'mixed': ([1, '1', 2.5, 'x', 0, '0'], [1, '1', 0]),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('kind', ID_KINDS)
@pytest.mark.parametrize('seed', all_but_first_long(*range(4)))
def test_truth_through_the_dataset_as_detections_scores_one(tmp_path, backend, kind, seed):
    """Any ids, any order of images, annotations, categories and classes; annotation ids from 0."""
    rng = np.random.default_rng(seed)
    shuffle = lambda items: [items[i] for i in rng.permutation(len(items))]  # noqa: E731
    image_ids, category_ids = (shuffle(list(ids)) for ids in ID_KINDS[kind])
    annotations = [
        box(image_id, category_ids[(i + k) % 3], [10 + 150 * k, 20, 30 * (k + 1), 40 + 60 * k])
        for i, image_id in enumerate(image_ids)
        for k in range(i % 4)  # none in some images
    ]
    numbers = shuffle(range(len(annotations)))
    content = coco_content(
        shuffle([{**ann, 'id': id_} for ann, id_ in zip(annotations, numbers, strict=True)]),
        categories=list(zip(category_ids, NAMES, strict=True)),
    )
    content['images'] = [
        {'id': id_, 'file_name': f'{i}.jpg', 'width': 640, 'height': 480}
        for i, id_ in enumerate(image_ids)
    ]
    file, classes = write(tmp_path, content), shuffle(NAMES)
    dataset = CocoDataset(file, metainfo=dict(classes=classes), test_mode=True)
    metric = CocoMetric(file, backend=backend, classwise=True)
    metric.dataset_meta = dataset.metainfo
    for info in (dataset.get_data_info(i) for i in shuffle(range(len(dataset)))):
        boxes, labels = ([each[key] for each in info['instances']] for key in BOX_KEYS)
        metric.process({}, [sample(info['img_id'], boxes, [1.0] * len(boxes), labels)])
    metrics = metric.evaluate(size=len(dataset))
    assert metrics['coco/bbox_mAP'] == 1
    assert [metrics[f'coco/{name}_precision'] for name in NAMES] == [1, 1, 1]


def test_duplicate_annotation_ids_all_count(tmp_path):
    content = coco_content([box(1, 1, [0, 0, 40, 40], 5), box(1, 1, [90, 0, 40, 40], 5)], (1,))
    metrics = evaluate(write(tmp_path, content), [sample(1, [[0, 0, 40, 40]], [0.9], [0])])
    assert metrics['coco/bbox_mAP'] == pytest.approx(51 / 101, abs=1e-12)


def test_crowd_detections_are_neither_right_nor_wrong(tmp_path):
    content = coco_content(
        [box(1, 1, [0, 0, 40, 40]), box(1, 1, [100, 100, 200, 200], 1, iscrowd=1)], (1,)
    )
    found = [[110, 110, 150, 150], [200, 200, 240, 240], [0, 0, 40, 40]]
    metrics = evaluate(write(tmp_path, content), [sample(1, found, [0.9, 0.8, 0.7], [0, 0, 0])])
    assert metrics['coco/bbox_mAP'] == 1


def gathered(monkeypatch, parts, size=2, **settings):
    """Metrics of the first rank where the ranks hold these samples."""
    ranks = []
    for samples in parts:
        metric = CocoMetric(**settings)
        metric.dataset_meta = {'classes': ('cat', 'dog')}
        metric.process({}, samples)
        ranks.append(metric.results)
    monkeypatch.setattr('ghmdet.evaluation.image_results.all_gather_object', lambda own: ranks)
    return metric.evaluate(size=size)


@pytest.mark.parametrize(
    'parts', [[[0], [1]], [[], [1, 0]], [[0, 0, 0], [1]], [[0, 0], [0, 1]], [[0], [1, 2], []]]
)
def test_each_image_counts_once_in_any_distribution(two_boxes, monkeypatch, parts):
    """Uneven parts, empty ones, and repeats, even with other detections, before the last image."""
    images = [
        sample(1, [[0, 0, 40, 40]], [0.9], [0]),
        sample(2, [[0, 0, 200, 100]], [0.9], [1]),
        sample(1, [[300, 0, 310, 9]], [1.0], [0]),
    ]
    parts = [[images[i] for i in part] for part in parts]
    assert gathered(monkeypatch, parts, ann_file=two_boxes)['coco/bbox_mAP'] == 1


def test_one_id_of_two_images_is_refused(two_boxes, monkeypatch):
    """Two data sets in a ConcatDataset, each of which numbers its images from 1."""
    parts = [[sample(1) | {'img_path': f'{folder}/x.jpg'}] for folder in ('cats', 'dogs')]
    with pytest.raises(ValueError, match='two images have the id 1, cats/x.jpg and dogs/x.jpg; '):
        gathered(monkeypatch, parts, ann_file=two_boxes)
    # The same image again, of a RepeatDataset.
    parts = [[sample(1, [[0, 0, 40, 40]], [0.9], [0]) | {'img_path': 'cats/x.jpg'}]] * 2
    assert gathered(monkeypatch, parts, ann_file=two_boxes)['coco/bbox_mAP'] == 1


def test_images_that_the_dataset_does_not_have_are_not_measured(two_boxes, logged):
    """A dataset with `indices` or filters has a part of the images of its file."""
    metrics = evaluate(two_boxes, [sample(1, [[0, 0, 40, 40]], [0.9], [0])])
    assert metrics['coco/bbox_mAP'] == 1
    assert logged[0] == (
        logging.INFO,
        'CocoMetric: images not measured: 1 of the file that the dataset does not have',
    )
    # pycocotools too is told which images are evaluated.
    found = sample(1, [[300, 0, 310, 9], [0, 0, 40, 40]], [1, 0.9], [0, 0])
    for rule in ('matchable', 'pycocotools'):
        metrics = evaluate(two_boxes, [found], box_rule=rule)
        assert metrics['coco/bbox_mAP'] == pytest.approx(0.5)


def test_images_that_were_not_predicted_are_an_error(two_boxes, monkeypatch):
    first, second = sample(1, [[0, 0, 40, 40]], [0.9], [0]), sample(2, [[0, 0, 200, 100]], [1], [1])
    metric = CocoMetric(two_boxes)
    metric.dataset_meta = {'classes': ('cat', 'dog')}
    metric.process({}, [first])
    with pytest.raises(
        ValueError, match=r'^CocoMetric: only 1 of the 2 images .* with the ids 2\.'
    ):
        metric.evaluate(size=2)
    metric.process({}, [second])  # as the message says
    assert metric.evaluate(size=2)['coco/bbox_mAP'] == 1
    # Two processes, of which the second repeated an image instead of predicting another one.
    monkeypatch.setattr('ghmdet.evaluation.image_results.get_world_size', lambda: 2)
    with pytest.raises(ValueError, match='only 1 of the 2 images of the dataset were predicted'):
        gathered(monkeypatch, [[first], [first]], ann_file=two_boxes)
    # Three images in two processes, the first one again so that both have two.
    parts = [[first, first], [second, sample(3)]]
    metrics = gathered(monkeypatch, parts, size=3, ann_file=two_boxes.replace('truth', 'three'))
    assert metrics['coco/bbox_mAP'] == 1


@pytest.mark.parametrize('backend', BACKENDS)
def test_no_detection_at_all_gives_zeros_and_one_hint(two_boxes, logged, backend):
    settings = {'backend': backend, 'classwise': True, 'metric': ['bbox', 'proposal']}
    found = sample(2, [[0, 0, 200, 100]], [0.9], [1])
    some = evaluate(two_boxes, [sample(1), found], **settings)
    logged.clear()
    none = evaluate(two_boxes, [sample(1), sample(2)], **settings)
    assert none == dict.fromkeys(some, 0.0)
    assert list(none) == [
        *(f'coco/bbox_{name}' for name in MEAN_NAMES),
        *('coco/cat_precision', 'coco/dog_precision'),
        *('coco/AR@100', 'coco/AR@300', 'coco/AR@1000'),
        *('coco/AR_s@1000', 'coco/AR_m@1000', 'coco/AR_l@1000'),
    ]
    (hint,) = [text for level, text in logged if level == logging.WARNING]
    assert 'nothing was detected' in hint


def test_class_without_truth_is_not_in_the_mean(tmp_path, logged):
    content = coco_content([box(1, 1, [0, 0, 40, 40])], (1,))
    found = sample(1, [[0, 0, 40, 40], [0, 0, 9, 9]], [0.9, 0.8], [0, 1])
    metrics = evaluate(write(tmp_path, content), [found], classwise=True)
    assert metrics['coco/bbox_mAP'] == 1
    assert math.isnan(metrics['coco/dog_precision'])
    table = next(text for _, text in logged if 'category' in text).splitlines()
    assert table[1].split() == ['category', *MEAN_NAMES]
    assert table[2].split() == ['cat', '1.000', '1.000', '1.000', 'n/a', '1.000', 'n/a']
    assert table[3].split() == ['dog', *['n/a'] * 6]


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    ('key', 'limits', 'overall', 'most', 'recalls'),
    [
        ('max_dets', (1, 10, 500), 1 / 102, 1 / 102, {1: 0, 10: 0, 500: 1}),
        ('max_dets', 500, 1 / 102, 1 / 102, {500: 1}),
        ('max_dets', (100, 500, 10), 1 / 102, 1 / 102, {10: 0, 100: 0, 500: 1}),
        ('max_dets', [1, 10, 100], 0, 0, {1: 0, 10: 0, 100: 0}),
        ('proposal_nums', (100, 300, 1000), 0, 1 / 102, {100: 0, 300: 1, 1000: 1}),
        ('proposal_nums', (1, 500), 1 / 102, 1 / 102, {1: 0, 500: 1}),  # the most without 100
    ],
)
def test_limits_of_detections(tmp_path, backend, key, limits, overall, most, recalls):
    """101 better scored false alarms: the hit is number 102 of its image."""
    content = coco_content([box(1, 1, [0, 0, 40, 40])], (1,))
    corners = [[300, 300, 340, 340]] * 101 + [[0, 0, 40, 40]]
    samples = [sample(1, corners, np.linspace(1, 0.5, 102), [0] * 102)]
    settings = {key: limits, 'metric': ['bbox', 'proposal'], 'backend': backend}
    metrics = evaluate(write(tmp_path, content), samples, classwise=True, **settings)
    assert metrics['coco/bbox_mAP'] == pytest.approx(overall)
    for name in ('bbox_mAP_50', 'bbox_mAP_m', 'cat_precision'):
        assert metrics[f'coco/{name}'] == pytest.approx(most)
    found = {key: value for key, value in metrics.items() if key.startswith('coco/AR@')}
    assert found == {f'coco/AR@{n}': value for n, value in recalls.items()}


@pytest.mark.parametrize('backend', BACKENDS)
def test_each_given_iou_threshold_has_its_value(two_boxes, logged, backend):
    """Boxes 40 and 24 high share 24/40 = 0.6."""
    samples = [sample(1, [[0, 0, 40, 24]], [0.9], [0]), sample(2)]
    settings = dict(iou_thrs=[0.3, 0.59, 0.61], classwise=True, backend=backend)
    metrics = evaluate(two_boxes, samples, ['cat'], **settings)
    values = {key: round(value, 6) for key, value in metrics.items()}
    assert values == {
        'coco/bbox_mAP': round(2 / 3, 6),
        'coco/bbox_mAP_30': 1,
        'coco/bbox_mAP_59': 1,
        'coco/bbox_mAP_61': 0,
        'coco/bbox_mAP_s': -1,
        'coco/bbox_mAP_m': round(2 / 3, 6),
        'coco/bbox_mAP_l': -1,
        'coco/cat_precision': round(2 / 3, 6),
    }
    table = next(text for _, text in logged if 'category' in text).splitlines()
    assert table[1].split()[:5] == ['category', 'mAP', 'mAP_30', 'mAP_59', 'mAP_61']


@pytest.mark.parametrize(
    ('iou_thrs', 'names'),
    [
        (0.5, ['mAP', 'mAP_50', 'mAP_s', 'mAP_m', 'mAP_l']),
        ([0.3, 0.75], ['mAP', 'mAP_30', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']),
        ([0.55, 0.125], ['mAP', 'mAP_55', 'mAP_12.5', 'mAP_s', 'mAP_m', 'mAP_l']),
        (None, MEAN_NAMES),
    ],
)
def test_iou_thresholds_decide_the_keys(two_boxes, iou_thrs, names):
    # Boxes 40 and 25 high share 0.625, which reaches .5, .55 and .6 of the ten thresholds.
    samples = [sample(1, [[0, 0, 40, 25]], [0.9], [0]), sample(2)]
    metrics = evaluate(two_boxes, samples, iou_thrs=iou_thrs)
    assert list(metrics) == [f'coco/bbox_{name}' for name in names]
    if iou_thrs is None:
        metrics = evaluate(two_boxes, samples, ['cat'], metric_items=['mAP', 'mAP_60', 'mAP_65'])
        assert list(metrics.values()) == [pytest.approx(0.3), 1, 0]


def test_samples_of_the_model_pass_through_the_evaluator(two_boxes):
    cfg = {'type': 'CocoMetric', 'ann_file': two_boxes, 'prefix': 'mine', '_scope_': 'ghmdet'}
    evaluator = Evaluator([cfg])
    evaluator.dataset_meta = {'classes': ('cat', 'dog')}
    samples = []
    for expected in (sample(1, [[0, 0, 40, 40]], [0.9], [0]), sample(2)):
        samples.append(DetDataSample(metainfo={'img_id': expected['img_id']}))
        samples[-1].pred_instances = InstanceData(**expected['pred_instances'])
        samples[-1].pred_instances.bboxes = samples[-1].pred_instances.bboxes.bfloat16()
    evaluator.process(samples)
    kept = {key: value for key, value in evaluator.metrics[0].results[0].items() if key != 'img_id'}
    types = {key: value.dtype.name for key, value in kept.items()}
    assert types == {'bboxes': 'float32', 'scores': 'float32', 'labels': 'int32'}
    assert evaluator.evaluate(2)['mine/bbox_mAP'] == 0.5


@pytest.mark.parametrize(
    ('prefix', 'name'), [('a/b/run', 'run.bbox.json'), ('a/mine.json', 'mine.json')]
)
@pytest.mark.parametrize('in_home', [False, True])
def test_results_file(tmp_path, monkeypatch, prefix, name, in_home):
    monkeypatch.setenv('HOME', str(tmp_path))
    folder = '~' if in_home else str(tmp_path)
    annotations = [box('b', 2, [1, 2, 3, 6]), box('not in the file', 2, [1, 2, 3, 6])]
    ann_file = write(tmp_path, coco_content(annotations, ('b', 7)))
    ann_file = str(ann_file).replace(str(tmp_path), folder)
    samples = [sample('b', [[1, 2, 4, 8]], [0.5], [1]), sample(7)]
    metrics = evaluate(ann_file, samples, outfile_prefix=f'{folder}/{prefix}')
    assert metrics['coco/bbox_mAP'] == 1
    (file,) = (tmp_path / prefix).parent.iterdir()
    assert file.name == name
    assert json.loads(file.read_text()) == [
        {'image_id': 'b', 'category_id': 2, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}
    ]


@pytest.mark.parametrize('file', ['no annotations', 'images only', None])
def test_format_only_needs_neither_annotations_nor_categories(tmp_path, logged, file):
    """Without categories the names are in the results."""
    content = {'images': [{'id': 'a.jpg'}]}
    if file == 'no annotations':
        content['categories'] = [{'id': 2, 'name': 'dog'}, {'id': 1, 'name': 'cat'}]
    out = tmp_path / 'out.json'
    settings = dict(format_only=True, outfile_prefix=str(out))
    samples = [sample('a.jpg', [[0, 0, 1, 1]], [0.5], [1])]
    assert evaluate(file and write(tmp_path, content), samples, **settings) == {}
    detection = dict(image_id='a.jpg', category_id=2, bbox=[0, 0, 1, 1], score=0.5)
    names = {} if file == 'no annotations' else {'category_name': 'dog'}
    assert json.loads(out.read_text()) == [detection | names]
    assert logged == [(logging.INFO, f'CocoMetric: 1 detections written to {out}')]


# --- which boxes count ---------------------------------------------------------------------------

CAT, IGNORED = [0, 0, 40, 40], [100, 100, 50, 50]


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
    ('found', 'precision'),
    [
        # x of detections 50 x 50 at y 100, which have higher scores than that of the cat
        ([], 1),
        ([100], 1),  # it overlaps the ignored box
        ([100, 100], 1 / 2),  # one detection for each box
        ([110], (4 * 1 + 6 / 2) / 10),  # IoU 2/3 reaches 0.5 to 0.65, four of the ten thresholds
        ([300], 1 / 2),
    ],
)
def test_ignored_boxes_by_hand(tmp_path, backend, found, precision):
    """The cat is found last, so mAP is the precision then; the ignored box is not missed."""
    boxes = [box(1, 1, CAT, 1, area=1600), box(1, 1, IGNORED, 2, ignore=1, area=2500)]
    boxes = [each | {'iscrowd': 0} for each in boxes]
    content = coco_content(boxes, (1,))
    corners = [*([x, 100, x + 50, 150] for x in found), [0, 0, 40, 40]]
    samples = [sample(1, corners, np.linspace(0.9, 0.1, len(corners)), [0] * len(corners))]
    settings = {'backend': backend, 'metric': ['bbox', 'proposal']}
    metrics = evaluate(write(tmp_path, content), samples, **settings)
    assert metrics['coco/bbox_mAP'] == pytest.approx(precision)
    assert metrics['coco/AR@100'] == 1
    assert metrics['coco/bbox_mAP_l'] == -1  # no ignored box is counted as large
    # pycocotools does not know the key.
    file = str(tmp_path / 'truth.json')
    metrics = evaluate(file, samples, box_rule='pycocotools', **settings)
    expected = oracle(content, samples, [1, 2])
    assert metrics['coco/bbox_mAP'] == pytest.approx(expected[0], abs=1e-9)


def test_an_ignored_box_is_of_its_class(tmp_path):
    content = coco_content([box(1, 1, CAT), box(1, 2, IGNORED, 1, ignore=1)], (1,))
    found = [sample(1, [[100, 100, 150, 150], [0, 0, 40, 40]], [0.9, 0.8], [0, 0])]
    assert evaluate(write(tmp_path, content), found)['coco/bbox_mAP'] == pytest.approx(0.5)


ODD = [
    box(1, 1, [0, 0, 0, 0], area=0),  # a placeholder
    box(1, 1, [50, 50, -20, 10]),
    box(1, 2, [640, 10, 30, 30]),
    box(1, 2, [10, -30, 30, 30], ignore=1),
    box(2, 3, [1, 1, 9, 9]),
    box(2, 1, [1, 1, 9, 9], iscrowd=1),
    box(2, 1, [300, 300, 90, 90], ignore=1),
    box(2, 1, [200, 200, 0.5, 40]),
    box(2, 2, [200, 20, 50, 50], area=-5),
    box(2, 2, [20, 200, 50, 50], area=0),
    box(2, 2, [320, 20, 200, 200], area=1e11),
    box(2, 2, [100, 100, 50, 50], area=2500),
]


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_perfect_detector_gets_one_where_anything_can_be_measured(tmp_path, backend, logged):
    """With the file and with the samples of a dataset of the same file."""
    content = coco_content([ann | {'id': i} for i, ann in enumerate(ODD)], (1, 2))
    content['categories'].append({'id': 3, 'name': 'owl'})
    for image in content['images']:
        image['file_name'] = f'{image["id"]}.jpg'
    file = write(tmp_path, content)
    dataset = CocoDataset(file, metainfo={'classes': ('cat', 'dog')}, test_mode=True)
    samples = []
    for info in (dataset.get_data_info(i) for i in range(2)):
        objects = [each for each in info['instances'] if not each['ignore_flag']]
        boxes, labels = ([each[key] for each in objects] for key in BOX_KEYS)
        found = sample(info['img_id'], boxes, [0.9] * len(boxes), labels)
        samples.append(found | {'instances': info['instances'], 'ori_shape': (480, 640)})
    settings = {'backend': backend, 'metric': ['bbox', 'proposal']}
    for ann_file in (file, None):
        metrics = evaluate(ann_file, samples, **settings)
        assert metrics['coco/bbox_mAP'] == metrics['coco/AR@100'] == 1
    texts = [text for _, text in logged]
    assert texts[0] == (
        'CocoMetric: boxes not counted: 1 of other classes, 2 without width or height, 2 outside '
        'the image, 1 marked ignore, 1 crowd regions; counted, though training leaves them out: '
        '1 thinner than a pixel, 2 with an area of 0 or less'
    )
    assert dataset.summary.endswith(
        '12 boxes, 5 used and 2 regions to ignore; dropped: 1 of other classes, 2 without width or '
        'height, 2 outside the image'
    )
    # The field area decides the size: 0.5 x 40, -5 and 0 are small, 1e11 is large.
    sizes = {f'coco/bbox_mAP_{size}': 1 for size in 'sml'}
    found = evaluate(file, samples, **settings)
    assert {key: found[key] for key in sizes} == pytest.approx(sizes)
    metrics = evaluate(file, samples, box_rule='pycocotools', **settings)
    whole = [
        {'area': ann['bbox'][2] * ann['bbox'][3], 'iscrowd': 0} | ann | {'id': i}
        for i, ann in enumerate(ODD, 1)
        if ann['category_id'] != 3
    ]
    content |= {'annotations': whole, 'categories': content['categories'][:2]}
    expected = oracle(content, samples, [1, 2])
    assert 0 < metrics['coco/bbox_mAP'] < 1
    assert metrics['coco/bbox_mAP'] == pytest.approx(expected[0], abs=1e-9)


@pytest.mark.parametrize('seed', all_but_first_long(*range(4)))
@pytest.mark.parametrize('backend', BACKENDS)
def test_pycocotools_numbers_with_degenerate_and_ignored_boxes(tmp_path, backend, seed):
    """With `box_rule='pycocotools'`; the default differs."""
    content, samples = random_set(seed)
    rng = np.random.default_rng(seed)
    for annotation in content['annotations']:
        annotation |= {'ignore': int(rng.random() < 0.2)}
        if rng.random() < 0.2:
            annotation['area'] = float(rng.choice([0, -1, 1e11]))
        if rng.random() < 0.1:
            annotation['bbox'][int(rng.integers(2, 4))] = float(rng.choice([0, -3, 0.5]))
    items = [*MEAN_NAMES, 'AR@1', 'AR@10', 'AR@100', 'AR_s@100', 'AR_m@100', 'AR_l@100']
    settings = dict(backend=backend, proposal_nums=(1, 10, 100), metric_items=items)
    file = write(tmp_path, content)
    metrics = evaluate(file, samples, NAMES, box_rule='pycocotools', **settings)
    expected = oracle(content, samples, [7, 5, 3])
    np.testing.assert_allclose(list(metrics.values()), expected, rtol=0, atol=1e-9)
    assert abs(evaluate(file, samples, NAMES, **settings)['coco/bbox_mAP'] - expected[0]) > 0.001


@pytest.mark.parametrize(
    'annotations',
    [
        [],
        [box(1, 1, CAT, iscrowd=1)],
        [box(1, 1, CAT, ignore=1)],
        [box(1, 1, [0, 0, 0, 0])],
        [box(1, 3, CAT)],
    ],
)
@pytest.mark.parametrize('found', [[[0, 0, 40, 40]], []])
def test_nothing_to_measure_is_not_a_number(tmp_path, annotations, found, logged):
    content = coco_content(annotations, categories=((1, 'cat'), (2, 'dog'), (3, 'owl')))
    samples = [sample(1, found, [0.9] * len(found), [0] * len(found)), sample(2)]
    file, settings = write(tmp_path, content), {'classwise': True, 'metric': ['bbox', 'proposal']}
    metrics = evaluate(file, samples, **settings)
    assert len(metrics) == 14
    assert all(math.isnan(value) for value in metrics.values())
    (warning,) = [text for level, text in logged if level == logging.WARNING]
    assert warning.endswith('has no object to find, so all metrics are n/a (nan)')
    if found and annotations != [box(1, 1, CAT, ignore=1)]:
        metrics = evaluate(file, samples, box_rule='pycocotools')
        assert metrics['coco/bbox_mAP'] == (0 if annotations == [box(1, 1, [0, 0, 0, 0])] else -1)


# --- ground truth from the samples ----------------------------------------------------------------


def with_truth(item, boxes, labels, crowds, raw):
    """The sample with its ground truth, as the pipeline's `instances` or as the model has it."""
    if raw:
        columns = zip(boxes, labels, crowds, strict=True)
        instances = [dict(bbox=b, bbox_label=n, ignore_flag=c) for b, n, c in columns]
        return item | {'instances': instances}
    parts = {}
    for crowd, name in enumerate(('gt_instances', 'ignored_instances')):
        kept = [i for i, flag in enumerate(crowds) if flag == crowd]
        parts[name] = {
            'bboxes': torch.tensor([boxes[i] for i in kept]).reshape(-1, 4),
            'labels': torch.tensor([labels[i] for i in kept], dtype=torch.int64),
        }
    return item | parts


@pytest.mark.parametrize('raw', [True, False])
def test_truth_of_the_samples_counts_as_that_of_a_file(tmp_path, raw, logged):
    content, samples = random_set(5)
    for annotation in content['annotations']:
        del annotation['area']  # the samples know boxes only
    content['annotations'] = json.loads(json.dumps(content['annotations']))
    expected = evaluate(write(tmp_path, content), samples, NAMES, classwise=True)
    label_of = {7: 0, 5: 1}
    with_own = []
    for item in samples:
        own = [a for a in content['annotations'] if a['image_id'] == item['img_id']]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a['bbox'] for a in own)]
        labels = [label_of[a['category_id']] for a in own]
        with_own.append(with_truth(item, corners, labels, [a['iscrowd'] for a in own], raw))
    logged.clear()
    found = evaluate(None, with_own, NAMES, classwise=True)
    assert expected['coco/bbox_mAP'] > 0.05
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert logged[0][1] == (
        'CocoMetric: no ann_file: the ground truth is that of the samples, areas are those of boxes'
    )


def test_images_of_several_datasets_are_told_apart_by_their_paths(logged):
    """Both datasets number their images from 1, and a third one has no paths."""
    samples = [
        with_truth(sample(1, boxes, [0.9], [0]) | {'img_path': path}, boxes, [0], [0], raw=False)
        for path, boxes in (('b/1.jpg', [[0, 0, 9, 9]]), ('a/1.jpg', [[50, 50, 90, 90]]))
    ]
    metrics = evaluate(None, samples)
    assert metrics['coco/bbox_mAP'] == metrics['coco/bbox_mAP_s'] == 1
    assert logged[-1][1].startswith('CocoMetric: 2 images, ')


def test_samples_without_truth():
    words = (
        'no ground truth for image 7: without ann_file .* Set ann_file of a CocoMetric to a COCO'
    )
    with pytest.raises(
        ValueError, match=f'^CocoMetric: {words} file, or put LoadAnnotations after'
    ):
        evaluate(None, [sample(7, [[0, 0, 1, 1]], [0.5], [0])])


def test_by_default_no_file_but_one_line_with_the_times(two_boxes, logged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(two_boxes, [sample(1), sample(2, [[0, 0, 200, 100]], [0.9], [1])])
    assert {file.name for file in tmp_path.iterdir()} == {'truth.json', 'three.json'}
    ((_, line),) = logged
    assert line.startswith('CocoMetric: 2 images, loading 0.')
    assert ', bbox 0.' in line


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        ({'metric': 'segm'}, r"metric must be 'bbox', 'proposal'.*got 'segm'"),
        ({'metric': []}, r'metric must be .*got \[\]'),
        ({'backend': 'cuda'}, r"backend must be of \['faster_coco_eval', 'pycocotools'\].*'cuda'"),
        ({'format_only': True}, 'format_only=True needs outfile_prefix'),
        ({'proposal_nums': (0, 100)}, r'proposal_nums must be positive integers, got \(0, 100\)'),
        ({'iou_thrs': [0.5, 50]}, r'iou_thrs must be within \(0, 1\], got \[0.5, 50\]'),
        ({'metric_items': ['AP']}, r"metric_items has 'AP'; valid names are \['mAP', 'mAP_50'"),
        ({'metric_items': ['AR@100'], 'proposal_nums': (10,)}, "'AR@10', 'AR_s@10'"),
        ({'metric_items': ['mAP_50'], 'iou_thrs': 0.75}, "'mAP_50'; it needs 0.5 among"),
        (
            {'box_rule': 'pycocotool'},
            r"'pycocotools'\], got 'pycocotool'; did you mean pycocotools\?",
        ),
        ({'max_dets': 0}, 'max_dets must be positive integers, got 0'),
        ({'max_dets': ()}, r'max_dets must be positive integers, got \(\)'),
    ],
)
def test_bad_settings_are_refused_at_construction(two_boxes, settings, text):
    with pytest.raises(ValueError, match=text):
        CocoMetric(two_boxes, **settings)


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        ('{"images": [', r'truth\.json: broken JSON at line 1, column 13'),
        ('[]', r'truth\.json: expected a COCO file'),
        ('{"images": [], "categories": []}', "has no list 'annotations', so there is nothing to"),
        ('{"images": [], "annotations": []}', "has no list 'categories', so there is nothing to"),
        ('{"images": [{}], "categories": []}', r'truth\.json: 1 broken entries: images\[0\]'),
        (coco_content([{'image_id': 1}]), r'annotations\[0\] .*category_id, bbox'),
        (coco_content([box(1, 1, [1, 2])]), r'bbox must be four finite numbers .* got \[1, 2\]'),
    ],
)
def test_bad_annotation_files_are_named(tmp_path, content, text):
    file = tmp_path / 'truth.json'
    with pytest.raises(FileNotFoundError, match=r"ann_file '.*truth\.json' does not exist"):
        CocoMetric(str(file))
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"not exist, but there is '.*/truth\.json', which"):
        CocoMetric(str(tmp_path / 'Truth.json'))
    with pytest.raises(ValueError, match=text):
        CocoMetric(str(file))


@pytest.mark.parametrize(
    ('meta', 'text'),
    [
        ({'classes': ('cta',)}, r"1 are not in the file: 'cta' \(did you mean 'cat'\?\)"),
        ({'classes': ('owl',)}, r"several ids of a name have annotations: \{'owl': \[3, 4\]\}"),
        ({'classes': ('zebra',)}, 'Its categories are cat, owl. Set'),
        ({'classes': 'cat'}, "needs `classes`, names; got 'cat'"),
        ({}, 'needs `classes`, names; got None'),
    ],
)
def test_classes_must_be_in_the_file(tmp_path, meta, text):
    categories = ((1, 'cat'), (3, 'owl'), (4, 'owl'))
    owls = [box(1, id_, [1, 2, 3, 4], id_) for id_ in (3, 4)]
    metric = CocoMetric(write(tmp_path, coco_content(owls, categories=categories)))
    with pytest.raises(ValueError, match=text):
        metric.dataset_meta = meta


@pytest.mark.parametrize(
    ('wrong', 'text'),
    [
        (sample(3), r"image 3 is not in ann_file '.*truth\.json'"),
        (sample('1'), r"image '1' is not in ann_file"),
        (sample(1, [[0, 0, 1, 1]], [0.9], [2]), 'image 1 has label 2, but .* has 2 names'),
        (sample(1, [[0, 0, 1, 1]], [0.9], [-1]), 'image 1 has label -1'),
    ],
)
def test_detections_must_belong_to_the_file(two_boxes, wrong, text):
    metric = CocoMetric(two_boxes)
    metric.dataset_meta = {'classes': ('cat', 'dog')}
    with pytest.raises(ValueError, match=text):
        metric.process({}, [wrong])


def test_dump_has_each_image_once_in_the_order_of_the_data(tmp_path, monkeypatch):
    file = tmp_path / 'out.pkl'
    metric = METRICS.build({'type': 'DumpDetResults', 'out_file_path': str(file)})
    assert type(metric) is DumpDetResults
    item = sample(7, [[0, 0, 1, 1]], [0.5], [0]) | {'gt_instances': {}, 'ignored_instances': {}}
    metric.process({}, [item])
    assert 'gt_instances' in item  # the samples are not changed
    ranks = [[dict(img_id=i) for i in part] for part in ([3, 5], [9, 4, 7])]
    ranks[0].insert(0, metric.results[0])
    monkeypatch.setattr('ghmdet.evaluation.image_results.all_gather_object', lambda own: ranks)
    assert metric.evaluate(size=5) == {}
    dumped = mmengine.load(file)
    assert [image['img_id'] for image in dumped] == [7, 9, 3, 4, 5]
    assert sorted(dumped[0]) == ['img_id', 'pred_instances']
    assert dumped[0]['pred_instances']['scores'].tolist() == [0.5]


# --- score thresholds -------------------------------------------------------------------------


@pytest.mark.parametrize('backend', BACKENDS)
def test_the_best_thresholds_are_logged_and_the_curves_written(tmp_path, logged, backend):
    truth = write(
        tmp_path, coco_content([box(1, 1, [0, 0, 10, 10]), box(1, 1, [20, 0, 10, 10])], [1])
    )
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60], [20, 0, 30, 10], [50, 50, 60, 60]]
    found = sample(1, boxes, [0.875, 0.75, 0.5, 0.25], [0, 0, 0, 1])
    settings = dict(best_thresholds=True, curves_dir=str(tmp_path / 'curves'), backend=backend)
    metrics = evaluate(truth, [found], **settings)
    assert metrics == pytest.approx(evaluate(truth, [found], backend=backend), nan_ok=True)
    table = next(text for _, text in logged if 'thresholds' in text).splitlines()
    assert table[0] == 'CocoMetric: score thresholds of the best F1, at IoU 0.5:'
    rows = [line.split() for line in table[1:]]
    assert rows == [
        ['class', 'threshold', 'precision', 'recall', 'f1', 'objects', 'detections'],
        ['cat', '0.500', '0.667', '1.000', '0.800', '2', '3'],
        ['dog', 'n/a', 'n/a', 'n/a', 'n/a', '0', '1'],
        ['(all)', '0.500', '0.667', '1.000', '0.800', '2', '4'],
    ]
    lines = (tmp_path / 'curves' / 'recall_curves.csv').read_text().splitlines()
    assert lines[0] == 'class,recall,precision,score'
    # Half of the objects are found at 0.875, all at 0.5 beside a false one.
    third = [f'cat,{i / 100},{1.0 if i <= 50 else 2 / 3},{0.875 if i <= 50 else 0.5}'
             for i in range(101)]  # fmt: skip
    assert [line.split(',')[::3] for line in lines[1:]] == [row.split(',')[::3] for row in third]
    values = np.array([line.split(',')[1:] for line in lines[1:]], float)
    assert values == pytest.approx(np.array([row.split(',')[1:] for row in third], float))
    assert (tmp_path / 'curves' / 'curves.csv').read_text().splitlines()[:4] == [
        'class,threshold,precision,recall,f1',
        'cat,0.875,1.0,0.5,0.6666666666666666',
        'cat,0.75,0.5,0.5,0.5',
        'cat,0.5,0.6666666666666666,1.0,0.8',
    ]


def test_nothing_is_said_of_thresholds_without_objects(tmp_path, logged):
    truth = write(tmp_path, coco_content([]))
    settings = dict(best_thresholds=True, curves_dir=str(tmp_path / 'curves'))
    evaluate(truth, [sample(1, [[0, 0, 9, 9]], [0.5], [0]), sample(2)], **settings)
    assert not any('thresholds' in text for _, text in logged)
    assert not (tmp_path / 'curves').exists()

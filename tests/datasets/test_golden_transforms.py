"""The transforms against MMDetection 3.3.0's figures, and what all of them keep."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghmdet.registry import TRANSFORMS
from tests.golden import FOLDER

CASES = json.loads((FOLDER / 'transforms.json').read_text())
TOLERANCE = {'PhotoMetricDistortion': 0.01, 'RandomAffine': 2}  # cv2 rounds these


def draw(seed):
    """An image and its annotations, as tests/data/golden/README.md says."""
    rng = np.random.RandomState(seed)
    h, w = rng.randint(8, 90, 2).tolist()
    num = rng.randint(0, 6)
    img = rng.randint(0, 256, (h, w, 3)).astype(np.uint8)
    xy = rng.rand(num, 2) * [0.9 * w, 0.9 * h]
    x2y2 = np.minimum(xy + rng.rand(num, 2) * [w, h], [w, h])
    return dict(
        img=img,
        img_shape=(h, w),
        gt_bboxes=np.concatenate([xy, x2y2], 1).astype(np.float32),
        gt_bboxes_labels=rng.randint(0, 80, num),
        gt_ignore_flags=rng.rand(num) < 0.3,
    )


@pytest.mark.parametrize('case', CASES, ids=lambda case: case['type'])
def test_the_same_seed_gives_what_mmdetection_gives(case):
    step = TRANSFORMS.build(dict(type=case['type'], **case['kwargs']))
    for seed, expected in enumerate(case['results']):
        np.random.seed(seed)
        found = step(draw(seed))
        if expected is None:
            assert found is None
            continue
        assert np.random.rand() == pytest.approx(expected['draw'], abs=1e-6)  # as many draws
        assert list(found['img'].shape) == expected['shape']
        flat = found['img'].ravel()
        pixels = flat[np.linspace(0, flat.size - 1, 12).astype(int)]
        atol = TOLERANCE.get(case['type'], 0)
        np.testing.assert_allclose(pixels.astype(float), expected['pixels'], rtol=0, atol=atol)
        bboxes = np.reshape(expected['bboxes'], (-1, 4))
        np.testing.assert_allclose(found['gt_bboxes'], bboxes, atol=2e-4)
        assert found['gt_bboxes_labels'].tolist() == expected['labels']
        assert found['gt_ignore_flags'].tolist() == expected['flags']


STEPS = [
    dict(type='RandomCrop', crop_size=(5, 4)),
    dict(type='RandomCrop', crop_size=(0.1, 0.5), crop_type='relative_range'),
    dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3)),
    dict(type='Expand', prob=1.0),
    dict(type='RandomAffine', max_rotate_degree=30),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(3, 3), keep_empty=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='TorchvisionTransform', name='CenterCrop', size=6),
    dict(type='TorchvisionTransform', name='RandomIoUCrop', min_scale=0.6),
]
BUILT = [TRANSFORMS.build(step) for step in STEPS]


@pytest.mark.parametrize('step', BUILT, ids=lambda step: type(step).__name__)
@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    grey=st.booleans(),
    corners=st.none() | st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=4),
    seed=st.integers(0, 99),
)
def test_labels_and_flags_follow_their_boxes(step, sides, grey, corners, seed):
    if getattr(step, 'name', '') == 'RandomIoUCrop':  # torchvision divides by 0 on a tiny image
        sides = tuple(side + 2 for side in sides)
    h, w = sides
    results = dict(img=np.zeros((h, w) if grey else (h, w, 3), np.uint8), img_shape=(h, w))
    if corners is not None:
        x1y1x2y2 = [(min(a, c, w), min(b, d, h), min(max(a, c), w), min(max(b, d), h))
                    for a, b, c, d in corners]  # fmt: skip
        boxes = np.array(x1y1x2y2, np.float64).reshape(-1, 4)  # float64, as after mmcv's Resize
        labels = np.arange(len(boxes))
        results |= dict(gt_bboxes=boxes, gt_bboxes_labels=labels, gt_ignore_flags=labels % 2 == 1)
    np.random.seed(seed)
    found = step(dict(results))
    if found is None:
        assert corners is not None
        return
    assert found['img'].ndim == results['img'].ndim
    assert found['img'].shape[:2] == tuple(found['img_shape'])
    assert min(found['img_shape']) > 0
    if corners is None:
        assert not {'gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'} & set(found)
        return
    kept = found['gt_bboxes_labels']
    assert len(found['gt_bboxes']) == len(kept) == len(set(kept.tolist()))
    assert found['gt_ignore_flags'].tolist() == (kept % 2 == 1).tolist()
    if step.moves_boxes and found['img'] is not results['img'] and corners:
        assert found['gt_bboxes'].dtype == np.float32
        assert (found['gt_bboxes'] >= 0).all()
        assert (found['gt_bboxes'] <= [*found['img_shape'][::-1]] * 2).all()

import itertools

import numpy as np
import pytest

from ghmdet.datasets.transforms import MinIoURandomCrop, RandomCrop

BOXES = [[0, 0, 1, 1], [1, 1, 3, 3], [2, 0, 4, 1], [0, 2, 4, 3]]


def results(h=3, w=4, boxes=BOXES):
    labels = np.arange(10, 10 + len(boxes))
    return dict(
        img=np.arange(h * w * 3, dtype=np.uint8).reshape(h, w, 3),
        gt_bboxes=np.array(boxes, np.float32).reshape(-1, 4),
        gt_bboxes_labels=labels,
        gt_ignore_flags=labels == 12,
    )


@pytest.fixture
def fix(monkeypatch):
    """Replace a function of np.random by given values; returns the arguments of its calls."""

    def replace(name, values):
        calls, values = [], iter(values)

        def draw(*args):
            calls.append(args)
            return next(values)

        monkeypatch.setattr(np.random, name, draw)
        return calls

    return replace


@pytest.mark.parametrize(('top', 'left'), list(itertools.product(range(2), range(3))))
@pytest.mark.parametrize('clips', [True, False])
def test_each_crop_of_two_by_two(fix, top, left, clips):
    calls = fix('randint', (top, left))
    found = RandomCrop((2, 2), bbox_clip_border=clips)(results())
    assert calls == [(0, 2), (0, 3)]
    assert found['img'].tolist() == results()['img'][top : top + 2, left : left + 2].tolist()
    assert found['img_shape'] == (2, 2)
    expected = []
    for label, (x1, y1, x2, y2) in enumerate(BOXES, 10):
        moved = [x1 - left, y1 - top, x2 - left, y2 - top]
        if moved[0] < 2 and moved[1] < 2 and moved[2] > 0 and moved[3] > 0:
            clipped = [min(max(value, 0), 2) for value in moved]
            expected.append((clipped if clips else moved, label, label == 12))
    bboxes, labels, flags = (
        found[key].tolist() for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags')
    )
    assert list(zip(bboxes, labels, flags, strict=True)) == expected
    assert found['gt_bboxes'].dtype == np.float32


@pytest.mark.parametrize(
    ('kind', 'size', 'hw', 'rand', 'calls'),
    [
        # min(b, h) and min(a, w) pixels
        ('absolute', (3, 5), (4, 10), None, [(0, 1), (0, 8)]),
        ('absolute', (30, 50), (4, 10), None, [(0, 1), (0, 1)]),  # all of the image
        # sides in [3, 4] and [3, 5]: 3 and 3, by the randint that gives its lower end
        ('absolute_range', (3, 5), (4, 10), None, [(3, 5), (3, 6), (0, 2), (0, 8)]),
        ('absolute_range', (3, 5), (2, 1), None, [(2, 3), (1, 2), (0, 1), (0, 1)]),
        # width 0.3 * 10 = 3, height 0.5 * 4 = 2
        ('relative', (0.3, 0.5), (4, 10), None, [(0, 3), (0, 8)]),
        ('relative', (0.3, 0.3), (1, 1), None, [(0, 1), (0, 1)]),  # at least a pixel
        # height (0.5 + 0.5 * 0.5) * 4 = 3, width (0.2 + 0.25 * 0.8) * 10 = 4
        ('relative_range', (0.5, 0.2), (4, 10), (0.5, 0.25), [(0, 2), (0, 7)]),
    ],
)
def test_the_size_of_a_crop(fix, kind, size, hw, rand, calls):
    if rand:
        fix('rand', [np.array(rand)])
    found = fix('randint', [low for low, _ in calls])
    crop = RandomCrop(size, kind, allow_negative_crop=True)(results(*hw, boxes=[]))
    assert found == calls
    margin_h, margin_w = (high - 1 for _, high in calls[-2:])
    assert crop['img'].shape[:2] == (hw[0] - margin_h, hw[1] - margin_w)


def test_a_crop_without_a_box_asks_for_another_image(fix):
    for boxes, allowed, kept in [
        ([[0, 0, 2, 3]], False, None),  # touches the crop at x = 2
        ([[0, 0, 2.5, 3]], False, [[0, 0, 0.5, 3]]),
        ([[0, 0, 2, 3]], True, []),
        ([], False, None),
        ([], True, []),
    ]:
        fix('randint', (0, 2))  # the two columns at the right
        found = RandomCrop((2, 3), allow_negative_crop=allowed)(results(boxes=boxes))
        assert (found and found['gt_bboxes'].tolist()) == kept
    fix('randint', (0, 0))
    plain = RandomCrop((2, 2))(dict(img=np.zeros((3, 4), np.uint8)))  # grey, without annotations
    assert (plain['img'].shape, plain['img_shape'], len(plain)) == ((2, 2), (2, 2), 2)


def test_crops_around_a_box(fix):
    """A box of 2 x 1 at (5, 4) in 10 x 8: crops of 4 x 3 that contain it begin at (3..5, 2..4)."""
    crop = RandomCrop((4, 3), box_prob=1.0)
    boxes, size = [[0, 0, 1, 1], [5, 4, 7, 5]], (8, 10)
    fix('rand', [0.5])
    calls = fix('randint', [1, 4, 3])  # the box, then top and left
    found = crop(results(*size, boxes))
    assert calls == [(2,), (2, 5), (3, 6)]
    assert found['gt_bboxes'].tolist() == [[2, 0, 4, 1]]
    assert found['gt_bboxes_labels'].tolist() == [11]
    fix('rand', [0.5])
    calls = fix('randint', [0, 0, 0])  # the box in the corner
    assert crop(results(*size, boxes))['gt_bboxes'].tolist() == [[0, 0, 1, 1]]
    assert calls == [(2,), (0, 1), (0, 1)]
    fix('rand', [0.5])
    calls = fix('randint', [0, 2, 4])  # a box of 9 x 7 at (1, 1): the crop lies within it
    assert crop(results(*size, [[1, 1, 10, 8]]))['gt_bboxes'].tolist() == [[0, 0, 4, 3]]
    assert calls == [(1,), (1, 6), (1, 7)]
    fix('rand', [0.5])
    calls = fix('randint', [0, 1, 2])  # edges between pixels, as wide as the crop: no integer fits
    crop(results(*size, [[1.5, 1.5, 5.5, 4.5]]))
    assert calls == [(1,), (2, 3), (2, 3)]


def test_share_of_crops_around_a_box(fix):
    """box_prob is the probability; without boxes, or with 0, crops are as in MMDetection."""
    boxes = [[5, 4, 7, 5]]
    for draw, prob, found in [(0.24, 0.25, [(1,), (2, 5), (3, 6)]), (0.25, 0.25, [(0, 6), (0, 7)])]:
        fix('rand', [draw])
        calls = fix('randint', [0, 3, 3] if len(found) == 3 else [3, 3])
        RandomCrop((4, 3), box_prob=prob)(results(8, 10, boxes))
        assert calls == found
    fix('rand', [])  # is not called
    for prob, given in [(0, boxes), (1.0, [])]:
        calls = fix('randint', [3, 3])
        RandomCrop((4, 3), allow_negative_crop=True, box_prob=prob)(results(8, 10, given))
        assert calls == [(0, 6), (0, 7)]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(crop_size=(3, 4), box_prob=1.5), r'box_prob must be a number in \[0, 1\], got 1.5'),
        (dict(crop_size=(3, 4), crop_type='any'), 'crop_type: one of .* got .any'),
        (dict(crop_size=(3, 0)), r'crop_size must be 2 integers in \[1, inf\], got \(3, 0\)'),
        (dict(crop_size=0.5), 'crop_size must be 2 integers'),
        (
            dict(crop_size=(5, 3), crop_type='absolute_range'),
            'crop_size must be .* rising',
        ),
        (
            dict(crop_size=(2, 0.5), crop_type='relative'),
            r'crop_size must be .*\[1e-06, 1\]',
        ),
        (dict(crop_size=(3.5, 4)), 'crop_size must be 2 integers'),
    ],
)
def test_random_crop_refuses(settings, message):
    with pytest.raises(ValueError, match=f'^RandomCrop.{message}'):
        RandomCrop(**settings)


# --- MinIoURandomCrop: a crop from (1, 1) to (9, 9) has an IoU of 36 / 64 with the first box -----

PAIR = [[2, 2, 8, 8], [0.5, 0, 9, 10]]  # 64 / 85 with the second one


@pytest.mark.parametrize(('min_iou', 'accepted'), [(0.5625, True), (0.57, False)])
def test_each_box_has_the_iou(fix, min_iou, accepted):
    fix('choice', [min_iou, 1])
    calls = fix('uniform', [8.0, 8.0, 1.0, 1.0] * 50)
    given = results(10, 10, PAIR)
    found = MinIoURandomCrop()(dict(given))
    assert len(calls) == (4 if accepted else 200)
    assert calls[:4] == [(3.0, 10), (3.0, 10), (2.0,), (2.0,)]
    if accepted:
        assert found['gt_bboxes'].tolist() == [[1, 1, 7, 7], [0, 0, 8, 8]]
        assert found['img'].tolist() == given['img'][1:9, 1:9].tolist()
        assert found['img_shape'] == (8, 8)
    else:
        assert found['img'] is given['img']


def test_boxes_with_their_centre_outside_are_dropped(fix):
    boxes = [[6, 6, 10, 10], [2, 2, 8, 8], [3, 3, 9, 9], [4, 1, 6, 4]]
    for clips, first in [(True, [1, 1, 5, 5]), (False, [1, 1, 7, 7])]:
        fix('choice', [0])
        fix('uniform', [5.0, 5.0, 1.0, 1.0])  # to (6, 6): the third centre is on the edge
        found = MinIoURandomCrop(bbox_clip_border=clips)(results(10, 10, boxes))
        assert found['gt_bboxes'].tolist() == [first, [3, 0, 5, 3]]
        assert found['gt_bboxes_labels'].tolist() == [11, 13]
        assert found['gt_ignore_flags'].tolist() == [False, False]


def test_long_crops_and_crops_without_a_centre_are_drawn_again(fix):
    fix('choice', [0])
    long, corner, rest = [9.0, 4.0], [4.0, 4.0, 5.0, 5.0], [8.0, 8.0, 1.0, 1.0]
    fix('uniform', long + corner + rest)  # 4 / 9 < 0.5; (5, 5) to (9, 9) has no centre
    found = MinIoURandomCrop()(results(10, 10, [[0, 0, 4, 4]]))
    assert found['gt_bboxes'].tolist() == [[0, 0, 3, 3]]


def test_an_image_without_boxes_is_cropped_too(fix):
    for given in (results(10, 10, []), dict(img=np.zeros((10, 10), np.uint8))):
        fix('choice', [0.9])
        fix('uniform', [8.0, 8.0, 1.0, 1.0])
        assert MinIoURandomCrop()(given)['img'].shape[:2] == (8, 8)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(min_ious=(0.5, 3)), 'min_ious must be 2 numbers in .0, 1., got .0.5, 3'),
        (dict(min_crop_size=2), 'min_crop_size must be a number in'),
    ],
)
def test_min_iou_random_crop_refuses(settings, message):
    with pytest.raises(ValueError, match=f'^MinIoURandomCrop.{message}'):
        MinIoURandomCrop(**settings)

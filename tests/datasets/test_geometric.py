import numpy as np
import pytest

from ghmdet.datasets.transforms import Expand, RandomAffine


def fix_uniform(monkeypatch, *values):
    values = iter(values)
    monkeypatch.setattr(np.random, 'uniform', lambda *_: next(values))


def results(img, boxes):
    labels = np.arange(len(boxes))
    return dict(
        img=img,
        gt_bboxes=np.array(boxes, np.float64).reshape(-1, 4),
        gt_bboxes_labels=labels,
        gt_ignore_flags=labels == 1,
    )


@pytest.mark.parametrize(
    ('mean', 'to_rgb', 'fill'),
    [((1, 2, 3.9), True, [3, 2, 1]), ((1, 2, 3.9), False, [1, 2, 3]), ((7, 7, 7), True, [7] * 3)],
)
def test_the_image_is_put_on_a_canvas(monkeypatch, mean, to_rgb, fill):
    fix_uniform(monkeypatch, 0.5, 2.5, 1.9, 0.7)  # probability, ratio, left, top
    img = np.full((2, 3, 3), 200, np.uint8)
    found = Expand(mean, to_rgb)(results(img, [[0, 0, 3, 2]]))
    expected = np.full((5, 7, 3), fill, np.uint8)
    expected[0:2, 1:4] = 200
    assert found['img'].tolist() == expected.tolist()
    assert (found['img_shape'], found['img'].dtype) == ((5, 7), np.uint8)
    assert found['gt_bboxes'].tolist() == [[1, 0, 4, 2]]
    assert found['gt_bboxes'].dtype == np.float32


def test_grey_and_unchanged_images(monkeypatch):
    grey = dict(img=np.full((2, 2), 9, np.uint8))
    fix_uniform(monkeypatch, 0.0, 1.5, 0.5, 0.9)
    assert Expand((1, 2, 6))(dict(grey))['img'].tolist() == [[9, 9, 3], [9, 9, 3], [3, 3, 3]]
    fix_uniform(monkeypatch, 0.51)
    assert Expand()(grey) is grey


@pytest.mark.parametrize(
    ('draws', 'settings', 'boxes', 'kept'),
    [
        # rotation, scale, shear of x and y, move of x and y, of an image of 4 x 4
        ((0, 2, 0, 0, 0, 0), {}, [[0, 1, 1, 3], [2, 0, 3, 1]], [(0, [0, 2, 2, 4])]),
        (
            *((0, 2, 0, 0, 0, 0), dict(bbox_clip_border=False)),
            *([[0, 1, 1, 3], [2, 0, 3, 1]], [(0, [0, 2, 2, 6])]),
        ),
        # (x, y) -> (-y, x), then 4 to the right: x = 4 - y
        (
            *((90, 1, 0, 0, 1, 0), {}, [[0, 0, 1, 2], [3, 3, 4, 4]]),
            [(0, [2, 0, 4, 1]), (1, [0, 3, 1, 4])],
        ),
        # x + y and y: the box from 0 to 1 + 2
        ((0, 1, 45, 0, 0, 0), {}, [[3, 3, 4, 4], [0, 0, 1, 2]], [(1, [0, 0, 3, 2])]),
        ((0, 1, 0, 0, -0.5, 0.25), {}, [[0, 0, 2, 2], [1, 1, 3, 2]], [(1, [0, 2, 1, 3])]),
        # An output of 6 x 8 (width x height) holds what one of 4 x 4 did not
        ((0, 2, 0, 0, 0, 0), dict(border=(1, 2)), [[0, 1, 4, 3]], [(0, [0, 2, 6, 6])]),
        (
            *((0, 1, 0, 0, 0, 0), dict(border=(-1, 0))),
            *([[3, 0, 4, 4], [1, 1, 2, 2]], [(1, [1, 1, 2, 2])]),
        ),
    ],
)
def test_boxes_move_with_the_image(monkeypatch, draws, settings, boxes, kept):
    fix_uniform(monkeypatch, *draws)
    found = RandomAffine(**settings)(results(np.zeros((4, 4, 3), np.uint8), boxes))
    np.testing.assert_allclose(found['gt_bboxes'], [box for _, box in kept], atol=1e-6)
    labels = [label for label, _ in kept]
    assert found['gt_bboxes_labels'].tolist() == labels
    assert found['gt_ignore_flags'].tolist() == [label == 1 for label in labels]
    width, height = (4 + 2 * border for border in settings.get('border', (0, 0)))
    assert found['img_shape'] == found['img'].shape[:2] == (height, width)


def test_pixels_move_and_the_border_has_its_value(monkeypatch):
    img = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    fix_uniform(monkeypatch, 0, 1, 0, 0, 0.5, 0)  # one pixel to the right
    found = RandomAffine(border_val=(7, 8, 9))({'img': img})
    assert found['img'].tolist() == [[[7, 8, 9], [0, 1, 2]], [[7, 8, 9], [6, 7, 8]]]
    assert sorted(found) == ['img', 'img_shape']
    fix_uniform(monkeypatch, 0, 1, 0, 0, 0, 0)
    with pytest.raises(ValueError, match=r'border=\(0, -1\) leaves nothing of an image of 2x2'):
        RandomAffine(border=(0, -1))({'img': img})


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        (Expand, dict(ratio_range=(0.5, 2)), 'ratio_range must be 2 numbers of at least 1'),
        (Expand, dict(mean=(0, 0)), r'mean must be 3 numbers in \[0, 255\], got \(0, 0\)'),
        (Expand, dict(prob=2), r'prob must be a number in \[0, 1\], got 2'),
        (RandomAffine, dict(scaling_ratio_range=(2, 1)), 'scaling_ratio_range must be 2 positive'),
        (RandomAffine, dict(max_translate_ratio=2), 'max_translate_ratio must be a number in'),
        (RandomAffine, dict(border=(0.5, 1)), 'border must be 2 integers, got'),
        (RandomAffine, dict(border_val=114), r'border_val must be 3 numbers in .* got 114'),
    ],
)
def test_refused(kind, settings, message):
    with pytest.raises(ValueError, match=f'^{kind.__name__}.{message}'):
        kind(**settings)

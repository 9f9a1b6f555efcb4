import numpy as np
import pytest

from ghmdet.datasets.transforms import PhotoMetricDistortion

# mode, brightness, contrast, saturation, hue, swap; then their values: +10, x1.5, x0.5 or x3, +120
OFF = (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ('flags', 'saturation', 'bgr', 'expected'),
    [
        (OFF, 0.5, (10, 20, 30), (10, 20, 30)),
        ((0, 1, 0, 0, 0, 0), 0.5, (100, 100, 250), (110, 110, 260)),  # above 255
        ((0, 1, 1, 0, 0, 0), 0.5, (100, 100, 100), (165, 165, 165)),  # (100 + 10) * 1.5
        ((1, 1, 1, 0, 0, 0), 0.5, (100, 100, 100), (165, 165, 165)),
        ((0, 0, 0, 1, 0, 0), 0.5, (0, 0, 200), (100, 100, 200)),  # saturation 1 -> 0.5
        ((0, 0, 0, 1, 0, 0), 3.0, (100, 100, 200), (0, 0, 200)),  # 0.5 * 3, cut off at 1
        ((0, 0, 0, 0, 1, 0), 0.5, (0, 0, 200), (0, 200, 0)),  # red turned by 120 degrees: green
        ((0, 0, 0, 0, 1, 0), 0.5, (200, 0, 0), (0, 0, 200)),  # blue at 240 + 120 = 360: red
        ((0, 0, 0, 0, 0, 1), 0.5, (10, 20, 30), (30, 10, 20)),  # order 2, 0, 1
        ((1, 1, 1, 0, 0, 1), 0.5, (0, 10, 20), (45, 15, 30)),
    ],
)
def test_each_change(monkeypatch, flags, saturation, bgr, expected):
    draws, ranges = iter(flags), []
    values = iter([10.0, 1.5, saturation, 120.0])
    monkeypatch.setattr(np.random, 'randint', lambda _: next(draws))
    monkeypatch.setattr(
        np.random, 'uniform', lambda *limits: (ranges.append(limits), next(values))[1]
    )
    monkeypatch.setattr(np.random, 'permutation', lambda _: np.array([2, 0, 1]))
    step = PhotoMetricDistortion(10, (0.5, 2), (0.5, 3), 150)
    given = np.full((2, 3, 3), bgr, np.uint8)
    found = step({'img': given})['img']
    assert ranges == [(-10, 10), (0.5, 2), (0.5, 3), (-150, 150)]
    assert (found.dtype, found.shape) == (np.float32, (2, 3, 3))
    np.testing.assert_allclose(found, np.full((2, 3, 3), expected), atol=1e-3)
    assert (given == bgr).all()


def test_grey_images_change_in_brightness_and_contrast(monkeypatch):
    monkeypatch.setattr(np.random, 'randint', lambda _: 1)
    monkeypatch.setattr(np.random, 'uniform', lambda low, high: high)
    found = PhotoMetricDistortion()({'img': np.full((1, 1), 8, np.uint8)})['img']
    assert found.tolist() == [[(8 + 32) * 1.5]]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(brightness_delta=-1), 'brightness_delta must be a number, finite and not negative'),
        (dict(contrast_range=(0.5,)), r'contrast_range must be 2 numbers, got \(0.5,\)'),
        (dict(saturation_range=0.5), 'saturation_range must be 2 numbers, got 0.5'),
        (dict(hue_delta='18'), "hue_delta must be a number, .* got '18'"),
    ],
)
def test_photo_metric_distortion_refuses(settings, message):
    with pytest.raises(ValueError, match=f'^PhotoMetricDistortion.{message}'):
        PhotoMetricDistortion(**settings)

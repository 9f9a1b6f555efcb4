import pytest
from shapes_to_boxes import ellipse_box, polygon_box, rotated_box


def test_polygons():
    assert polygon_box([(3, 9), (5, 4), (2, 6)]) == (2, 4, 5, 9)
    for points in ([], [(1, 2), (float('nan'), 3), (4, 5)]):
        with pytest.raises(ValueError, match='has no points, or some that are not finite'):
            polygon_box(points)


@pytest.mark.parametrize(
    ('degrees', 'about', 'box'),
    [
        (0, 'centre', (5, 17, 15, 23)),
        (90, 'centre', (7, 15, 13, 25)),
        (-270, 'centre', (7, 15, 13, 25)),
        (0, 'corner', (10, 20, 20, 26)),
        (90, 'corner', (4, 20, 10, 30)),  # clockwise: the right side points down
        (180, 'corner', (0, 14, 10, 20)),
        (36.86989764584402, 'corner', (6.4, 20, 18, 30.8)),  # cosine 0.8, sine 0.6
    ],
)
def test_rectangles_of_10_by_6(degrees, about, box):
    assert rotated_box(10, 20, 10, 6, degrees, about) == pytest.approx(box)


def test_ellipses():
    assert ellipse_box(10, 20, 4, 2) == (6, 18, 14, 22)
    assert ellipse_box(10, 20, 4, 2, 90) == pytest.approx((8, 16, 12, 24))
    half = (0.5 * (16 + 4)) ** 0.5
    box = (10 - half, 20 - half, 10 + half, 20 + half)
    assert ellipse_box(10, 20, 4, 2, 45) == pytest.approx(box)

"""The boxes around polygons, rotated boxes and ellipses."""

from __future__ import annotations

import math
from collections.abc import Iterable

Corners = tuple[float, float, float, float]


def polygon_box(points: Iterable[Iterable[float]]) -> Corners:
    """Return x1, y1, x2, y2 around points (x, y); a ValueError if there is none."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def rotated_box(
    x: float, y: float, w: float, h: float, degrees: float, about: str = 'centre'
) -> Corners:
    """Return x1, y1, x2, y2 around a box w, h that is turned clockwise, as the image is seen.

    Args:
        x: with `y` the point about which it is turned and which keeps its place.
        y: see `x`.
        w: width before the turn.
        h: height before the turn.
        degrees: the angle.
        about: what x, y is of the box: 'centre', or 'corner', the top left one.
    """
    left, top = (0.0, 0.0) if about == 'corner' else (-w / 2, -h / 2)
    # Exact for multiples of 90 degrees, unlike the cosine.
    turns, rest = divmod(degrees, 90)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    for _ in range(int(turns % 4)):
        cos, sin = -sin, cos
    corners = [(left, top), (left + w, top), (left, top + h), (left + w, top + h)]
    return polygon_box((x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners)


def ellipse_box(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """Return x1, y1, x2, y2 around an ellipse with its centre, radii, and a clockwise turn."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    w, h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - w, cy - h, cx + w, cy + h

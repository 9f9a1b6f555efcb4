"""The boxes around other shapes: corners x1, y1, x2, y2 in the unit of the shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

Corners = tuple[float, float, float, float]


def polygon_box(points: Sequence[tuple[float, float]]) -> Corners:
    """Return the box around points; none, or one that is not finite, is a ValueError."""
    if not points or not all(map(math.isfinite, chain.from_iterable(points))):
        raise ValueError('has no points, or some that are not finite')
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def rotated_box(
    x: float, y: float, w: float, h: float, degrees: float, about: str = 'centre'
) -> Corners:
    """Return the box around a rotated rectangle.

    Args:
        x: of its centre, or with `about='corner'` of the corner that is top left without rotation.
        y: of the same point.
        w: one side.
        h: the other side.
        degrees: rotation about this point, clockwise as the image is seen (y points down).
        about: 'centre' or 'corner'.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    left, top = (-w / 2, -h / 2) if about == 'centre' else (0, 0)
    corners = [(u, v) for u in (left, left + w) for v in (top, top + h)]
    return polygon_box([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners])


def ellipse_box(cx: float, cy: float, rx: float, ry: float, degrees: float = 0) -> Corners:
    """Return the box around an ellipse of these half axes, rotated about its centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_w, half_h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - half_w, cy - half_h, cx + half_w, cy + half_h

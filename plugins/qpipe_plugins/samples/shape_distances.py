"""Shapes as distances: negative inside, zero on the rim, positive outside, in units of the shape's radius.

Only + - * / sqrt, which IEEE 754 defines to the last bit, so that machines agree on each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Distance = Callable[[Floats, Floats], Floats]


def radius(u: Floats, v: Floats) -> Floats:
    root: Floats = np.sqrt(u * u + v * v)
    return root


def magnitude(values: Floats) -> Floats:
    sizes: Floats = np.abs(values)
    return sizes


def common(one: Floats, other: Floats) -> Floats:
    """The distance to what two shapes share."""
    larger: Floats = np.maximum(one, other)
    return larger


def joined(one: Floats, other: Floats) -> Floats:
    """The distance to two shapes taken together."""
    smaller: Floats = np.minimum(one, other)
    return smaller


def box(u: Floats, v: Floats, width: float, height: float) -> Floats:
    return common(magnitude(u) - np.float32(width), magnitude(v) - np.float32(height))


def disc(u: Floats, v: Floats) -> Floats:
    return radius(u, v) - 1


def square(u: Floats, v: Floats) -> Floats:
    return box(u, v, 0.85, 0.85)


def triangle(u: Floats, v: Floats) -> Floats:
    return common(-v, np.float32(0.866) * magnitude(u) + np.float32(0.5) * v) - np.float32(0.5)


def star(u: Floats, v: Floats) -> Floats:
    """A pentagram is where at most one of its five lines has the point outside: the second largest distance."""
    first = second = np.full(u.shape, -9, np.float32)
    for point in range(5):
        angle = 2 * math.pi * point / 5
        line = np.float32(math.cos(angle)) * u + np.float32(math.sin(angle)) * v
        second = common(second, joined(first, line))
        first = common(first, line)
    return second - np.float32(0.34)


def ring(u: Floats, v: Floats) -> Floats:
    return magnitude(radius(u, v) - np.float32(0.75)) - np.float32(0.25)


def cross(u: Floats, v: Floats) -> Floats:
    return joined(box(u, v, 0.95, 0.3), box(u, v, 0.3, 0.95))


def heart(u: Floats, v: Floats) -> Floats:
    lobes = radius(magnitude(u) - np.float32(0.42), v + np.float32(0.34)) - np.float32(0.59)
    tip = (magnitude(u) + magnitude(v + np.float32(0.08))) * np.float32(0.7071) - np.float32(0.6)
    return joined(lobes, common(tip, -np.float32(0.34) - v))


def hexagon(u: Floats, v: Floats) -> Floats:
    u = magnitude(u)
    v = magnitude(v)
    return common(v, np.float32(0.866) * u + np.float32(0.5) * v) - np.float32(0.866)


def crescent(u: Floats, v: Floats) -> Floats:
    return common(disc(u, v), np.float32(0.75) - radius(u - np.float32(0.5), v))


def arrow(u: Floats, v: Floats) -> Floats:
    head = common(-u, np.float32(0.625) * u + np.float32(0.78) * magnitude(v) - np.float32(0.625))
    return joined(head, box(u + np.float32(0.45), v, 0.5, 0.28))


def bar(u: Floats, v: Floats) -> Floats:
    return box(u, v, 1.0, 0.1)


def half_disc(u: Floats, v: Floats) -> Floats:
    return common(disc(u, v), v - np.float32(0.1))


def arc(u: Floats, v: Floats) -> Floats:
    return common(magnitude(radius(u, v) - np.float32(0.85)) - np.float32(0.15), u)


def corner(u: Floats, v: Floats) -> Floats:
    return common(box(u, v, 0.8, 0.8), np.float32(-0.35) - common(-u, -v))


def blob(u: Floats, v: Floats) -> Floats:
    small = radius(u - np.float32(0.5), v - np.float32(0.3)) - np.float32(0.45)
    return joined(radius(u + np.float32(0.35), v) - np.float32(0.6), small)


SHAPES: dict[str, Distance] = {
    shape.__name__: shape
    for shape in (disc, square, triangle, star, ring, cross, heart, hexagon, crescent, arrow)
}
DISTRACTORS: tuple[Distance, ...] = (bar, bar, half_disc, arc, corner, blob)

"""Signed distances to shapes: negative inside, 0 on the rim, positive outside.

They are in units of the shape's radius.

The arithmetic is only + - * / sqrt, which IEEE 754 defines to the last bit, so that all machines
agree on each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Distance = Callable[[Floats, Floats], Floats]  # of the coordinates u (across) and v (down)


def radius(u: Floats, v: Floats) -> Floats:
    root: Floats = np.sqrt(u * u + v * v)
    return root


def magnitude(values: Floats) -> Floats:
    absolute: Floats = np.abs(values)
    return absolute


def intersection(first: Floats, second: Floats) -> Floats:
    """Return the distance to what two shapes have in common."""
    larger: Floats = np.maximum(first, second)
    return larger


def union(first: Floats, second: Floats) -> Floats:
    """Return the distance to two shapes taken together."""
    smaller: Floats = np.minimum(first, second)
    return smaller


def rectangle(u: Floats, v: Floats, *, half_width: float, half_height: float) -> Floats:
    beyond_sides = magnitude(u) - np.float32(half_width)
    beyond_ends = magnitude(v) - np.float32(half_height)
    return intersection(beyond_sides, beyond_ends)


# ---- objects


def disc(u: Floats, v: Floats) -> Floats:
    return radius(u, v) - 1


def square(u: Floats, v: Floats) -> Floats:
    return rectangle(u, v, half_width=0.85, half_height=0.85)


def triangle(u: Floats, v: Floats) -> Floats:
    sides = np.float32(0.866) * magnitude(u) + np.float32(0.5) * v
    return intersection(-v, sides) - np.float32(0.5)


def star(u: Floats, v: Floats) -> Floats:
    """Return the second largest of the distances to the five lines of a pentagram.

    A point is inside where at most one of the five lines has it outside.
    """
    largest = np.full(u.shape, -9, np.float32)
    second_largest = largest
    for point in range(5):
        angle = 2 * math.pi * point / 5
        line = np.float32(math.cos(angle)) * u + np.float32(math.sin(angle)) * v
        smaller_of_two = union(largest, line)
        second_largest = intersection(second_largest, smaller_of_two)
        largest = intersection(largest, line)
    return second_largest - np.float32(0.34)


def ring(u: Floats, v: Floats) -> Floats:
    return magnitude(radius(u, v) - np.float32(0.75)) - np.float32(0.25)


def cross(u: Floats, v: Floats) -> Floats:
    horizontal_beam = rectangle(u, v, half_width=0.95, half_height=0.3)
    vertical_beam = rectangle(u, v, half_width=0.3, half_height=0.95)
    return union(horizontal_beam, vertical_beam)


def heart(u: Floats, v: Floats) -> Floats:
    from_axis = magnitude(u)
    lobes = radius(from_axis - np.float32(0.42), v + np.float32(0.34)) - np.float32(0.59)
    diamond = (from_axis + magnitude(v + np.float32(0.08))) * np.float32(0.7071) - np.float32(0.6)
    tip = intersection(diamond, -np.float32(0.34) - v)
    return union(lobes, tip)


def hexagon(u: Floats, v: Floats) -> Floats:
    from_axis = magnitude(u)
    from_middle = magnitude(v)
    slanted_sides = np.float32(0.866) * from_axis + np.float32(0.5) * from_middle
    return intersection(from_middle, slanted_sides) - np.float32(0.866)


def crescent(u: Floats, v: Floats) -> Floats:
    outside_of_shadow = np.float32(0.75) - radius(u - np.float32(0.5), v)
    return intersection(disc(u, v), outside_of_shadow)


def arrow(u: Floats, v: Floats) -> Floats:
    flanks = np.float32(0.625) * u + np.float32(0.78) * magnitude(v) - np.float32(0.625)
    head = intersection(-u, flanks)
    shaft = rectangle(u + np.float32(0.45), v, half_width=0.5, half_height=0.28)
    return union(head, shaft)


# ---- distractors


def bar(u: Floats, v: Floats) -> Floats:
    return rectangle(u, v, half_width=1.0, half_height=0.1)


def half_disc(u: Floats, v: Floats) -> Floats:
    return intersection(disc(u, v), v - np.float32(0.1))


def arc(u: Floats, v: Floats) -> Floats:
    thin_ring = magnitude(radius(u, v) - np.float32(0.85)) - np.float32(0.15)
    return intersection(thin_ring, u)


def corner(u: Floats, v: Floats) -> Floats:
    whole_square = rectangle(u, v, half_width=0.8, half_height=0.8)
    quadrant = intersection(-u, -v)
    return intersection(whole_square, np.float32(-0.35) - quadrant)


def blob(u: Floats, v: Floats) -> Floats:
    large_disc = radius(u + np.float32(0.35), v) - np.float32(0.6)
    small_disc = radius(u - np.float32(0.5), v - np.float32(0.3)) - np.float32(0.45)
    return union(large_disc, small_disc)


SHAPES: dict[str, Distance] = {
    shape.__name__: shape
    for shape in (disc, square, triangle, star, ring, cross, heart, hexagon, crescent, arrow)
}
# a bar stands twice: it is drawn twice as often as the others
DISTRACTORS: tuple[Distance, ...] = (bar, bar, half_disc, arc, corner, blob)

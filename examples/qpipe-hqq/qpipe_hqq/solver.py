"""The proximal solver of half-quadratic quantization, on rows of weights.

It minimizes the sum of |W - s (Q - z)|^p over the zero point z, and over the scale s, where Q are
the codes that W rounds to. Half-quadratic splitting takes an auxiliary E for the error: in turns

    E = shrink(W - s (Q - z))                       the error that few large differences explain
    z = mean(Q - (W - E) / s)                       least squares, in closed form

while the weight beta of their difference grows by the factor kappa (Badri and Shaji 2023, equations
of section "Half-Quadratic Solver"; shrink is the generalized soft threshold of Chartrand 2007).

Integer kernels take whole zero points only, which leaves less to choose than the authors have: so z
is rounded, and the scale is fitted by the same least squares. Of all rounds the best is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BETA = 10.0  # of the authors' implementation, as are the next two
KAPPA = 1.01
ITERATIONS = 20
TINY = 1e-12


@dataclass(frozen=True)
class Levels:
    """The codes that there are, and the scale and the zero point of each row, [N, 1]."""

    lowest: int
    highest: int
    scale: Array
    zero_point: Array

    def codes(self, rows: Array) -> Array:
        """Return the nearest code of each weight."""
        places = np.rint(rows / self.scale + self.zero_point)
        return places.clip(self.lowest, self.highest)

    def values(self, codes: Array) -> Array:
        """Return the weights that codes stand for."""
        values: Array = self.scale * (codes - self.zero_point)
        return values

    def error(self, rows: Array, p: float) -> Array:
        """Return the mean of |error|^p over each row, [N, 1]."""
        differences = np.abs(rows - self.values(self.codes(rows)))
        mean: Array = np.mean(differences**p, axis=1, keepdims=True)
        return mean


def shrink(error: Array, beta: float, p: float) -> Array:
    """Return the generalized soft threshold: sign(x) max(0, |x| - |x|^(p - 1) / beta)."""
    magnitude = np.abs(error)
    threshold = np.maximum(magnitude, TINY) ** (p - 1) / beta
    return np.sign(error) * np.maximum(0.0, magnitude - threshold)


def extremes(rows: Array, bits: int, *, is_symmetric: bool) -> Levels:
    """Return the levels between the extremes of each row: where the solver begins."""
    lowest = -(2 ** (bits - 1)) + is_symmetric
    highest = 2 ** (bits - 1) - 1
    low = np.minimum(rows.min(axis=1, keepdims=True), 0.0)
    high = np.maximum(rows.max(axis=1, keepdims=True), 0.0)
    if is_symmetric:
        high = np.maximum(-low, high)
        low = -high
    scale = np.maximum(high - low, TINY) / (highest - lowest)
    zero_point = np.zeros_like(scale) if is_symmetric else np.rint(lowest - low / scale)
    return Levels(lowest, highest, scale, zero_point)


def solve(
    rows: Array, bits: int, *, p: float, iterations: int = ITERATIONS, is_symmetric: bool = False
) -> Levels:
    """Return the levels of rows [N, K] with the least mean of |error|^p that were found."""
    rows = rows.astype(np.float64)
    best = extremes(rows, bits, is_symmetric=is_symmetric)
    least = best.error(rows, p)
    levels = best
    # the solver's beta is for weights whose levels are 1 apart, so that it means the same for all
    beta = BETA
    for _ in range(iterations):
        levels = _next_levels(rows, levels, beta, p, is_symmetric=is_symmetric)
        error = levels.error(rows, p)
        is_better = error < least
        best = Levels(
            levels.lowest,
            levels.highest,
            np.where(is_better, levels.scale, best.scale),
            np.where(is_better, levels.zero_point, best.zero_point),
        )
        least = np.minimum(error, least)
        beta *= KAPPA
    return best


def _next_levels(
    rows: Array, levels: Levels, beta: float, p: float, *, is_symmetric: bool
) -> Levels:
    """Take one round: the error that is explained, then zero point and scale for the rest."""
    codes = levels.codes(rows)
    steps = (rows - levels.values(codes)) / levels.scale
    rest = rows - levels.scale * shrink(steps, beta, p)
    zero_point = levels.zero_point
    if not is_symmetric:
        zero_point = np.mean(codes - rest / levels.scale, axis=1, keepdims=True)
        zero_point = np.clip(np.rint(zero_point), -128, 127)
    centred = codes - zero_point
    squares = np.sum(centred**2, axis=1, keepdims=True)
    products = np.sum(centred * rest, axis=1, keepdims=True)
    is_usable = (squares > 0) & (products > 0)
    scale = np.where(is_usable, products / np.maximum(squares, TINY), levels.scale)
    return Levels(levels.lowest, levels.highest, scale, zero_point)

"""Ranges: the real interval that an activation's integers will span, from its statistics alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qpipe.errors import StageError
from qpipe.quant.statistics import TensorStatistics
from qpipe.types import Array

Method = Literal["minmax", "percentile", "mse", "entropy"]


def activation_range(
    tensor: TensorStatistics, method: Method, *, bits: int = 8, percentile: float = 99.99
) -> tuple[float, float]:
    """The interval (low, high) for unsigned integers of `bits` with any zero point; it always contains zero.

    minmax: the exact extremes. percentile: cuts (100 - percentile) / 2 of the values from each end. mse: the least
    expected squared error of quantizing. entropy: the least Kullback-Leibler divergence.
    """
    if method == "minmax":
        low = tensor.minimum
        high = tensor.maximum
    elif method == "percentile":
        low, high = percentile_range(tensor, percentile)
    elif method == "mse":
        low, high = mse_range(tensor, bits)
    elif method == "entropy":
        low, high = entropy_range(tensor, bits)
    else:
        raise StageError(f"range method is '{method}'; there is minmax, percentile, mse, entropy")
    return min(low, 0.0), max(high, 0.0)


@dataclass(frozen=True)
class Masses:
    """A histogram as intervals of the real line, ascending: each holds `counts` values between `lower` and `upper`."""

    lower: Array  # float64 [K]
    upper: Array
    counts: Array


def masses(tensor: TensorStatistics) -> Masses:
    """The tensor's bins, cut to its exact extremes; the bin around zero is the point zero."""
    patterns = tensor.bins.astype(np.uint32) << 16
    near = patterns.view(np.float32).astype(np.float64)  # the end towards zero
    far = (patterns | 0xFFFF).view(np.float32).astype(np.float64)
    far = np.where(patterns << 1 == 0, near, far)
    order = np.argsort(near + far, kind="stable")
    lower = np.minimum(near, far).clip(tensor.minimum, tensor.maximum)
    upper = np.maximum(near, far).clip(tensor.minimum, tensor.maximum)
    return Masses(lower[order], upper[order], tensor.counts[order])


def percentile_range(tensor: TensorStatistics, percentile: float) -> tuple[float, float]:
    """The quantiles that leave (100 - percentile) / 2 percent of the values out on each side, to within a bin."""
    out = (1 - check_percentile(percentile) / 100) / 2
    mass = masses(tensor)
    total = np.cumsum(mass.counts)
    below = out * total[-1]
    return _quantile(mass, total, below), _quantile(mass, total, total[-1] - below)


def check_percentile(percentile: float) -> float:
    """The same number; StageError unless it is one that an interval can hold of the values: above 50, at most 100."""
    if not 50 < percentile <= 100:
        raise StageError(f"percentile is {percentile}; it must be above 50 and at most 100")
    return percentile


def _quantile(mass: Masses, total: Array, below: float) -> float:
    at = min(int(np.searchsorted(total, below)), len(total) - 1)
    part = (below - (total[at] - mass.counts[at])) / mass.counts[at]
    return float(mass.lower[at] + part * (mass.upper[at] - mass.lower[at]))


# ---- least squared error


def mse_range(tensor: TensorStatistics, bits: int = 8) -> tuple[float, float]:
    """The interval of least expected squared quantization error; where no value is negative, only its high end moves.

    Both ends shrink together first, then one after the other, on ever finer grids.
    """
    mass = masses(tensor)
    ends = np.array([min(tensor.minimum, 0.0), max(tensor.maximum, 0.0)])
    movable = [end for end in (1, 0) if ends[end] != 0]
    if not movable:
        return 0.0, 0.0
    best = np.ones(2)
    both = np.ones((1, 2))
    for axis in ([both] if len(movable) == 2 else []) + [
        np.eye(2)[end : end + 1] for end in movable
    ] * 2:
        best = _shrink(mass, ends, best, axis, bits)
    return float(ends[0] * best[0]), float(ends[1] * best[1])


def _shrink(mass: Masses, ends: Array, start: Array, axis: Array, bits: int) -> Array:
    """The best factors of the two ends along one direction from `start`, looked for twice, coarse and fine."""
    best = start
    reach = np.linspace(-1, 1, 33)
    for width in (0.97, 0.06):
        factors = best + axis * reach[:, np.newaxis] * width
        factors = factors[((factors > 0.001) & (factors <= 1)).all(axis=1)]
        factors = np.concatenate([best[np.newaxis], factors])
        best = factors[int(np.argmin(quantization_error(mass, factors * ends, bits)))]
    return best


def quantization_error(mass: Masses, intervals: Array, bits: int = 8) -> Array:
    """The mean squared error of quantizing to each of the intervals [N, 2], zero point rounded as it will be.

    Values spread evenly inside their bin. The integral of (t - round(t))^2, t in steps and round() saturating, is
    round(t) / 12 + (t - round(t))^3 / 3: exact within the levels and beyond them.
    """
    levels = 2**bits - 1
    step = ((intervals[:, 1] - intervals[:, 0]) / levels)[:, np.newaxis]
    lowest = np.rint(intervals[:, :1] / step)
    lower = mass.lower / step
    upper = mass.upper / step
    width = upper - lower
    from_lower, point = _integral(lower, lowest, levels)
    to_upper, _ = _integral(upper, lowest, levels)
    error = np.where(width > 0, (to_upper - from_lower) / np.where(width > 0, width, 1), point)
    weighted: Array = (error @ mass.counts) * step[:, 0] ** 2 / mass.counts.sum()
    return weighted


def _integral(t: Array, lowest: Array, levels: int) -> tuple[Array, Array]:
    nearest = np.rint(t).clip(lowest, lowest + levels)
    away = t - nearest
    square = away * away
    return nearest / 12 + square * away / 3, square


# ---- least divergence

FINE_BINS = 2048


def entropy_range(tensor: TensorStatistics, bits: int = 8) -> tuple[float, float]:
    """The interval cut at the magnitude T that loses the least information, by TensorRT's calibration (S. Migacz,
    "8-bit Inference with TensorRT", GTC 2017): least KL(P || Q), P the magnitudes with all beyond T put into the last
    bin, Q those up to T seen through the levels that the larger side gets. Zeros are exact at any T: not counted.
    """
    reach = max(-tensor.minimum, tensor.maximum)
    fine = _magnitudes(masses(tensor), reach)
    span = max(tensor.maximum, 0.0) - min(tensor.minimum, 0.0)
    levels = round(2**bits * reach / span) if span else 0
    if levels >= FINE_BINS or not fine.any():
        return tensor.minimum, tensor.maximum
    cuts = np.arange(levels, FINE_BINS + 1, 16)
    threshold = (
        reach
        * cuts[int(np.argmin([_divergence(fine, int(cut), levels) for cut in cuts]))]
        / FINE_BINS
    )
    return max(tensor.minimum, -threshold), min(tensor.maximum, threshold)


def _magnitudes(mass: Masses, reach: float) -> Array:
    """Counts of |x|, without zeros, in equal bins from 0 to `reach`; values spread evenly inside their old bin."""
    edges = np.linspace(0, reach, FINE_BINS + 1)
    positive = mass.upper > 0
    negative = np.flatnonzero(mass.lower < 0)[::-1]
    fine = np.zeros(FINE_BINS)
    for lower, upper, counts in (
        (mass.lower[positive], mass.upper[positive], mass.counts[positive]),
        (-mass.upper[negative], -mass.lower[negative], mass.counts[negative]),
    ):
        if counts.size:
            total = np.cumsum(counts)
            ends = np.maximum(upper, np.nextafter(lower, np.inf))
            points = np.stack([lower, ends], 1).reshape(-1)
            heights = np.stack([total - counts, total], 1).reshape(-1)
            below = np.interp(edges, points, heights, left=0)
            below[-1] = total[-1]
            fine += np.diff(below)
    return fine


def _divergence(fine: Array, cut: int, levels: int) -> float:
    inside = fine[:cut]
    seen = inside.copy()
    seen[-1] += fine[cut:].sum()
    level = np.arange(cut) * levels // cut
    filled = np.bincount(level, seen > 0, levels)
    spread = np.bincount(level, inside, levels) / np.maximum(filled, 1)
    through = np.where(seen > 0, spread[level], 0)
    # Q keeps P's total: were it scaled up to one, a cut that leaves a single bin inside would lose nothing
    p = seen / seen.sum()
    q = through / seen.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))))

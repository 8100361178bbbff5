"""Ranges: the real interval that an activation's integers span, from its statistics alone."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Return the range (low, high) for unsigned integers of `bits` with any zero point.

    It always contains zero. minmax: the exact extremes. percentile: cuts (100 - percentile) / 2
    percent of the values from each end. mse: the least expected squared quantization error.
    entropy: the least Kullback-Leibler divergence. Raise StageError for another method, and for a
    percentile that is not above 50 and at most 100.
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
        raise StageError(
            f"range method '{method}' is not known; valid methods are minmax, percentile, mse, "
            "entropy"
        )
    return min(low, 0.0), max(high, 0.0)


@dataclass(frozen=True)
class HistogramIntervals:
    """A histogram as intervals of the real line, ascending.

    Each holds `counts` values from `lower` to `upper`.
    """

    lower: Array  # float64 [K]
    upper: Array  # float64 [K]
    counts: Array  # int64 [K]


def histogram_intervals(tensor: TensorStatistics) -> HistogramIntervals:
    """Return a tensor's bins, cut to its exact extremes; the bin around zero is the point zero."""
    patterns = tensor.bins.astype(np.uint32) << 16
    near_end = patterns.view(np.float32).astype(np.float64)  # towards zero
    far_end = (patterns | 0xFFFF).view(np.float32).astype(np.float64)
    is_zero = patterns << 1 == 0
    far_end = np.where(is_zero, near_end, far_end)
    order = np.argsort(near_end + far_end, kind="stable")
    lower = np.minimum(near_end, far_end).clip(tensor.minimum, tensor.maximum)
    upper = np.maximum(near_end, far_end).clip(tensor.minimum, tensor.maximum)
    return HistogramIntervals(lower[order], upper[order], tensor.counts[order])


# ---- percentile


def percentile_range(tensor: TensorStatistics, percentile: float) -> tuple[float, float]:
    """Return the quantiles with (100 - percentile) / 2 percent of the values outside on each side.

    They are exact to within a bin. Raise StageError for a percentile that is not above 50 and at
    most 100.
    """
    share_outside = (1 - check_percentile(percentile) / 100) / 2
    histogram = histogram_intervals(tensor)
    cumulative = np.cumsum(histogram.counts)
    count_outside = share_outside * cumulative[-1]
    low = _quantile(histogram, cumulative, count_outside)
    high = _quantile(histogram, cumulative, cumulative[-1] - count_outside)
    return low, high


def check_percentile(percentile: float) -> float:
    """Return the percentile; raise StageError unless it is above 50 and at most 100."""
    if not 50 < percentile <= 100:
        raise StageError(f"percentile is {percentile}; it must be above 50 and at most 100")
    return percentile


def _quantile(histogram: HistogramIntervals, cumulative: Array, count: float) -> float:
    """Return the value that `count` values lie below, interpolated within its bin."""
    index = min(int(np.searchsorted(cumulative, count)), len(cumulative) - 1)
    count_before = cumulative[index] - histogram.counts[index]
    fraction = (count - count_before) / histogram.counts[index]
    lower = histogram.lower[index]
    return float(lower + fraction * (histogram.upper[index] - lower))


# ---- least squared error


def mse_range(tensor: TensorStatistics, bits: int = 8) -> tuple[float, float]:
    """Return the range of least expected squared quantization error.

    Both ends shrink together first, then one after the other, on ever finer grids. Where no value
    is negative, only the high end moves.
    """
    histogram = histogram_intervals(tensor)
    ends = np.array([min(tensor.minimum, 0.0), max(tensor.maximum, 0.0)])
    movable = [end for end in (1, 0) if ends[end] != 0]
    if not movable:
        return 0.0, 0.0
    single_ends = [np.eye(2)[end : end + 1] for end in movable]
    directions = single_ends * 2
    if len(movable) == 2:
        directions.insert(0, np.ones((1, 2)))
    factors = np.ones(2)
    for direction in directions:
        factors = _search_factors(histogram, ends, direction, start=factors, bits=bits)
    low, high = ends * factors
    return float(low), float(high)


def _search_factors(
    histogram: HistogramIntervals, ends: Array, direction: Array, *, start: Array, bits: int
) -> Array:
    """Return the best factors [2] of the two ends along a direction [1, 2].

    The search is coarse at first, then fine.
    """
    best = start
    reach = np.linspace(-1, 1, 33)
    for width in (0.97, 0.06):
        candidates = best + direction * reach[:, np.newaxis] * width
        is_valid = ((candidates > 0.001) & (candidates <= 1)).all(axis=1)
        candidates = np.concatenate([best[np.newaxis], candidates[is_valid]])
        errors = quantization_error(histogram, candidates * ends, bits)
        best = candidates[int(np.argmin(errors))]
    return best


def quantization_error(histogram: HistogramIntervals, ranges: Array, bits: int = 8) -> Array:
    """Return the mean squared error [N] of quantizing to each of the ranges [N, 2].

    The zero point is rounded, as it will be. Values are assumed to be spread evenly inside their
    bin. The integral of (t - round(t))^2, t in steps and round() saturating, is round(t) / 12 + (t
    - round(t))^3 / 3: exact within the levels and beyond them.
    """
    levels = 2**bits - 1
    step = ((ranges[:, 1] - ranges[:, 0]) / levels)[:, np.newaxis]
    lowest = np.rint(ranges[:, :1] / step)
    lower = histogram.lower / step
    upper = histogram.upper / step
    width = upper - lower
    lower_integral, point_error = _error_integral(lower, lowest, levels)
    upper_integral, _ = _error_integral(upper, lowest, levels)
    is_interval = width > 0
    mean_error = (upper_integral - lower_integral) / np.where(is_interval, width, 1)
    error = np.where(is_interval, mean_error, point_error)
    mean_in_steps = error @ histogram.counts / histogram.counts.sum()
    mean_squared_error: Array = mean_in_steps * step[:, 0] ** 2
    return mean_squared_error


def _error_integral(t: Array, lowest: Array, levels: int) -> tuple[Array, Array]:
    """Return the integral of the squared error up to t, and the squared error at t; in steps."""
    nearest = np.rint(t).clip(lowest, lowest + levels)
    error = t - nearest
    squared_error = error * error
    return nearest / 12 + squared_error * error / 3, squared_error


# ---- least divergence

FINE_BINS = 2048
CUT_STEP = 16  # fine bins between the cuts that are tried


def entropy_range(tensor: TensorStatistics, bits: int = 8) -> tuple[float, float]:
    """Return the range cut at the magnitude T that loses least information, as TensorRT calibrates.

    Least KL(P || Q), where P is the magnitudes with all beyond T put into the last bin, and Q those
    up to T as the levels of the larger side can represent them. Zeros are exact at any T and are
    not counted. Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """
    amax = max(-tensor.minimum, tensor.maximum)
    magnitudes = _magnitude_histogram(histogram_intervals(tensor), amax)
    span = max(tensor.maximum, 0.0) - min(tensor.minimum, 0.0)
    levels = round(2**bits * amax / span) if span else 0
    if levels >= FINE_BINS or not magnitudes.any():
        return tensor.minimum, tensor.maximum
    cuts = range(levels, FINE_BINS + 1, CUT_STEP)
    divergences = [_divergence(magnitudes, cut, levels) for cut in cuts]
    best_cut = cuts[int(np.argmin(divergences))]
    threshold = amax * best_cut / FINE_BINS
    return max(tensor.minimum, -threshold), min(tensor.maximum, threshold)


def _magnitude_histogram(histogram: HistogramIntervals, amax: float) -> Array:
    """Return the counts of |x|, without zeros, in FINE_BINS equal bins from 0 to `amax`.

    Values are spread evenly inside their old bin.
    """
    edges = np.linspace(0, amax, FINE_BINS + 1)
    fine = np.zeros(FINE_BINS)
    for side in _sides(histogram):
        if side.counts.size == 0:
            continue
        cumulative = np.cumsum(side.counts)
        # ends that are beyond their start, so that points stay points
        ends = np.maximum(side.upper, np.nextafter(side.lower, np.inf))
        points = np.stack([side.lower, ends], 1).reshape(-1)
        heights = np.stack([cumulative - side.counts, cumulative], 1).reshape(-1)
        below_edges = np.interp(edges, points, heights, left=0)
        below_edges[-1] = cumulative[-1]
        fine += np.diff(below_edges)
    return fine


def _sides(histogram: HistogramIntervals) -> Iterator[HistogramIntervals]:
    """Yield the magnitudes of the positive values, then of the negative ones, ascending."""
    positive = histogram.upper > 0
    yield HistogramIntervals(
        histogram.lower[positive], histogram.upper[positive], histogram.counts[positive]
    )
    negative = np.flatnonzero(histogram.lower < 0)[::-1]
    yield HistogramIntervals(
        -histogram.upper[negative], -histogram.lower[negative], histogram.counts[negative]
    )


def _divergence(magnitudes: Array, cut: int, levels: int) -> float:
    """Return KL(P || Q) for magnitudes cut after `cut` bins."""
    inside = magnitudes[:cut]
    reference = inside.copy()
    reference[-1] += magnitudes[cut:].sum()
    is_filled = reference > 0
    level = np.arange(cut) * levels // cut
    filled_bins = np.bincount(level, is_filled, levels)
    mean_count = np.bincount(level, inside, levels) / np.maximum(filled_bins, 1)
    quantized = mean_count[level]
    # Q keeps P's total: were it scaled up to one, a cut that leaves a single bin inside would lose
    # nothing
    total = reference.sum()
    p = reference[is_filled] / total
    q = quantized[is_filled] / total
    return float(np.sum(p * np.log(p / np.maximum(q, 1e-9))))

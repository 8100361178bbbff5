"""The scale of a weight for a codebook: by extremes, percentile or least squares.

It is per-tensor or per-channel.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from qpipe.quant.arithmetic import integer_range, scale_and_zero_point
from qpipe.quant.codebook import Codebook, nearest
from qpipe.quant.ranges import check_percentile
from qpipe.types import Array

Method = Literal["minmax", "percentile", "mse"]

# candidates of the search, as factors of the minmax scale: 16 to the octave, down to 1/8 (heavy
# tails at few bits); levels that are not evenly spaced may gain from a scale above that of minmax
SHRINKING_FACTORS = tuple(2 ** (-k / 16) for k in range(49))
WIDENING_FACTORS = tuple(2 ** (k / 16) for k in range(1, 9))


def round_to_power_of_two(scale: Array, *, clips: bool = False) -> Array:
    """Return the scale as 2^k in float32, for hardware that shifts instead of multiplying.

    It is the power above the scale, so that no value is cut off, or with `clips` (the scale was
    chosen to cut off some) the nearest one.
    """
    exponent = np.log2(np.asarray(scale, np.float64))
    # 1e-6: a scale that is a power of two but for rounding is not doubled
    whole_exponent = np.rint(exponent) if clips else np.ceil(exponent - 1e-6)
    return np.asarray(np.exp2(whole_exponent), np.float32)


def symmetric_scale(
    array: Array,
    codebook: Codebook,
    *,
    axis: int | None,
    method: Method = "minmax",
    percentile: float = 99.99,
) -> Array:
    """Return float32 scales for zero point 0, [] with axis None, else one per slice of `axis`, [C].

    "minmax" maps the largest magnitude to the largest level, "percentile" the magnitude that so
    many percent of the weights stay below, "mse" takes the least squared error. A slice of zeros
    gets the largest scale of the others, so that its bias is coded as finely as theirs. Raise
    StageError for a percentile that is not above 50 and at most 100.
    """
    rows = _rows(array, axis)
    if method == "percentile":
        amax = np.percentile(np.abs(rows), check_percentile(percentile), axis=1)
    else:
        amax = np.abs(rows).max(axis=1)
    scales = (amax / codebook.largest).astype(np.float32)
    is_zero = scales < np.finfo(np.float32).tiny
    scales[is_zero] = 1.0 if is_zero.all() else scales.max()
    if method == "mse":
        scales = _least_squares(rows, scales, codebook)
    return scales if axis is not None else scales[0]


def asymmetric_scale(
    array: Array,
    *,
    bits: int,
    axis: int | None,
    method: Method = "minmax",
    percentile: float = 99.99,
) -> tuple[Array, Array]:
    """Return float32 scales and int8 zero points for 2^bits levels over the weights' own range.

    They are [] with axis None, else [C], one per slice of `axis`. "percentile" leaves (100 -
    percentile) / 2 percent of the weights out on each side. Raise StageError for a percentile that
    is not above 50 and at most 100.
    """
    rows = _rows(array, axis)
    if method == "percentile":
        percent_outside = (100 - check_percentile(percentile)) / 2
        lows, highs = np.percentile(rows, [percent_outside, 100 - percent_outside], axis=1)
    else:
        lows = rows.min(axis=1)
        highs = rows.max(axis=1)
    if method == "mse":
        factors = _least_squares_factors(rows, lows=lows, highs=highs, bits=bits)
        lows = lows * factors
        highs = highs * factors
    scales, zero_points = scale_and_zero_point(lows, highs, np.int8, bits=bits)
    if axis is None:
        return scales[0], zero_points[0]
    return scales, zero_points


def asymmetric_scale_of_pairs(
    low: Array, high: Array, *, mean_low: Array, mean_high: Array
) -> tuple[Array, Array]:
    """Return float32 scales and int8 zero points that map two ranges: of weights, and of pairs.

    Weights from `low` to `high` get codes from -128 to 127, means of pairs (which lie between them)
    from -64 to 64, so that no sum of a pair exceeds 128. The scales are the smallest that do.
    """
    ranges = ((high - low) / 255, (mean_high - mean_low) / 128)
    mixed_ranges = ((high - mean_low) / 191, (mean_high - low) / 192)
    scale = np.max(np.broadcast_arrays(*ranges, *mixed_ranges), axis=0)
    least = np.maximum(-128 - low / scale, -64 - mean_low / scale)
    most = np.minimum(127 - high / scale, 64 - mean_high / scale)
    zero_point = np.rint((least + most) / 2).clip(-128, 127)
    return scale.astype(np.float32), zero_point.astype(np.int8)


def _rows(array: Array, axis: int | None) -> Array:
    """Return the array in float32 with a row for each slice of `axis`, or with one row."""
    values = np.asarray(array, np.float32)
    if axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, axis, 0).reshape(array.shape[axis], -1)


def _least_squares(rows: Array, minmax_scales: Array, codebook: Codebook) -> Array:
    """Return the candidate scale of each row with the least squared rounding error."""
    best = minmax_scales
    least_error = np.full(len(rows), np.inf)
    factors = SHRINKING_FACTORS if codebook.is_uniform else SHRINKING_FACTORS + WIDENING_FACTORS
    for factor in factors:
        scales = (minmax_scales * np.float32(factor))[:, np.newaxis]
        error = _squared_error(rows, nearest(codebook, rows / scales) * scales)
        best = np.where(error < least_error, scales[:, 0], best)
        least_error = np.minimum(error, least_error)
    return best


def _least_squares_factors(rows: Array, *, lows: Array, highs: Array, bits: int) -> Array:
    """Return the factor of each row's range with the least squared error of rounding to nearest."""
    best = np.ones(len(rows))
    least_error = np.full(len(rows), np.inf)
    lowest, highest = integer_range(np.int8, bits)
    for factor in SHRINKING_FACTORS:
        scale, zero_point = scale_and_zero_point(lows * factor, highs * factor, np.int8, bits=bits)
        scales = scale[:, np.newaxis]
        zero_points = zero_point[:, np.newaxis].astype(np.float32)
        codes = np.clip(np.rint(rows / scales) + zero_points, lowest, highest)
        error = _squared_error(rows, (codes - zero_points) * scales)
        best = np.where(error < least_error, factor, best)
        least_error = np.minimum(error, least_error)
    return best


def _squared_error(rows: Array, approximation: Array) -> Array:
    difference = rows - approximation
    error: Array = np.einsum("cv,cv->c", difference, difference, dtype=np.float64)
    return error

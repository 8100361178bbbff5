"""The scale of a weight for a codebook: per-tensor or per-channel, by its extremes, a percentile, or least squares."""

from __future__ import annotations

from typing import Literal

import numpy as np

from qpipe.quant.arithmetic import scale_and_zero_point
from qpipe.quant.codebook import Codebook, nearest
from qpipe.quant.ranges import check_percentile
from qpipe.types import Array

Method = Literal["minmax", "percentile", "mse"]

# candidates of the search, as parts of the minmax scale: 16 to the octave, down to 1/8 (heavy tails at few bits);
# levels that are not evenly spaced may gain from a scale larger than the maximum asks for
SHRUNK = tuple(2 ** (-k / 16) for k in range(49))
WIDENED = tuple(2 ** (k / 16) for k in range(1, 9))


def power_of_two(scale: Array, *, clips: bool = False) -> Array:
    """The scale as hardware takes it that shifts instead of multiplying: 2^k, the next above it, so that no level is
    lost, or the nearest where the scale was chosen to clip."""
    exponent = np.log2(np.asarray(scale, np.float64))
    return np.asarray(np.exp2(np.rint(exponent) if clips else np.ceil(exponent - 1e-6)), np.float32)


def symmetric_scale(
    array: Array,
    codebook: Codebook,
    *,
    axis: int | None,
    method: Method = "minmax",
    percentile: float = 99.99,
) -> Array:
    """float32 scales, one ([]) or one per slice of `axis` ([C]); zero point 0. "mse" takes the least squared error,
    "percentile" the interval that holds so many percent of the weights.

    A slice of zeros gets the largest scale of the others, so that its bias is coded as finely as theirs.
    """
    rows = _rows(np.abs(array) if method == "percentile" else array, axis)
    if method == "percentile":
        amax = np.percentile(rows, check_percentile(percentile), axis=1)
    else:
        amax = np.abs(rows).max(axis=1)
    scales = (amax / codebook.largest).astype(np.float32)
    dead = scales < np.finfo(np.float32).tiny
    scales[dead] = 1.0 if dead.all() else scales.max()
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
    """float32 scales and int8 zero points that spread 2^bits levels over the weights' own interval; "percentile" leaves
    (100 - percentile) / 2 percent of them out on each side."""
    rows = _rows(array, axis)
    if method == "percentile":
        out = (100 - check_percentile(percentile)) / 2
        lows, highs = np.percentile(rows, [out, 100 - out], axis=1)
    else:
        lows = rows.min(axis=1)
        highs = rows.max(axis=1)
    if method == "mse":
        lows, highs = _shrink(rows, lows, highs, bits)
    scales, zero_points = scale_and_zero_point(lows, highs, np.int8, bits=bits)
    return (scales, zero_points) if axis is not None else (scales[0], zero_points[0])


def _rows(array: Array, axis: int | None) -> Array:
    if axis is None:
        return np.asarray(array, np.float32).reshape(1, -1)
    return np.moveaxis(np.asarray(array, np.float32), axis, 0).reshape(array.shape[axis], -1)


def _least_squares(rows: Array, start: Array, codebook: Codebook) -> Array:
    best = start
    least = np.full(len(rows), np.inf)
    for part in SHRUNK if codebook.is_uniform else SHRUNK + WIDENED:
        scales = (start * np.float32(part))[:, np.newaxis]
        error = _squared_error(rows, nearest(codebook, rows / scales) * scales)
        best = np.where(error < least, scales[:, 0], best)
        least = np.minimum(error, least)
    return best


def _shrink(rows: Array, lows: Array, highs: Array, bits: int) -> tuple[Array, Array]:
    best = np.ones(len(rows))
    least = np.full(len(rows), np.inf)
    bottom = -(2 ** (bits - 1))
    top = 2 ** (bits - 1) - 1
    for part in SHRUNK:
        scale, zero_point = scale_and_zero_point(lows * part, highs * part, np.int8, bits=bits)
        scales = scale[:, np.newaxis]
        zero_points = zero_point[:, np.newaxis].astype(np.float32)
        codes = np.clip(np.rint(rows / scales) + zero_points, bottom, top)
        error = _squared_error(rows, (codes - zero_points) * scales)
        best = np.where(error < least, part, best)
        least = np.minimum(error, least)
    return lows * best, highs * best


def _squared_error(rows: Array, approximation: Array) -> Array:
    difference = rows - approximation
    error: Array = np.einsum("cv,cv->c", difference, difference, dtype=np.float64)
    return error

"""What quantize and dequantize mean: the numpy reference of ONNX QuantizeLinear and DequantizeLinear.

A scale and a zero point are one number (per-tensor, axis None) or one per slice of an axis (per-channel).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qpipe.types import Array


def integer_range(dtype: npt.DTypeLike) -> tuple[int, int]:
    """Lowest and highest value of an integer type."""
    limits = np.iinfo(np.dtype(dtype))
    return int(limits.min), int(limits.max)


def along_axis(parameter: Array, ndim: int, axis: int | None) -> Array:
    """A per-channel parameter reshaped to broadcast against an array of `ndim` axes; per-tensor ones as they are."""
    if axis is None:
        return parameter
    shape = [1] * ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def quantize(
    x: Array,
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike = 0,
    *,
    dtype: npt.DTypeLike = np.int8,
    axis: int | None = None,
) -> Array:
    """saturate(round(x / scale) + zero_point): float32 division, round half to even, as QuantizeLinear does it."""
    low, high = integer_range(dtype)
    scales = along_axis(np.asarray(scale, np.float32), x.ndim, axis)
    zero_points = along_axis(np.asarray(zero_point, np.float64), x.ndim, axis)
    with np.errstate(over="ignore"):  # an infinite quotient saturates like any other
        steps = np.rint(np.asarray(x, np.float32) / scales)
    # float64: adding the zero point in float32 could round once more
    return np.clip(steps.astype(np.float64) + zero_points, low, high).astype(dtype)


def dequantize(
    codes: Array, scale: npt.ArrayLike, zero_point: npt.ArrayLike = 0, *, axis: int | None = None
) -> Array:
    """(codes - zero_point) * scale in float32, as DequantizeLinear does it."""
    scales = along_axis(np.asarray(scale, np.float32), codes.ndim, axis)
    zero_points = along_axis(np.asarray(zero_point, np.int64), codes.ndim, axis)
    return (codes.astype(np.int64) - zero_points).astype(np.float32) * scales


def fake_quantize(
    x: Array,
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike = 0,
    *,
    dtype: npt.DTypeLike = np.int8,
    axis: int | None = None,
) -> Array:
    """What is left of x after quantize and dequantize."""
    return dequantize(
        quantize(x, scale, zero_point, dtype=dtype, axis=axis), scale, zero_point, axis=axis
    )


def scale_and_zero_point(
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    dtype: npt.DTypeLike = np.uint8,
    *,
    bits: int | None = None,
) -> tuple[Array, Array]:
    """The float32 scale and the zero point that spread the integers of `dtype` over the real interval [low, high];
    with `bits`, only those integers that fit in so many bits.

    The interval is widened to hold zero, which becomes exactly representable; an empty one gets scale 1.
    """
    lowest, highest = integer_range(dtype)
    if bits is not None:
        lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if lowest else (0, 2**bits - 1)
    lows = np.minimum(np.asarray(low, np.float64), 0.0)
    highs = np.maximum(np.asarray(high, np.float64), 0.0)
    scales = np.asarray((highs - lows) / (highest - lowest), np.float32)
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)
    zero_points = np.clip(np.rint(lowest - lows / scales), lowest, highest).astype(dtype)
    return scales, zero_points


def sqnr_db(reference: Array, approximation: Array) -> float:
    """Signal to quantization noise in dB: 10 log10(sum x^2 / sum (x - y)^2); inf for no noise."""
    exact = np.asarray(reference, np.float64)
    noise = float(np.sum((exact - approximation) ** 2))
    signal = float(np.sum(exact**2))
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")

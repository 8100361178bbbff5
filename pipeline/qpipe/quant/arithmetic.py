"""Quantize and dequantize in numpy: the reference for ONNX's QuantizeLinear and DequantizeLinear.

Source: the ONNX operator spec, QuantizeLinear and DequantizeLinear; the affine scheme is that of
Jacob et al. 2018 (arXiv:1712.05877): real = (code - zero_point) * scale.

Scale and zero point are one number (per-tensor, axis None) or one per slice of an axis
(per-channel, shape [C]).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qpipe.types import Array


def integer_range(dtype: npt.DTypeLike, bits: int | None = None) -> tuple[int, int]:
    """Return the lowest and the highest value of an integer type.

    With `bits` they are those of its integers of so many bits.
    """
    limits = np.iinfo(np.dtype(dtype))
    if bits is None:
        return int(limits.min), int(limits.max)
    if limits.min == 0:
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def along_axis(parameter: Array, ndim: int, axis: int | None) -> Array:
    """Return a per-channel parameter [C] shaped to broadcast along `axis` of `ndim` axes.

    Per-tensor parameters (axis None) are returned as they are.
    """
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
    """Return saturate(round(x / scale) + zero_point): codes as QuantizeLinear computes them.

    The division is in float32, rounding is half to even, `dtype` is an integer type. The result has
    the shape of `x`. Scale and zero point are [] with axis None, else [C]. Infinity saturates; NaN
    is not supported, as in the spec.
    """
    low, high = integer_range(dtype)
    scales = along_axis(np.asarray(scale, np.float32), x.ndim, axis)
    zero_points = along_axis(np.asarray(zero_point, np.float64), x.ndim, axis)
    with np.errstate(over="ignore"):  # an infinite quotient saturates like any other
        steps = np.rint(np.asarray(x, np.float32) / scales)
    # float64: adding the zero point in float32 could round once more
    codes = steps.astype(np.float64) + zero_points
    return np.clip(codes, low, high).astype(dtype)


def dequantize(
    codes: Array, scale: npt.ArrayLike, zero_point: npt.ArrayLike = 0, *, axis: int | None = None
) -> Array:
    """Return (codes - zero_point) * scale: float32 values as DequantizeLinear computes them.

    Scale and zero point are [] with axis None, else [C].
    """
    scales = along_axis(np.asarray(scale, np.float32), codes.ndim, axis)
    zero_points = along_axis(np.asarray(zero_point, np.int64), codes.ndim, axis)
    steps = codes.astype(np.int64) - zero_points
    return steps.astype(np.float32) * scales


def fake_quantize(
    x: Array,
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike = 0,
    *,
    dtype: npt.DTypeLike = np.int8,
    axis: int | None = None,
) -> Array:
    """Return `x` quantized and dequantized, in float32.

    These are the values that a QuantizeLinear, DequantizeLinear pair passes on.
    """
    codes = quantize(x, scale, zero_point, dtype=dtype, axis=axis)
    return dequantize(codes, scale, zero_point, axis=axis)


def scale_and_zero_point(
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    dtype: npt.DTypeLike = np.uint8,
    *,
    bits: int | None = None,
) -> tuple[Array, Array]:
    """Return the scale and zero point that spread the integers of `dtype` over [low, high].

    The scale is float32, the zero point of type `dtype`. `low` and `high` are numbers or arrays of
    one shape, which the results have too. With `bits`, only the integers of so many bits are used.
    The range is widened to hold zero, which becomes exactly representable, as integer padding asks
    for (Jacob et al. 2018, arXiv:1712.05877, section 2.1); an empty range gets scale 1.
    """
    lowest, highest = integer_range(dtype, bits)
    lows = np.minimum(np.asarray(low, np.float64), 0.0)
    highs = np.maximum(np.asarray(high, np.float64), 0.0)
    scales = np.asarray((highs - lows) / (highest - lowest), np.float32)
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)
    zero_points = np.rint(lowest - lows / scales)
    return scales, np.clip(zero_points, lowest, highest).astype(dtype)


def sqnr_db(reference: Array, approximation: Array) -> float:
    """Return the signal to quantization noise ratio in dB: 10 log10(sum x^2 / sum (x - y)^2).

    It is inf without noise, and -inf with noise but no signal.
    """
    exact = np.asarray(reference, np.float64)
    noise = float(np.sum((exact - approximation) ** 2))
    signal = float(np.sum(exact**2))
    if noise == 0:
        return float("inf")
    if signal == 0:
        return float("-inf")
    return float(10 * np.log10(signal / noise))

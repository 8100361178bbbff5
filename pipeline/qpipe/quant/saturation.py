"""What x86 without VNNI makes of u8 x s8: products summed two by two in 16 bits that saturate, and only then in 32.

The instruction is vpmaddubsw. ONNX Runtime's kernels (MLAS) use it for quantized convolution, Gemm and MatMul with int8
weights; not for depthwise convolution, nor where the session's `session.x64quantprecision` is 1, which is slower.
Weights of 7 bits cannot saturate: 2 x 255 x 64 is below 2^15.

K, along which products are summed, is in the order of the kernels: of a convolution the input channels of its group
change fastest, then the kernel's last axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array

LIMITS = np.iinfo(np.int16)
BLOCK = 1 << 22  # products looked at together


def saturating_product(activations: Array, weights: Array) -> Array:
    """uint8 [M, K] times int8 [K, N] as int32 [M, N], each pair of products (0 and 1, 2 and 3, ...) saturated."""
    sums = [
        np.clip(pairs, LIMITS.min, LIMITS.max).sum(axis=1) for pairs in _pairs(activations, weights)
    ]
    return np.concatenate(sums).astype(np.int32)


def saturating_share(activations: Array, weights: Array) -> float:
    """Which part of the pair sums of uint8 [M, K] times int8 [K, N] leaves 16 bits; 0 where the product is exact."""
    beyond = total = 0
    for pairs in _pairs(activations, weights):
        beyond += int(np.count_nonzero((pairs < LIMITS.min) | (pairs > LIMITS.max)))
        total += pairs.size
    return beyond / total if total else 0.0


def _pairs(activations: Array, weights: Array) -> Iterator[Array]:
    """Exact sums of two products, int32 [m, ceil(K / 2), N], for some rows at a time; an odd K is padded by zero."""
    if activations.dtype != np.uint8 or weights.dtype != np.int8:
        raise StageError(
            f"saturation: codes of {activations.dtype} and {weights.dtype}; give uint8 and int8"
        )
    odd = activations.shape[1] % 2
    left = np.pad(activations, ((0, 0), (0, odd))).astype(np.int32)
    right = np.pad(weights, ((0, odd), (0, 0))).astype(np.int32)
    rows = max(1, BLOCK // max(right.size, 1))
    for first in range(0, max(len(left), 1), rows):
        block = left[first : first + rows, :, np.newaxis]
        yield block[:, 0::2] * right[0::2] + block[:, 1::2] * right[1::2]

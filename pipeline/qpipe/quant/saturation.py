"""Saturation on x86 without VNNI: sums of two u8 x s8 products saturate at 16 bits.

Only then are they added in 32 bits. The instruction is vpmaddubsw. ONNX Runtime's kernels (MLAS)
use it for quantized convolution, Gemm and MatMul with int8 weights; not for depthwise convolution,
nor where the session's `session.x64quantprecision` is 1, which is slower. Weights of 7 bits cannot
saturate: 2 x 255 x 64 is below 2^15.

K, along which products are summed, is in the order of the kernels: of a convolution the input
channels of its group change fastest, then the kernel's last axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array

LIMITS = np.iinfo(np.int16)
BLOCK = 1 << 22  # products computed at once


def saturating_product(activations: Array, weights: Array) -> Array:
    """Return uint8 [M, K] times int8 [K, N] as int32 [M, N], pairs of products saturated.

    Pairs are products 0 and 1, 2 and 3, ... along K. Raise StageError for codes of other types.
    """
    blocks = []
    for pair_sums in _pair_sums(activations, weights):
        saturated = np.clip(pair_sums, LIMITS.min, LIMITS.max)
        blocks.append(saturated.sum(axis=1))
    return np.concatenate(blocks).astype(np.int32)


def saturating_share(activations: Array, weights: Array) -> float:
    """Return the share of the pair sums of uint8 [M, K] times int8 [K, N] that exceed 16 bits.

    It is 0 where the product is exact. Raise StageError for codes of other types.
    """
    saturated = 0
    total = 0
    for pair_sums in _pair_sums(activations, weights):
        exceeds = (pair_sums < LIMITS.min) | (pair_sums > LIMITS.max)
        saturated += int(np.count_nonzero(exceeds))
        total += pair_sums.size
    return saturated / total if total else 0.0


def _pair_sums(activations: Array, weights: Array) -> Iterator[Array]:
    """Yield exact sums of two products, int32 [m, ceil(K / 2), N], for some rows at a time.

    An odd K is padded by zero.
    """
    if activations.dtype != np.uint8 or weights.dtype != np.int8:
        raise StageError(
            f"saturation: codes are {activations.dtype} and {weights.dtype}; they must be uint8 "
            "and int8"
        )
    padding = activations.shape[1] % 2
    left = np.pad(activations, ((0, 0), (0, padding))).astype(np.int32)
    right = np.pad(weights, ((0, padding), (0, 0))).astype(np.int32)
    rows = max(1, BLOCK // max(right.size, 1))
    for first in range(0, max(len(left), 1), rows):
        block = left[first : first + rows, :, np.newaxis]
        yield block[:, 0::2] * right[0::2] + block[:, 1::2] * right[1::2]

"""Saturation on x86 without VNNI: sums of two u8 x s8 products saturate at 16 bits.

Only then are they added in 32 bits. The instruction is vpmaddubsw. ONNX Runtime's kernels (MLAS)
and OpenVINO's (oneDNN) use it for quantized convolution, Gemm and MatMul with int8 weights; not for
depthwise convolution with one output a channel, nor where ONNX Runtime's session has
`session.x64quantprecision` 1, which is slower.

The rule of pairs: activations have codes up to 255, so two weights of one sign whose codes sum to
at most 128 cannot saturate (255 x 128 is below 2^15), and two of different signs never do. Weights
of 7 bits keep to it, but a weight may have 8 bits wherever its neighbour leaves room.

K, along which products are summed, is in the order of the kernels: of a convolution the input
channels of its group change fastest, then the kernel's last axis. OpenVINO begins a new pair at
each kernel position; a kernel of ONNX Runtime does not, where the channels are odd in number. The
rule holds for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qpipe.types import Array

LARGEST_PAIR = 128  # codes of one sign that sum to no more cannot saturate


@dataclass(frozen=True, eq=False)
class Pairing:
    """Places along K; a kernel adds the products of `first[i]` and `second[i]` in 16 bits.

    No place occurs twice.
    """

    size: int  # K
    first: Array
    second: Array

    @cached_property
    def neighbours(self) -> Array:
        """The neighbour of each place, [K]; -1 where it has none."""
        neighbours = np.full(self.size, -1)
        neighbours[self.first] = self.second
        neighbours[self.second] = self.first
        return neighbours


def pairings(channels: int, positions: int) -> tuple[Pairing, ...]:
    """Return how kernels pair the weights of an output, which has K = channels x positions.

    Places are those of an ONNX weight, whose kernel positions change fastest.
    """
    places = np.arange(channels * positions).reshape(channels, positions).T
    whole = places.reshape(-1)
    continued = Pairing(whole.size, whole[:-1:2], whole[1::2])
    if channels % 2 == 0 or positions == 1:
        return (continued,)
    first, second = (places[:, start : channels - 1 + start : 2].reshape(-1) for start in (0, 1))
    by_position = Pairing(whole.size, first, second)
    return continued, by_position


def pair_sums(weights: Array, kernel_pairings: Sequence[Pairing]) -> Array:
    """Return the sums of paired weights along K, which is axis 1; float or integer."""
    sums = [weights[:, pairing.first] + weights[:, pairing.second] for pairing in kernel_pairings]
    return np.concatenate(sums, axis=1)


def limit_pairs(codes: Array, kernel_pairings: Sequence[Pairing]) -> Array:
    """Return integer codes with the sums of pairs within the rule, by the least change.

    Both codes of a pair take half of what is beyond it, toward zero. Thus no other pair can leave
    the rule. The result is int64.
    """
    limited = codes.astype(np.int64)
    for pairing in kernel_pairings:
        first = limited[:, pairing.first]
        second = limited[:, pairing.second]
        total = first + second
        excess = total - np.clip(total, -LARGEST_PAIR, LARGEST_PAIR)
        half = excess // 2
        limited[:, pairing.first] = first - half
        limited[:, pairing.second] = second - (excess - half)
    return limited


def room_beside(codes: Array) -> tuple[Array, Array]:
    """Return the lowest and the highest code that a neighbour of these codes may have."""
    low = -LARGEST_PAIR - np.minimum(codes, 0)
    high = LARGEST_PAIR - np.maximum(codes, 0)
    return low, high

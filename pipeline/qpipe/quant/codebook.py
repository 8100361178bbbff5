"""Codebooks: the integer levels a weight may take; weight = level times scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array


@dataclass(frozen=True)
class Codebook:
    """Sorted int8 levels; what `bits` can tell apart. `name` is what a model file records."""

    name: str
    bits: int
    levels: tuple[int, ...]

    @property
    def largest(self) -> int:
        """The largest magnitude among the levels."""
        return max(-self.levels[0], self.levels[-1])

    @cached_property
    def is_uniform(self) -> bool:
        """Levels are consecutive integers: nearest is plain rounding."""
        return self.levels[-1] - self.levels[0] == len(self.levels) - 1


def uniform(bits: int) -> Codebook:
    """All integers of -(2^(bits-1) - 1) .. 2^(bits-1) - 1: symmetric, so -128 is left out at 8 bits."""
    _check("uniform", bits, 2, 8)
    top = 2 ** (bits - 1) - 1
    return Codebook("uniform", bits, tuple(range(-top, top + 1)))


def full_range(bits: int) -> Codebook:
    """All integers of -2^(bits-1) .. 2^(bits-1) - 1: what asymmetric weights use."""
    _check("full_range", bits, 2, 8)
    top = 2 ** (bits - 1)
    return Codebook("full_range", bits, tuple(range(-top, top)))


def powers_of_two(bits: int) -> Codebook:
    """0 and +-2^k for k = 0 .. 2^(bits-1) - 2: one code for zero, one spare; 4 bits give 0, +-1, +-2 .. +-64."""
    _check("power_of_two", bits, 2, 4)
    return _mirrored("power_of_two", bits, [2**k for k in range(2 ** (bits - 1) - 1)])


def additive_powers_of_two(bits: int) -> Codebook:
    """Sums of two terms, each zero or a power of two (APoT: Li, Dong, Wang, ICLR 2020); as integers.

    At 4 bits 0, +-1, 2, 3, 4, 6, 8, 10: finer near zero than uniform, and the top less sparse than powers of two.
    """
    _check("additive_power_of_two", bits, 3, 5)
    first, second = {
        3: ((0, 1, 2, 4), (0,)),
        4: ((0, 1, 4, 8), (0, 2)),
        5: ((0, 2, 8, 32), (0, 1, 4, 16)),
    }[bits]
    return _mirrored("additive_power_of_two", bits, [a + b for a in first for b in second if a + b])


CODEBOOKS: Mapping[str, Callable[[int], Codebook]] = MappingProxyType(
    {
        "uniform": uniform,
        "full_range": full_range,
        "power_of_two": powers_of_two,
        "additive_power_of_two": additive_powers_of_two,
    }
)


def nearest(codebook: Codebook, x: Array) -> Array:
    """The int8 level nearest to each of x (weights divided by their scale); beyond the last level it saturates.

    Ties: to the even integer where levels are consecutive, as QuantizeLinear; to the smaller magnitude elsewhere.
    """
    levels = np.array(codebook.levels, np.int8)
    if codebook.is_uniform:
        return np.clip(np.rint(x), levels[0], levels[-1]).astype(np.int8)
    middles = ((levels[1:].astype(np.float32) + levels[:-1]) / 2).astype(np.float32)
    # counting the middles passed is several times faster than a binary search over so few of them
    index = np.zeros(x.shape, np.uint8)
    for middle in middles:
        index += (x > middle) if middle > 0 else (x >= middle)
    return levels[index]


def _mirrored(name: str, bits: int, positive: list[int]) -> Codebook:
    return Codebook(name, bits, tuple(sorted({0, *positive, *(-level for level in positive)})))


def _check(name: str, bits: int, low: int, high: int) -> None:
    if not low <= bits <= high:
        raise StageError(f"codebook {name}: {bits} bits; it takes {low} to {high}")

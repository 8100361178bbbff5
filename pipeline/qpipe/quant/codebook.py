"""Codebooks: the integer levels that a weight may take; weight = level * scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array


@dataclass(frozen=True)
class Codebook:
    """Levels of int8, sorted, at most 2^bits of them; `name` is what a model file records."""

    name: str
    bits: int
    levels: tuple[int, ...]

    @property
    def largest(self) -> int:
        """The largest magnitude among the levels."""
        return max(-self.levels[0], self.levels[-1])

    @cached_property
    def is_uniform(self) -> bool:
        """Whether levels are consecutive integers, so that the nearest one is found by rounding."""
        return self.levels[-1] - self.levels[0] == len(self.levels) - 1


def uniform(bits: int) -> Codebook:
    """Return the integers -(2^(bits-1) - 1) .. 2^(bits-1) - 1, for 2 to 8 bits.

    It is symmetric: -128 is left out at 8 bits. Raise StageError for other bits.
    """
    _check_bits("uniform", bits, lowest=2, highest=8)
    top = 2 ** (bits - 1) - 1
    return Codebook("uniform", bits, tuple(range(-top, top + 1)))


def full_range(bits: int) -> Codebook:
    """Return the integers -2^(bits-1) .. 2^(bits-1) - 1, for 2 to 8 bits.

    Asymmetric weights use it. Raise StageError for other bits.
    """
    _check_bits("full_range", bits, lowest=2, highest=8)
    top = 2 ** (bits - 1)
    return Codebook("full_range", bits, tuple(range(-top, top)))


def pot(bits: int) -> Codebook:
    """Return powers of two (PoT): 0 and +-2^k for k = 0 .. 2^(bits-1) - 2, for 2 to 4 bits.

    4 bits give 0, +-1, +-2 .. +-64: one code is for zero, one is spare. Raise StageError for other
    bits. Source: Miyashita et al. 2016 (arXiv:1603.01025).
    """
    _check_bits("pot", bits, lowest=2, highest=4)
    magnitudes = [2**exponent for exponent in range(2 ** (bits - 1) - 1)]
    return _with_signs("pot", bits, magnitudes)


def apot(bits: int) -> Codebook:
    """Return additive powers of two (APoT), for 3 to 5 bits.

    They are 0 and +- sums of two terms, each zero or a power of two. 4 bits give 0, +-1, 2, 3, 4,
    6, 8, 10: finer near zero than uniform levels, and less sparse at the top than powers of two.
    Raise StageError for other bits. Source: Li, Dong, Wang, ICLR 2020 (arXiv:1909.13144), scaled to
    integers.
    """
    _check_bits("apot", bits, lowest=3, highest=5)
    first_terms, second_terms = {
        3: ((0, 1, 2, 4), (0,)),
        4: ((0, 1, 4, 8), (0, 2)),
        5: ((0, 2, 8, 32), (0, 1, 4, 16)),
    }[bits]
    magnitudes = [first + second for first in first_terms for second in second_terms]
    return _with_signs("apot", bits, magnitudes)


CODEBOOKS: Mapping[str, Callable[[int], Codebook]] = MappingProxyType(
    {"uniform": uniform, "full_range": full_range, "pot": pot, "apot": apot}
)


def nearest(codebook: Codebook, x: Array) -> Array:
    """Return the int8 level nearest to each element of `x`, weights divided by their scale.

    The result has the shape of `x`. Values beyond the last level saturate. Ties go to the even
    integer where levels are consecutive, as in QuantizeLinear, and to the smaller magnitude
    elsewhere.
    """
    levels = np.array(codebook.levels, np.int8)
    if codebook.is_uniform:
        return np.clip(np.rint(x), levels[0], levels[-1]).astype(np.int8)
    midpoints = ((levels[1:].astype(np.float32) + levels[:-1]) / 2).astype(np.float32)
    # counting the midpoints below is several times faster than a binary search over so few
    index = np.zeros(x.shape, np.uint8)
    for midpoint in midpoints:
        index += (x > midpoint) if midpoint > 0 else (x >= midpoint)
    return levels[index]


def _with_signs(name: str, bits: int, magnitudes: Iterable[int]) -> Codebook:
    positive = set(magnitudes)
    negative = {-level for level in positive}
    return Codebook(name, bits, tuple(sorted({0} | positive | negative)))


def _check_bits(name: str, bits: int, *, lowest: int, highest: int) -> None:
    if not lowest <= bits <= highest:
        raise StageError(f"codebook {name}: bits is {bits}; it must be {lowest} to {highest}")

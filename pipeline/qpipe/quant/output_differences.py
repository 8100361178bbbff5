"""How far outputs of a network are from what they should be, but for rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from qpipe.types import Array

Outputs = Mapping[str, Array]

# of the largest value of an output: float32 sums in another order differ by about 1e-6
TOLERANCE = 1e-4
# a network may magnify rounding, for example where it rounds itself: then a difference is one of
# rounding where it is at most so many times what ONNX Runtime's own optimizations make
ROUNDING_MARGIN = 4.0


SMALLEST = 1e-6  # values below are the rest that rounding leaves of a difference


class Difference(NamedTuple):
    """How far an output is from what it should be."""

    size: float  # relative to the largest value; infinity where shape, type or NaN differ
    text: str


def find_difference(
    outputs: Outputs,
    expected: Outputs,
    reordered: Callable[[], Outputs],
    *,
    tolerance: float = TOLERANCE,
) -> str | None:
    """Return in words the first output that is not as expected; None where all are.

    Both have the same names. `reordered` computes the expected outputs in another order of
    rounding; it is asked only where there is a difference, which may then be as large as that.
    """
    differences = _differences(outputs, expected, tolerance)
    if not differences:
        return None
    rounding = _differences(reordered(), expected, tolerance)
    for name, difference in differences.items():
        limit = rounding[name].size * ROUNDING_MARGIN if name in rounding else tolerance
        if difference.size > limit:
            return f"output '{name}': {difference.text}"
    return None


def _differences(outputs: Outputs, expected: Outputs, tolerance: float) -> dict[str, Difference]:
    """Return the outputs that differ by more than the tolerance."""
    differences: dict[str, Difference] = {}
    for name, expected_array in expected.items():
        difference = _difference(outputs[name], expected_array)
        if difference.size > tolerance:
            differences[name] = difference
    return differences


def _difference(array: object, expected: object) -> Difference:
    if not isinstance(array, np.ndarray) or not isinstance(expected, np.ndarray):
        return Difference(0.0, "")  # a sequence, which the float reference refuses
    if array.dtype != expected.dtype or array.shape != expected.shape:
        actual_text = f"{array.dtype.name} {list(array.shape)}"
        expected_text = f"{expected.dtype.name} {list(expected.shape)}"
        return Difference(np.inf, f"it is {actual_text}, should be {expected_text}")
    if np.array_equal(array, expected):
        return Difference(0.0, "")
    if array.dtype.kind not in "fiu":
        share = float(np.mean(array != expected))
        return Difference(share, f"{share:.2%} of its values differ")
    actual_values = array.astype(np.float64)
    expected_values = expected.astype(np.float64)
    is_finite = np.isfinite(expected_values)
    if not np.array_equal(actual_values[~is_finite], expected_values[~is_finite], equal_nan=True):
        return Difference(np.inf, "NaN or infinity differ")
    largest = float(np.max(np.abs(expected_values[is_finite]), initial=SMALLEST))
    errors = np.abs(actual_values[is_finite] - expected_values[is_finite])
    size = float(np.max(errors, initial=0.0)) / largest
    if np.isnan(size):
        return Difference(np.inf, "NaN or infinity differ")
    if array.dtype.kind in "iu":
        # where two scores are equal but for rounding, an index may be that of the other one
        size = float(np.mean(array != expected))
        return Difference(size, f"{size:.2%} of its values differ")
    return Difference(size, f"it differs by {size:.2g} of its largest value")

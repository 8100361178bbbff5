"""Whether an imported float network computes what the file it was read from computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qpipe.errors import StageError
from qpipe.quant.inference import InferenceError, infer, open_file_session, open_session
from qpipe.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

    from qpipe.samples.store import Samples

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


def check_exact(model: ir.Model, given: Path, parts: Iterable[Samples]) -> None:
    """Raise StageError where an output of the imported network is not that of the given file.

    Both are run by ONNX Runtime on the first sample of each part, without graph optimizations.
    Outputs are held against each other by name, number, order, type, shape and value.
    """
    try:
        given_session = open_file_session(given, optimize=False)
    except InferenceError as error:
        raise StageError(
            f"the file as it was given does not run, so that nothing can be held against it: "
            f"{error}; export it for opset 17 or later"
        ) from error
    imported_session = open_session(model, optimize=False)
    optimized_session = None
    given_names = [output.name for output in given_session.get_outputs()]
    imported_names = [output.name for output in imported_session.get_outputs()]
    if given_names != imported_names:
        raise StageError(
            f"the file has the outputs {', '.join(given_names)}, "
            f"the imported network has {', '.join(imported_names)}; please report this",
            failure="wrong answer",
        )
    input_names = [value.name or "" for value in model.graph.inputs]
    for samples in parts:
        feeds = samples.feeds(0, input_names)
        expected = infer(given_session, feeds)
        differences = _differences(infer(imported_session, feeds), expected)
        if not differences:
            continue
        optimized_session = optimized_session or open_file_session(given)
        rounding = _differences(infer(optimized_session, feeds), expected)
        for name, difference in differences.items():
            limit = rounding[name].size * ROUNDING_MARGIN if name in rounding else TOLERANCE
            if difference.size > limit:
                raise StageError(
                    f"output '{name}' of the imported network is not that of the file on sample "
                    f"'{samples.entries[0]['id']}': {difference.text}; please report this",
                    failure="wrong answer",
                )


def _differences(
    outputs: Mapping[str, Array], expected: Mapping[str, Array]
) -> dict[str, Difference]:
    """Return the outputs that differ by more than the tolerance."""
    differences: dict[str, Difference] = {}
    for name, expected_array in expected.items():
        difference = _difference(outputs[name], expected_array)
        if difference.size > TOLERANCE:
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

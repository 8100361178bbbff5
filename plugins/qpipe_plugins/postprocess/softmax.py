"""From logits to probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import qpipe
from qpipe.types import Array
from qpipe_plugins.postprocess.output_choice import output as chosen


def probabilities(logits: Array, axis: int = -1) -> Array:
    """Their softmax in float32; logits of any size give no overflow."""
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True), np.float32)


def softmax(
    outputs: Mapping[str, Array], *, output: str | None = None, axis: int | None = None
) -> dict[str, Array]:
    """The outputs with one (the first unless `output` names it) as probabilities, which comes first.

    `axis` is that of the classes; it need not be given where only one axis is longer than 1. A network whose outputs
    are probabilities already needs no postprocess, and one that only ranks its scores needs none either.
    """
    name, logits = chosen(outputs, output, "softmax")
    rest = {other: array for other, array in outputs.items() if other != name}
    return {name: probabilities(logits, _axis(name, logits.shape, axis)), **rest}


def _axis(name: str, shape: tuple[int, ...], axis: int | None) -> int:
    long = [index for index, length in enumerate(shape) if length > 1]
    of = f"postprocess softmax: output '{name}' is {list(shape)}"
    if axis is None:
        if len(long) != 1:
            raise qpipe.StageError(f"{of}; set axis to that of its classes")
        return long[0]
    if not -len(shape) <= axis < len(shape):
        raise qpipe.StageError(
            f"{of}, it has no axis {axis}; set axis to one from {-len(shape)} to {len(shape) - 1}"
        )
    if shape[axis] < 2:
        raise qpipe.StageError(
            f"{of}: axis {axis} has length {shape[axis]}; set axis to that of its classes"
        )
    return axis

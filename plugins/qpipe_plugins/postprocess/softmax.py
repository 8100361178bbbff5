"""From logits to probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from qpipe.errors import StageError
from qpipe_plugins.postprocess.output_choice import choose_output

if TYPE_CHECKING:
    from qpipe.types import Array


def probabilities(logits: Array, axis: int = -1) -> Array:
    """Return the softmax of logits in float32; large logits do not overflow."""
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True), np.float32)


def softmax(
    outputs: Mapping[str, Array], *, output: str | None = None, axis: int | None = None
) -> dict[str, Array]:
    """Probabilities of one output, the first unless `output` names it.

    It comes first in the result; other outputs stay as they are. `axis` is that of the classes; it
    is needed only where several axes are longer than 1. A network whose outputs are probabilities
    needs no postprocess, nor does one whose scores are only ranked.
    """
    name, logits = choose_output(outputs, output, "softmax")
    other_outputs = {key: array for key, array in outputs.items() if key != name}
    class_axis = _class_axis(name, logits.shape, axis)
    return {name: probabilities(logits, class_axis), **other_outputs}


def _class_axis(name: str, shape: tuple[int, ...], axis: int | None) -> int:
    where = f"postprocess softmax: output '{name}' is {list(shape)}"
    if axis is None:
        long_axes = [index for index, length in enumerate(shape) if length > 1]
        if len(long_axes) != 1:
            raise StageError(f"{where}; set axis to that of its classes")
        return long_axes[0]
    if not -len(shape) <= axis < len(shape):
        fix = f"set axis to one from {-len(shape)} to {len(shape) - 1}"
        raise StageError(f"{where}, it has no axis {axis}; {fix}")
    if shape[axis] < 2:
        reason = f"axis {axis} has length {shape[axis]}"
        raise StageError(f"{where}: {reason}; set axis to that of its classes")
    return axis

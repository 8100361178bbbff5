"""Inputs that are always fed one number, such as a sampling rate that decides a branch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError, suggest
from qpipe.quant.graph import add_initializer


def fix_values(model: ir.Model, values: Mapping[str, float], where: str) -> None:
    """Let a network compute with these numbers in place of its inputs, which stay, unread.

    Raise StageError for what is no input with a known shape, and for a number that it cannot hold.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    for name, number in values.items():
        if name not in inputs:
            problem = f"values names input '{name}', which is not there"
            raise StageError(f"{where}: {problem}; {suggest(name, inputs)}")
        value = inputs[name]
        array = _filled(value, number, where)
        constant = add_initializer(model.graph, f"{name}_value", array)
        value.replace_all_uses_with(constant)


def _filled(value: ir.Value, number: float, where: str) -> np.ndarray:
    assert value.shape is not None
    shape = [size for size in value.shape if isinstance(size, int)]
    dtype = np.float32 if value.dtype is None else value.dtype.numpy()
    array = np.full(shape, number).astype(dtype)
    if not (array == number).all():
        problem = f"values gives input '{value.name}' {number}"
        reason = f"which {array.dtype.name} cannot hold"
        raise StageError(f"{where}: {problem}, {reason}; give a number of its type")
    return array

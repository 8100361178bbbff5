"""Operators with one computed and one constant operand."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qpipe.quant.graph import constant
from qpipe.types import Array


@dataclass(frozen=True)
class ConstantPair:
    """The operands of a node: one that is computed or fed, and one that is constant."""

    value: ir.Value
    array: Array


def split_constant(node: ir.Node) -> ConstantPair | None:
    """Return the two operands of a node, in either order; None unless just one is constant."""
    first, second = node.inputs
    for value, other in ((first, second), (second, first)):
        array = constant(other)
        if value is not None and array is not None and constant(value) is None:
            return ConstantPair(value, array)
    return None

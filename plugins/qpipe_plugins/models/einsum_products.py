"""Einsum that is a product of matrices becomes MatMul, which quantizers know."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import add_initializer, constant, unique_name, value_names
from qpipe_plugins.models.node_replacement import replace_node

EQUATION = re.compile(r"(?P<left>[a-zA-Z]+),(?P<right>[a-zA-Z]+)->(?P<result>[a-zA-Z]+)")
MATRIX_AXES = 2


def replace_einsum(graph: ir.Graph) -> bool:
    """Replace each Einsum that multiplies matrices, or rows by one; return whether there were any.

    Such are bij,jk->bik and, with what is transposed first, bhid,bhjd->bhij.
    """
    used_names = value_names(graph)
    is_replaced = False
    for node in list(graph):
        is_transposed = _is_product(node)
        if is_transposed is None:
            continue
        left, right = node.inputs
        if is_transposed:
            right = _transposed(graph, node, used_names)
        replace_node(graph, node, ir.node("MatMul", [left, right], name=node.name))
        is_replaced = True
    return is_replaced


def _is_product(node: ir.Node) -> bool | None:
    """Return whether the right side of a product is transposed; None where it is no product."""
    if node.op_type != "Einsum" or node.domain or len(node.inputs) != 2:
        return None
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    match = EQUATION.fullmatch(equation)
    if match is None or not _have_one_size_each(node, match["left"], match["right"]):
        return None
    left = match["left"]
    batch = match["right"][:-MATRIX_AXES]
    row = match["right"][-2]
    column = match["right"][-1]
    # one matrix multiplies rows of any number of axes, several those of the same place
    if batch and left[:-MATRIX_AXES] != batch:
        return None
    for summed, kept, is_transposed in ((row, column, False), (column, row, True)):
        is_sum = left.endswith(summed) and kept not in left
        if is_sum and match["result"] == left[:-1] + kept:
            return is_transposed
    return None


def _have_one_size_each(node: ir.Node, left: str, right: str) -> bool:
    """Return whether each letter stands for one axis of a side, of the same size on both."""
    if len(set(left)) < len(left) or len(set(right)) < len(right) or len(right) < MATRIX_AXES:
        return False
    sizes: dict[str, object] = {}
    for value, letters in zip(node.inputs, (left, right), strict=True):
        if value is None or value.shape is None or len(value.shape) != len(letters):
            return False
        for letter, size in zip(letters, value.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                return False
    return True


def _transposed(graph: ir.Graph, node: ir.Node, used_names: set[str | None]) -> ir.Value:
    """Return the right side with its last two axes exchanged."""
    right = node.inputs[1]
    assert right is not None
    assert right.shape is not None
    array = constant(right)
    if array is not None:
        name = f"{right.name}_transposed"
        return add_initializer(graph, name, np.swapaxes(array, -1, -2).copy(), used_names)
    *axes, row, column = range(len(right.shape))
    transpose = ir.node("Transpose", [right], {"perm": [*axes, column, row]})
    transpose.name = f"{node.name}_transpose"
    output = transpose.outputs[0]
    output.name = unique_name(graph, f"{right.name}_transposed", used_names)
    output.type = right.type
    output.shape = ir.Shape([right.shape[axis] for axis in (*axes, column, row)])
    graph.insert_before(node, transpose)
    return output

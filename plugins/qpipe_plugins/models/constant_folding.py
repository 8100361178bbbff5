"""Constant folding: what a network computes from constants alone is computed once, at import."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import (
    GRAPH_ATTRIBUTES,
    add_initializer,
    constant,
    remove_unused,
    value_names,
)
from qpipe.types import Array
from qpipe_plugins.models.branch_inlining import nesting_branches

# elements that folding one node may read and produce, and all nodes together: more is better
# computed than stored
MAX_ELEMENTS = 1 << 24
MAX_TOTAL_ELEMENTS = 1 << 27
# the same for operators that look at each element more than a few times
MAX_PRODUCT_ELEMENTS = 1 << 20
MAX_OTHER_ELEMENTS = 1 << 16
PRODUCT_OPERATORS = {"Einsum", "Gemm", "MatMul"}
FAST_OPERATORS = {
    "Abs",
    "Add",
    "And",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pad",
    "Pow",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reshape",
    "Round",
    "Shape",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
}
NOT_FOLDED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


def fold_constants(model: ir.Model) -> bool:
    """Replace nodes that depend on constants alone by initializers.

    Those in branches stay, unless the branch has an If: its condition may then become constant.
    Return whether another pass may fold more, now that more shapes can be inferred.
    """
    is_changed = False
    total = 0
    used_names = value_names(model.graph)
    for graph in (model.graph, *nesting_branches(model.graph)):
        for node in list(graph):
            if total >= MAX_TOTAL_ELEMENTS:
                return False
            arrays = _compute(node, model.opset_imports)
            if arrays is None:
                continue
            for output, array in zip(node.outputs, arrays, strict=True):
                _replace_by_initializer(graph, output, array, used_names)
                total += array.size
            sources = [value for value in node.inputs if value is not None]
            graph.remove(node, safe=True)
            for source in sources:
                if source.is_initializer():
                    remove_unused(graph, source)
            is_changed = True
    return is_changed and total < MAX_TOTAL_ELEMENTS


def _replace_by_initializer(
    graph: ir.Graph, value: ir.Value, array: Array, used_names: set[str | None]
) -> None:
    """Let an initializer take the place and the name of a node's output, if anything reads it."""
    name = value.name
    value.name = None
    if value.uses():
        used_names.discard(name)
        initializer = add_initializer(graph, name or "constant", array, used_names)
        value.replace_all_uses_with(initializer)


def _compute(node: ir.Node, opsets: dict[str, int]) -> list[Array] | None:
    """Return the outputs of a node that depends on constants alone; None for all other nodes."""
    if not _is_foldable(node):
        return None
    if node.op_type == "Shape":
        shape = _static_shape(node.inputs[0])
        if shape is not None:
            start = node.attributes.get_int("start", 0)
            end = node.attributes.get_int("end", len(shape))
            return [np.array(shape[start:end], np.int64)]
    inputs = _constant_inputs(node)
    if inputs is None:
        return None
    limit = _max_elements(node)
    for value in node.outputs:
        shape = _static_shape(value)
        if shape is None or math.prod(shape) > limit:
            return None
    if any(array.size > limit for array in inputs.values()):
        return None
    return _evaluate(node, inputs, opsets)


def _is_foldable(node: ir.Node) -> bool:
    if node.domain or node.op_type in NOT_FOLDED:
        return False
    if any(value.is_graph_output() for value in node.outputs):
        return False  # a constant output of the network stays with its node
    return not any(attribute.type in GRAPH_ATTRIBUTES for attribute in node.attributes.values())


def _constant_inputs(node: ir.Node) -> dict[str, Array] | None:
    """Return the inputs by name; None where one of them is not constant."""
    arrays: dict[str, Array] = {}
    for value in node.inputs:
        if value is None:
            continue
        array = constant(value)
        if array is None:
            return None
        if value.name:
            arrays[value.name] = array
    return arrays


def _max_elements(node: ir.Node) -> int:
    if node.op_type in FAST_OPERATORS:
        return MAX_ELEMENTS
    if node.op_type in PRODUCT_OPERATORS:
        return MAX_PRODUCT_ELEMENTS
    return MAX_OTHER_ELEMENTS


def _evaluate(
    node: ir.Node, inputs: dict[str, Array], opsets: dict[str, int]
) -> list[Array] | None:
    from onnx.reference import ReferenceEvaluator  # takes long to import, where nothing is folded

    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(ir.serde.serialize_node(node), opsets=opsets)
            return [np.asarray(array) for array in evaluator.run(None, inputs)]
    except Exception:  # noqa: BLE001  (whatever is wrong, the runtime reports it, if it ever gets there)
        return None


def _static_shape(value: ir.Value | None) -> list[int] | None:
    """Return the shape of a tensor; None where a dimension is not known."""
    if value is None or value.shape is None:
        return None
    sizes = [size for size in value.shape if isinstance(size, int)]
    return sizes if len(sizes) == len(value.shape) else None

"""Fusion of operators that exporters take apart, into those that runtimes and quantizers know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import (
    add_initializer,
    constant,
    has_known_shape,
    is_row_vector,
    only_reader,
    optional_input,
    replace_constant,
    unique_name,
    value_names,
)
from qpipe.quant.qdq import WEIGHTED
from qpipe.types import Array
from qpipe_plugins.models.einsum_products import replace_einsum
from qpipe_plugins.models.hard_swish_fusion import hard_sigmoid, hard_swish_input
from qpipe_plugins.models.node_replacement import replace_node
from qpipe_plugins.models.operands import ConstantPair, split_constant
from qpipe_plugins.models.reshaped_rows import REST, keep_rows

Names = set[str | None]


def fuse_operators(graph: ir.Graph) -> bool:
    """Fuse MatMul and the Add of a bias to Gemm, and the parts of HardSwish and HardSigmoid.

    An Einsum that is a product becomes MatMul. Rows that Gemm gives stay rows where they can, see
    `reshaped_rows`. Return whether anything was fused. Shapes must be inferred before, and again
    afterwards.
    """
    has_replaced_einsum = replace_einsum(graph)
    _separate_weights(graph)
    has_fused_biases = _fuse_biases(graph)
    if has_fused_biases:
        keep_rows(graph)
    has_fused_hard_swish = _fuse_hard_swish(graph)
    has_fused_hard_sigmoid = _fuse_hard_sigmoid(graph)
    return any(
        (has_replaced_einsum, has_fused_biases, has_fused_hard_swish, has_fused_hard_sigmoid)
    )


def _separate_weights(graph: ir.Graph) -> None:
    """Copy constants that layers read in different ways.

    Otherwise they could not have one axis of output channels.
    """
    first_usage: dict[ir.Value, tuple[str, int]] = {}
    for node in graph:
        if node.op_type not in WEIGHTED or node.domain:
            continue
        value = optional_input(node, 1)
        array = constant(value)
        if value is None or array is None:
            continue
        operator = "Conv" if node.op_type == "Conv" else "product"
        usage = (operator, node.attributes.get_int("transB", 0))
        if usage != first_usage.setdefault(value, usage):
            replace_constant(node, 1, array)


# ---- biases


@dataclass(frozen=True)
class BiasedProduct:
    """A MatMul by a constant matrix, and the Add of a bias that alone reads it."""

    product: ir.Node
    addition: ir.Node
    source: ir.Value  # what is multiplied
    source_shape: list[int]
    weight: Array  # [K, N]
    bias: Array  # [N], or [1] for all columns


def _fuse_biases(graph: ir.Graph) -> bool:
    """Fuse MatMul and Add to Gemm, whose bias quantization knows; return whether there were any.

    A tensor of more than two axes is reshaped around Gemm, as runtimes do it too: once for all
    products of the same tensor.
    """
    used_names = value_names(graph)
    matrices: dict[ir.Value, ir.Value] = {}
    is_fused = False
    for node in list(graph):
        biased_product = _biased_product(node)
        if biased_product is not None:
            _fuse_bias(graph, biased_product, matrices, used_names)
            is_fused = True
    return is_fused


def _biased_product(node: ir.Node) -> BiasedProduct | None:
    """Return the product that a node adds a bias to; None for all other nodes."""
    pair = split_constant(node) if node.op_type == "Add" else None
    product = pair.value.producer() if pair is not None else None
    if pair is None or product is None or product.op_type != "MatMul":
        return None
    source = product.inputs[0]
    weight = constant(product.inputs[1])
    if source is None or weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return None
    if only_reader(product.outputs[0]) is not node:
        return None
    if source.shape is None or not has_known_shape(source) or len(source.shape) < 2:
        return None
    if not _adds_row(pair, weight, node):
        return None
    source_shape = [size if isinstance(size, int) else REST for size in source.shape]
    if source_shape[:-1].count(REST) > 1:
        return None
    return BiasedProduct(product, node, source, source_shape, weight, pair.array)


def _adds_row(pair: ConstantPair, weight: Array, node: ir.Node) -> bool:
    """Return whether the constant has one number per column, or one, and widens nothing."""
    is_fitting = is_row_vector(pair.array) and pair.array.size in (1, weight.shape[1])
    return is_fitting and node.outputs[0].shape == pair.value.shape


def _fuse_bias(
    graph: ir.Graph,
    biased: BiasedProduct,
    matrices: dict[ir.Value, ir.Value],
    used_names: Names,
) -> None:
    """Replace the product and the addition by Gemm; `matrices` are the sources as matrices."""
    product = biased.product
    addition = biased.addition
    inputs, outputs = biased.weight.shape
    is_matrix = len(biased.source_shape) == 2
    if biased.source not in matrices:
        matrix = biased.source
        if not is_matrix:
            reshape = _reshape(graph, biased.source, [REST, inputs], used_names)
            graph.insert_before(product, reshape)
            matrix = reshape.outputs[0]
        matrices[biased.source] = matrix
    row = np.broadcast_to(biased.bias.reshape(-1), outputs).copy()
    bias = add_initializer(graph, f"{product.name}_bias", row, used_names)
    gemm = ir.node("Gemm", [matrices[biased.source], product.inputs[1], bias], name=product.name)
    gemm.outputs[0].name = unique_name(graph, f"{addition.outputs[0].name}_rows", used_names)
    gemm.outputs[0].shape = ir.Shape([None, outputs])
    gemm.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    if is_matrix:
        replace_node(graph, addition, gemm)
    else:
        graph.insert_before(addition, gemm)
        shape = [*biased.source_shape[:-1], outputs]
        replace_node(graph, addition, _reshape(graph, gemm.outputs[0], shape, used_names))
    graph.remove(product, safe=True)


def _reshape(graph: ir.Graph, value: ir.Value, shape: Sequence[int], used_names: Names) -> ir.Node:
    """Return a Reshape to a constant shape; it is not in the graph yet."""
    target = np.array(shape, np.int64)
    shape_value = add_initializer(graph, f"{value.name}_shape", target, used_names)
    node = ir.node("Reshape", [value, shape_value], name=f"{value.name}_reshape")
    node.outputs[0].name = unique_name(graph, f"{value.name}_reshaped", used_names)
    return node


# ---- hard swish and hard sigmoid


def _fuse_hard_swish(graph: ir.Graph) -> bool:
    """Replace the last operator of each hard swish; return whether there were any."""
    is_fused = False
    for node in list(graph):
        value = hard_swish_input(node)
        if value is not None:
            replace_node(graph, node, ir.node("HardSwish", [value], name=node.name))
            is_fused = True
    return is_fused


def _fuse_hard_sigmoid(graph: ir.Graph) -> bool:
    """Replace the last operator of each hard sigmoid; return whether there were any."""
    is_fused = False
    for node in list(graph):
        function = hard_sigmoid(node)
        if function is not None:
            attributes = {"alpha": function.slope, "beta": function.offset}
            fused = ir.node("HardSigmoid", [function.value], attributes, name=node.name)
            replace_node(graph, node, fused)
            is_fused = True
    return is_fused

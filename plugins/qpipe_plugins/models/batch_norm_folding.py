"""Folding of batch normalization, and of Gemm's alpha and beta, into weights and biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import (
    constant,
    has_gemm_scaling,
    only_reader,
    optional_input,
    replace_constant,
    value_names,
)
from qpipe.types import Array

DEFAULT_EPSILON = 1e-5  # of BatchNormalization in the ONNX operator specification


def fold_gemm_factors(graph: ir.Graph) -> None:
    """Multiply the weight of each Gemm by its alpha and the bias by its beta, if constant."""
    used_names = value_names(graph)
    for node in graph:
        if node.op_type == "Gemm" and not node.domain:
            _fold_factor(node, 1, "alpha", used_names)
            _fold_factor(node, 2, "beta", used_names)


def _fold_factor(node: ir.Node, index: int, attribute: str, used_names: set[str | None]) -> None:
    """Multiply one input by a factor and remove the factor, unless the input is computed."""
    value = optional_input(node, index)
    factor = node.attributes.get_float(attribute, 1.0)
    if value is not None:
        array = constant(value)
        if array is None or array.dtype != np.float32:
            return
        if factor != 1.0:
            scaled = (array * np.float64(factor)).astype(np.float32)
            replace_constant(node, index, scaled, used_names=used_names)
    node.attributes.pop(attribute, None)


def fold_batch_norms(graph: ir.Graph) -> None:
    """Fold each BatchNormalization into the layer before it, if nothing else reads that layer.

    Jacob et al. 2018, section 3.2 (arXiv 1712.05877). Shapes stay.
    """
    used_names = value_names(graph)
    for node in list(graph):
        if node.op_type == "BatchNormalization":
            layer = node.inputs[0].producer() if node.inputs[0] is not None else None
            if layer is not None and _is_sole_inference_reader(node, layer):
                _fold_batch_norm(graph, node, layer, used_names)


def _is_sole_inference_reader(node: ir.Node, layer: ir.Node) -> bool:
    is_training = bool(node.attributes.get_int("training_mode", 0))
    outputs = [value for value in node.outputs if value.name]
    return not is_training and len(outputs) <= 1 and only_reader(layer.outputs[0]) is node


def _fold_batch_norm(
    graph: ir.Graph, node: ir.Node, layer: ir.Node, used_names: set[str | None]
) -> None:
    if not _can_be_scaled(layer):
        return
    weight = constant(layer.inputs[1])
    bias: Array | None = np.zeros(1, np.float32)
    if optional_input(layer, 2) is not None:
        bias = constant(layer.inputs[2])
    parameters = [constant(value) for value in node.inputs[1:5]]
    arrays = [np.asarray(array, np.float64) for array in parameters if array is not None]
    if weight is None or bias is None or len(arrays) != len(parameters):
        return
    gamma, beta, mean, variance = arrays
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    factors = gamma / np.sqrt(variance + epsilon)
    new_weight = _scale_outputs(layer, weight, factors).astype(np.float32)
    new_bias = ((bias - mean) * factors + beta).astype(np.float32)
    replace_constant(layer, 1, new_weight, used_names=used_names)
    replace_constant(layer, 2, new_bias, name=f"{layer.name}_bias", used_names=used_names)
    _remove_after(graph, node, layer)


def _can_be_scaled(layer: ir.Node) -> bool:
    if layer.op_type == "Gemm":
        return not has_gemm_scaling(layer)
    return layer.op_type in ("Conv", "ConvTranspose")


def _scale_outputs(layer: ir.Node, weight: Array, factors: Array) -> Array:
    """Return the weight with each output channel multiplied by its factor, [C]."""
    if layer.op_type == "Gemm":
        is_transposed = layer.attributes.get_int("transB", 0)
        return weight * (factors[:, np.newaxis] if is_transposed else factors)
    if layer.op_type == "ConvTranspose":  # [inputs, outputs / groups, ...]
        groups = layer.attributes.get_int("group", 1)
        by_group = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        return (by_group * factors.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    kernel_axes = [1] * (weight.ndim - 1)
    return weight * factors.reshape(-1, *kernel_axes)


def _remove_after(graph: ir.Graph, node: ir.Node, layer: ir.Node) -> None:
    """Remove the node after a layer; the layer computes its output, under the same name."""
    removed = node.outputs[0]
    output = layer.outputs[0]
    name = removed.name
    removed.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    output.name = name

"""Folding of what scales and shifts channels into the weights and biases of the layer before it.

That is batch normalization, a product or a sum with a constant, and Gemm's alpha and beta.
"""

from __future__ import annotations

from typing import NamedTuple

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
from qpipe_plugins.models.operands import split_constant

ARITHMETIC = ("Add", "Sub", "Mul", "Div")
COMMUTATIVE = ("Add", "Mul")
CHANNEL_AXIS = 1  # of what convolutions and Gemm give
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


class ChannelScaling(NamedTuple):
    """What a node makes of each channel: its values times a factor, plus an offset."""

    factors: Array  # [C]
    offsets: Array  # [C]


def fold_channel_scaling(graph: ir.Graph) -> None:
    """Fold what scales and shifts channels into the layer before it, if nothing else reads that.

    Batch normalization as in Jacob et al. 2018, section 3.2 (arXiv 1712.05877); a product or a sum
    with a constant that has one number for each channel, or one for all. Shapes stay.
    """
    used_names = value_names(graph)
    for node in list(graph):
        layer = _layer_before(node)
        if layer is None or only_reader(layer.outputs[0]) is not node:
            continue
        weight = constant(optional_input(layer, 1))
        if weight is None or weight.dtype != np.float32 or not _can_be_scaled(layer):
            continue
        scaling = _scaling(node, layer, _channels(layer, weight))
        if scaling is not None:
            _fold_scaling(graph, node, layer, scaling, used_names)


def _layer_before(node: ir.Node) -> ir.Node | None:
    """Return what computes the tensor that a node may scale and shift; None for other nodes."""
    if node.domain or node.op_type not in ("BatchNormalization", *ARITHMETIC):
        return None
    candidates = node.inputs[:2] if node.op_type in COMMUTATIVE else node.inputs[:1]
    producers = [value.producer() for value in candidates if value is not None]
    return next(filter(None, producers), None)


def _scaling(node: ir.Node, layer: ir.Node, channels: int) -> ChannelScaling | None:
    """Return what a node makes of the channels of a layer; None for what cannot be folded."""
    if node.op_type == "BatchNormalization":
        return _batch_norm_scaling(node)
    return _arithmetic_scaling(node, layer.outputs[0], channels)


def _batch_norm_scaling(node: ir.Node) -> ChannelScaling | None:
    is_training = bool(node.attributes.get_int("training_mode", 0))
    outputs = [value for value in node.outputs if value.name]
    parameters = [constant(value) for value in node.inputs[1:5]]
    arrays = [np.asarray(array, np.float64) for array in parameters if array is not None]
    if is_training or len(outputs) > 1 or len(arrays) != len(parameters):
        return None
    gamma, beta, mean, variance = arrays
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    factors = gamma / np.sqrt(variance + epsilon)
    return ChannelScaling(factors, beta - mean * factors)


def _arithmetic_scaling(node: ir.Node, value: ir.Value, channels: int) -> ChannelScaling | None:
    """Return what Add, Sub, Mul or Div of a layer's output and a constant makes of its channels."""
    pair = split_constant(node)
    if pair is None or pair.value is not value or pair.array.dtype != np.float32:
        return None
    if value.shape is None or node.outputs[0].shape != value.shape:
        return None
    numbers = _by_channel(pair.array.astype(np.float64), len(value.shape), channels)
    is_reversed = node.inputs[0] is not value and node.op_type not in COMMUTATIVE
    if numbers is None or is_reversed or not np.isfinite(numbers).all():
        return None
    ones = np.ones(channels)
    zeros = np.zeros(channels)
    if node.op_type == "Mul":
        return ChannelScaling(numbers, zeros)
    if node.op_type == "Div":
        return ChannelScaling(1 / numbers, zeros) if numbers.all() else None
    return ChannelScaling(ones, -numbers if node.op_type == "Sub" else numbers)


def _by_channel(array: Array, axes: int, channels: int) -> Array | None:
    """Return one number for each channel, axis 1 of so many; None where others differ as well."""
    if array.ndim > axes or array.size not in (1, channels):
        return None
    shape = (1,) * (axes - array.ndim) + array.shape
    if array.size != 1 and shape[CHANNEL_AXIS] != channels:
        return None
    return np.broadcast_to(array.reshape(-1), channels)


def _fold_scaling(
    graph: ir.Graph,
    node: ir.Node,
    layer: ir.Node,
    scaling: ChannelScaling,
    used_names: set[str | None],
) -> None:
    weight = constant(layer.inputs[1])
    bias: Array | None = np.zeros(1, np.float32)
    if optional_input(layer, 2) is not None:
        bias = constant(layer.inputs[2])
    if weight is None or bias is None:
        return
    factors, offsets = scaling
    with np.errstate(over="ignore"):
        new_weight = _scale_outputs(layer, weight, factors).astype(np.float32)
        new_bias = (bias * factors + offsets).astype(np.float32)
    if not np.isfinite(new_weight).all() or not np.isfinite(new_bias).all():
        return
    replace_constant(layer, 1, new_weight, used_names=used_names)
    replace_constant(layer, 2, new_bias, name=f"{layer.name}_bias", used_names=used_names)
    _remove_after(graph, node, layer)


def _channels(layer: ir.Node, weight: Array) -> int:
    """Return how many output channels a layer has."""
    if layer.op_type == "ConvTranspose":
        return int(weight.shape[1]) * layer.attributes.get_int("group", 1)
    is_transposed = layer.op_type == "Conv" or bool(layer.attributes.get_int("transB", 0))
    return int(weight.shape[0] if is_transposed else weight.shape[1])


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

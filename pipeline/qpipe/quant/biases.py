"""Int32 biases, with the scale that integer kernels assume: activation scale times weight scale.

Source: Jacob et al. 2018 (arXiv:1712.05877), section 2.4; the ONNX operator spec of QLinearConv
asks for this scale too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.arithmetic import quantize
from qpipe.quant.graph import constant, has_gemm_scaling, optional_input, remove_unused, value_names
from qpipe.types import Array

# half of int32: the other half is left to the sum of products, which is added in the same 32 bits
LARGEST_CODE = 2**30
# a widened scale is rounded to float32, and must not fall below what the bias needs
WIDENING_MARGIN = 1 + 2**-20


def quantize_biases(model: ir.Model) -> None:
    """Make the float bias of each Conv and Gemm int32 whose weight and 8-bit input are quantized.

    Others stay float. A near-dead channel has weights, and so a scale, so small that its bias
    overflows int32: its weight scale is widened until the bias fits. What this costs the weights in
    precision is small beside such a bias.
    """
    used_names = value_names(model.graph)
    widen_scales(model)
    for weight in qdq.weights(model):
        if weight.quantized is None:
            continue
        channels = weight.array.shape[weight.channel_axis]
        for node, bias in _quantizable_biases(weight.nodes, channels).items():
            _quantize_bias(model, node, bias, weight.quantized, used_names)


def widen_scales(model: ir.Model) -> None:
    """Widen the scales of weights at which the bias of a channel overflows int32."""
    for weight in qdq.weights(model):
        if weight.quantized is None:
            continue
        channels = weight.array.shape[weight.channel_axis]
        biases = _quantizable_biases(weight.nodes, channels)
        quantized = _widen_for_biases(weight.quantized, biases)
        if quantized is not weight.quantized:
            qdq.quantize_weight(model, weight, quantized)


def _quantizable_biases(nodes: Sequence[ir.Node], channels: int) -> dict[ir.Node, Array]:
    """Return the float biases, each [C], of those nodes whose bias integer kernels can take."""
    biases = {}
    for node in nodes:
        bias = _float_bias(node)
        if bias is not None and input_scale(node):
            biases[node] = np.broadcast_to(bias, (channels,))
    return biases


def _float_bias(node: ir.Node) -> Array | None:
    """Return a bias, [C] or [1], where it is a float constant that integer kernels can take."""
    if node.op_type == "MatMul" or constant(optional_input(node, 2)) is None:
        return None
    if has_gemm_scaling(node):
        return None
    return qdq.bias(node)


def _widen_for_biases(
    quantized: qdq.QuantizedWeight, biases: Mapping[ir.Node, Array]
) -> qdq.QuantizedWeight:
    """Return the weight with scales at which all biases fit.

    It is the same object where they fit already.
    """
    scale = quantized.scale.astype(np.float64)
    needed_scale = np.zeros_like(scale)
    for node, bias in biases.items():
        least_scale = np.abs(bias) / (LARGEST_CODE * input_scale(node))
        if quantized.axis is None:
            least_scale = least_scale.max()
        needed_scale = np.maximum(needed_scale, least_scale)
    if not (needed_scale > scale).any():
        return quantized
    widened = np.maximum(scale, needed_scale * WIDENING_MARGIN)
    return qdq.rescale(quantized, widened.astype(np.float32))


def _quantize_bias(
    model: ir.Model,
    node: ir.Node,
    bias: Array,
    quantized: qdq.QuantizedWeight,
    used_names: set[str | None],
) -> None:
    # the product in float32, as the kernels form it
    scale = np.asarray(np.float32(input_scale(node)) * quantized.scale, np.float32)
    axis = None if quantized.axis is None else 0
    float_value = node.inputs[2]
    dequantize_node = qdq.add_dequantize(
        model.graph,
        quantize(bias, scale, dtype=np.int32, axis=axis),
        scale=scale,
        zero_point=np.zeros(scale.shape, np.int32),
        axis=axis,
        name=f"{node.outputs[0].name}_bias",
        before=node,
        used_names=used_names,
    )
    node.replace_input_with(2, dequantize_node.outputs[0])
    remove_unused(model.graph, float_value)


def input_scale(node: ir.Node) -> float:
    """Return the scale of a node's quantized 8-bit activation.

    It is 0 where that is float or has more bits.
    """
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "DequantizeLinear":
        return 0.0
    scale, zero_point = qdq.scale_and_zero_point_of(source)
    if scale is None or scale.size != 1:
        return 0.0
    if zero_point is not None and zero_point.dtype.itemsize > 1:
        return 0.0
    return float(scale.reshape(()))

"""Biases as int32 codes, with the scale that integer kernels assume: activation scale times weight scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.arithmetic import quantize
from qpipe.types import Array

# half of int32: the other half is left to the sum of products, which is added in the same 32 bits
LARGEST = 2**30


def quantize_biases(model: ir.Model) -> None:
    """Make the float bias of every Conv and Gemm integer whose weight and 8-bit input are quantized; others stay.

    A near-dead channel has weights, and so a scale, so small that its bias overflows int32: its weight scale is
    widened until the bias fits, which costs the weights precision that nobody sees beside such a bias.
    """
    for weight in qdq.weights(model):
        if weight.quantized is None:
            continue
        channels = weight.array.shape[weight.channel_axis]
        biases = {
            node: np.broadcast_to(bias, (channels,)) for node, bias in _float_biases(weight.nodes)
        }
        quantized = _widen(weight.quantized, biases)
        if quantized is not weight.quantized:
            qdq.quantize_weight(model, weight, quantized)
        for node, bias in biases.items():
            _quantize_bias(model, node, bias, quantized)


def _widen(quantized: qdq.QuantizedWeight, biases: Mapping[ir.Node, Array]) -> qdq.QuantizedWeight:
    scale = quantized.scale.astype(np.float64)
    needed = np.zeros_like(scale)
    for node, bias in biases.items():
        least = np.abs(bias) / (LARGEST * _input_scale(node))
        needed = np.maximum(needed, least if quantized.axis is not None else least.max())
    if not (needed > scale).any():
        return quantized
    return qdq.rescale(quantized, np.maximum(scale, needed * (1 + 2**-20)).astype(np.float32))


def _quantize_bias(
    model: ir.Model, node: ir.Node, bias: Array, quantized: qdq.QuantizedWeight
) -> None:
    name = f"{node.outputs[0].name}_bias"
    # the product in float32, as the kernels form it
    scale = np.asarray(np.float32(_input_scale(node)) * quantized.scale, np.float32)
    axis = None if quantized.axis is None else 0
    codes = quantize(bias, scale, dtype=np.int32, axis=axis)
    old = node.inputs[2]
    inputs = [
        qdq.initializer(model, f"{name}_quantized", codes),
        qdq.initializer(model, f"{name}_scale", scale),
        qdq.initializer(model, f"{name}_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    dequantize = ir.node(
        "DequantizeLinear",
        inputs,
        {} if axis is None else {"axis": axis},
        name=f"{name}_dequantize",
        outputs=[ir.val(f"{name}_dequantized", ir.DataType.FLOAT, codes.shape)],
    )
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(2, dequantize.outputs[0])
    qdq.discard(model, old)


def _float_biases(nodes: Sequence[ir.Node]) -> Iterator[tuple[ir.Node, Array]]:
    for node in nodes:
        values = _float_bias(node)
        if values is not None and _input_scale(node):
            yield node, values


def _float_bias(node: ir.Node) -> Array | None:
    """[C], or [1] for all channels, where it is a float constant that integer kernels can take."""
    if node.op_type == "MatMul" or len(node.inputs) < 3 or qdq.constant(node.inputs[2]) is None:
        return None
    is_scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return None if is_scaled else qdq.bias(node)


def _input_scale(node: ir.Node) -> float:
    """The scale of a node's quantized 8-bit activation, 0 where that is float or finer."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "DequantizeLinear":
        return 0.0
    scale = qdq.constant(source.inputs[1])
    zero_point = qdq.constant(source.inputs[2]) if len(source.inputs) > 2 else None
    if (
        scale is None
        or scale.size != 1
        or (zero_point is not None and zero_point.dtype.itemsize > 1)
    ):
        return 0.0
    return float(scale.reshape(()))

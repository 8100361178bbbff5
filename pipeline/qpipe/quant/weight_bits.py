"""How many bits the weights of a network have, by their codebooks."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.graph import constant_tensor

# so many axes longer than one make a constant a table of weights, not a number per channel
TABLE_AXES = 2


def weight_count_and_bits(model: ir.Model) -> tuple[int, int]:
    """Return how many weights a network has, and how many bits in all.

    Call it before compile packs them. A weight has the bits of its codebook, a float one those of
    its type. Weights are the constants of Conv, Gemm and MatMul, and all others of two or more axes
    that are float or dequantized (of ConvTranspose, LSTM, embeddings). Biases, scales and zero
    points are not counted: they are one number per channel.
    """
    layer_constants = _layer_constants(model)
    count = 0
    bits = 0
    for value in _constants(model.graph):
        tensor = constant_tensor(value)
        if tensor is None:
            continue
        long_axes = sum(size > 1 for size in tensor.shape.numpy())
        if value in layer_constants or long_axes >= TABLE_AXES:
            width = _bits_per_weight(value, tensor)
            count += tensor.size if width else 0
            bits += tensor.size * width
    return count, bits


def _layer_constants(model: ir.Model) -> set[ir.Value | None]:
    """Return what layers multiply by: float constants, or the codes behind a DequantizeLinear."""
    values: set[ir.Value | None] = set()
    for weight in qdq.weights(model):
        values.add(weight.value)
        producer = weight.value.producer()
        if producer is not None and producer.inputs:
            values.add(producer.inputs[0])
    return values


def _constants(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        if node.op_type == "Constant" and node.outputs[0].uses():
            yield node.outputs[0]


def _bits_per_weight(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    """Return the bits of one of a constant's numbers.

    It is 0 where these are no weights, but indices and the like.
    """
    for reader in value.consumers():
        if reader.op_type == "DequantizeLinear" and reader.inputs[0] is value:
            return int(reader.metadata_props.get(qdq.BITS, tensor.dtype.bitwidth))
    return tensor.dtype.bitwidth if tensor.dtype.is_floating_point() else 0

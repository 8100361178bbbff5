"""How many bits the weights of a network have, by their codebooks."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from qpipe.quant import qdq

TABLE = 2  # axes longer than one that make a constant a table of weights, not a number a channel


def weight_bits(model: ir.Model) -> tuple[int, int]:
    """How many weights there are, and how many bits all of them have together: those of their codebook, of their type
    where they are float. To be asked before compile packs them.

    Weights are the constants of Conv, Gemm and MatMul, and all others of two or more axes that are float or dequantized
    (of ConvTranspose, LSTM, embeddings). Biases, scales and zero points are not counted: they are a number a channel.
    """
    values = [weight.value for weight in qdq.weights(model)]
    coded = [
        node.inputs[0] for value in values if (node := value.producer()) is not None and node.inputs
    ]
    own = {*values, *coded}
    count = bits = 0
    for value in _constants(model.graph):
        tensor = ir.convenience.get_const_tensor(value)
        width = _width(value, tensor) if tensor is not None else 0
        if (
            tensor is not None
            and width
            and (value in own or sum(size > 1 for size in tensor.shape.numpy()) >= TABLE)
        ):
            count = count + tensor.size
            bits = bits + tensor.size * width
    return count, bits


def _constants(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    yield from (
        node.outputs[0] for node in graph if node.op_type == "Constant" and node.outputs[0].uses()
    )


def _width(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    """Bits of one of a constant's numbers; 0 where it holds no weights but indices and the like."""
    readers = [
        node
        for node in value.consumers()
        if node.op_type == "DequantizeLinear" and node.inputs[0] is value
    ]
    if readers:
        return int(readers[0].metadata_props.get(qdq.BITS, tensor.dtype.bitwidth))
    return tensor.dtype.bitwidth if tensor.dtype.is_floating_point() else 0

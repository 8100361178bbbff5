"""Where activations become integers: the QuantizeLinear, DequantizeLinear pairs that stock runtimes fuse away.

A pair goes on every tensor that an integer operator reads or writes, never between an operator and the Relu or Clip it
absorbs; operators that only move values pass their input's scale on. What was seen to fuse on ONNX Runtime 1.32:
Conv, Gemm, MatMul, Add, Mul, Concat, pooling. All others stay float, between a DequantizeLinear and a QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import scale_and_zero_point
from qpipe.quant.ranges import Method, activation_range
from qpipe.quant.statistics import Statistics
from qpipe.types import Array

ActivationRange = Literal["minmax", "percentile", "mse", "entropy", "none"]  # what stages take: none leaves them float
INTEGER = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool")
MOVING = ("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
DTYPES = {8: np.uint8, 16: np.uint16}
OPSET_16_BITS = 21


def quantize_activations(
    model: ir.Model,
    statistics: Statistics,
    *,
    method: Method = "minmax",
    bits: int = 8,
    percentile: float = 99.99,
    exclude: Sequence[str] = (),
) -> None:
    """Insert the pairs, unsigned with any zero point, for all operators whose weights (if any) are quantized already.

    Statistics are those of the float network; tensors that are quantized already keep what they have.
    """
    if bits not in DTYPES:
        raise StageError(f"activations: {bits} bits; it takes 8 or 16")
    if bits > 8 and model.opset_imports.get("", 0) < OPSET_16_BITS:
        raise StageError(f"activations: 16 bits need opset {OPSET_16_BITS}; import the network with a newer opset")
    parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for value, source in plan(model, statistics, exclude).items():
        if source not in parameters:
            low, high = _interval(source, statistics, method, bits, percentile)
            scale, zero_point = scale_and_zero_point(low, high, DTYPES[bits])
            parameters[source] = (
                qdq.initializer(model, f"{source.name}_scale", _inside(scale, high - low, bits)),
                qdq.initializer(model, f"{source.name}_zero_point", zero_point),
            )
        _insert(model, value, *parameters[source])


def plan(model: ir.Model, statistics: Statistics, exclude: Sequence[str] = ()) -> dict[ir.Value, ir.Value]:
    """The tensors to quantize, each with the one whose range it takes: itself, or what was only moved to make it."""
    quantized = {node for weight in qdq.weights(model) if weight.is_quantized for node in weight.nodes}
    kept = [node for node in model.graph if not qdq.is_excluded(node, exclude)]
    integer = {node for node in kept if _is_integer(node, quantized, statistics)}
    tensors: dict[ir.Value, ir.Value] = {}
    for node in kept:
        if node in integer:
            result = _absorbing(node)
            for value in [*_activations(node), *([result] if _is_wanted(result, node, integer) else [])]:
                tensors.setdefault(value, _source(value, statistics))
        elif node.op_type in MOVING and node.inputs[0] in tensors:
            tensors.setdefault(node.outputs[0], tensors[node.inputs[0]])
    return {value: source for value, source in tensors.items() if not _is_done(value)}


def _is_integer(node: ir.Node, quantized: set[ir.Node], statistics: Statistics) -> bool:
    if node.domain != "" or node.op_type not in INTEGER:
        return False
    if node.op_type in qdq.WEIGHTED:
        is_product = node.op_type == "MatMul" and qdq.constant(node.inputs[1]) is None
        return node in quantized or (is_product and all(_is_known(v, statistics) for v in node.inputs))
    return all(_is_known(value, statistics) for value in [*node.inputs, _absorbing(node)])


def _is_known(value: ir.Value | None, statistics: Statistics) -> bool:
    """A float tensor that is computed: integers (shapes) and constants have no statistics."""
    return value is not None and (value.name in statistics or _is_dequantized(value))


def limited(value: ir.Value) -> ir.Value | None:
    """What a Relu or Clip makes of a tensor that nothing else reads: its limits are those of the tensor's integers, so
    nobody needs to know the tensor's own range; None for all other tensors."""
    readers = value.consumers()
    if len(readers) != 1 or readers[0].op_type not in ("Clip", "Relu") or value.is_graph_output():
        return None
    return readers[0].outputs[0]


def _source(value: ir.Value, statistics: Statistics) -> ir.Value:
    """Whose range a tensor takes: its own; where calibration left it out because a Clip follows, the Clip's."""
    result = None if value.name in statistics else limited(value)
    return value if result is None else _source(result, statistics)


def _activations(node: ir.Node) -> list[ir.Value]:
    count = 1 if node.op_type in ("Conv", "Gemm") else len(node.inputs)
    return [v for v in node.inputs[:count] if v is not None and not (node.op_type == "MatMul" and _is_weight(v))]


def _is_weight(value: ir.Value) -> bool:
    producer = value.producer()
    return qdq.constant(value) is not None or (
        producer is not None and producer.op_type == "DequantizeLinear" and qdq.constant(producer.inputs[0]) is not None
    )


def _absorbing(node: ir.Node) -> ir.Value:
    """The tensor whose integers the operator's kernel writes: its output, or that of the Relu or Clip it absorbs."""
    value = node.outputs[0]
    readers = value.consumers()
    if len(readers) == 1 and not value.is_graph_output() and _cuts_at_zero(readers[0]):
        return readers[0].outputs[0]
    return value


def _cuts_at_zero(node: ir.Node) -> bool:
    """Relu, or Clip from zero up: with zero point 0 its cut is the saturation of the unsigned integers."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    low = qdq.constant(node.inputs[1])
    high = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.array(np.inf)
    return low is not None and high is not None and low.item() == 0 and high.item() > 0


def _is_wanted(result: ir.Value, node: ir.Node, integer: set[ir.Node]) -> bool:
    """Gemm and MatMul can give float where nobody goes on in integers: one rounding fewer, on the logits mostly."""
    if node.op_type not in ("Gemm", "MatMul"):
        return True
    return any(reader in integer or reader.op_type in MOVING for reader in result.consumers())


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _is_done(value: ir.Value) -> bool:
    return _is_dequantized(value) or any(reader.op_type == "QuantizeLinear" for reader in value.consumers())


def _interval(
    value: ir.Value, statistics: Statistics, method: Method, bits: int, percentile: float
) -> tuple[float, float]:
    name = value.name or ""
    if name not in statistics:
        raise StageError(f"activations: no statistics of tensor '{name}'; calibrate the network that is quantized")
    return activation_range(statistics[name], method, bits=bits, percentile=percentile)


def _inside(scale: Array, width: float, bits: int) -> Array:
    """The scale, one float smaller where rounding it up took the last level beyond the interval: a Clip that ends
    there is absorbed only if no level lies outside."""
    beyond = np.float32(scale) * np.float32(2**bits - 1) > np.float32(width) > 0
    return np.nextafter(scale, np.float32(0), dtype=np.float32) if beyond else scale


def _insert(model: ir.Model, value: ir.Value, scale: ir.Value, zero_point: ir.Value) -> None:
    name = value.name
    quantize = ir.node("QuantizeLinear", [value, scale, zero_point], name=f"{name}_quantize")
    quantize.outputs[0].name = f"{name}_quantized"
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point], name=f"{name}_dequantize")
    restored = dequantize.outputs[0]
    restored.name, restored.shape, restored.dtype = f"{name}_dequantized", value.shape, ir.DataType.FLOAT
    is_output = value.is_graph_output()
    for reader, index in list(value.uses()):
        if reader is not quantize:
            reader.replace_input_with(index, restored)
    if is_output:  # the network's outputs keep their names
        outputs = model.graph.outputs
        outputs[outputs.index(value)] = restored
        value.name, restored.name = f"{name}_float", name
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], [quantize, dequantize])
    else:
        model.graph.insert_after(producer, [quantize, dequantize])

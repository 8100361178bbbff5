"""The one view of a network's weights, float or quantized, and the QDQ form they take between stages.

A quantized weight is int8 codes behind a DequantizeLinear, whatever its bits: packing is compile's work. Its node
carries the codebook, the bits and the name of the float weight it came from, which survive the model's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.arithmetic import along_axis, dequantize
from qpipe.quant.codebook import CODEBOOKS, Codebook, full_range, nearest, uniform
from qpipe.quant.graph import is_row
from qpipe.quant.scales import Method, asymmetric_scale, power_of_two, symmetric_scale
from qpipe.types import ANY_TARGET, Array, Target

WeightKind = Literal["conv", "depthwise", "gemm", "matmul"]
WEIGHTED = ("Conv", "Gemm", "MatMul")
FLOAT_NAME = "qpipe.float"
CODEBOOK = "qpipe.codebook"
BITS = "qpipe.bits"


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """What a quantizer decides: int8 codes, float32 scale and int8 zero point, [] (axis None) or [C]."""

    codes: Array
    scale: Array
    zero_point: Array
    axis: int | None
    codebook: Codebook

    def dequantize(self) -> Array:
        """The float32 weights that inference sees."""
        return dequantize(self.codes, self.scale, self.zero_point, axis=self.axis)


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant that Conv, Gemm or MatMul multiplies by; `array` is its float values, dequantized where quantized."""

    name: str  # of the float weight, as calibration and the float network know it
    kind: WeightKind
    value: ir.Value  # what its nodes read: the float constant, or what DequantizeLinear gives
    nodes: tuple[ir.Node, ...]  # all that read it; usually one
    channel_axis: int  # the axis of output channels
    array: Array
    quantized: QuantizedWeight | None

    @property
    def node(self) -> ir.Node:
        """The first node that reads it."""
        return self.nodes[0]

    @property
    def is_quantized(self) -> bool:
        return self.quantized is not None

    @property
    def bias(self) -> Array | None:
        """The first node's bias in float, None where it has none or it is computed."""
        return bias(self.node)


def weights(model: ir.Model) -> list[Weight]:
    """All constant weights of Conv, Gemm and MatMul in the order of the graph; one for all nodes that share it."""
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if (
            node.domain == ""
            and node.op_type in WEIGHTED
            and len(node.inputs) > 1
            and node.inputs[1] is not None
        ):
            readers.setdefault(node.inputs[1], []).append(node)
    found = (_weight(value, nodes) for value, nodes in readers.items())
    return [weight for weight in found if weight is not None]


def float_weights(model: ir.Model, exclude: Sequence[str] = ()) -> list[Weight]:
    """The weights that are still to quantize, without those that the patterns name or whose nodes they name, and those
    that no integer kernel would read: these would be made float again at each inference."""
    left = {node for node in model.graph if is_excluded(node, exclude)}
    found = (
        weight
        for weight in weights(model)
        if not weight.is_quantized and left.isdisjoint(weight.nodes)
    )
    return [weight for weight in found if any(why_float(node) is None for node in weight.nodes)]


def why_float(node: ir.Node) -> str | None:
    """Why no integer kernel computes a Conv, Gemm or MatMul, though its weight is quantized; None where one does.

    A shape that is not known yet counts as one that will be."""
    given = node.inputs[0]
    if given is not None and given.shape is not None and not given.shape.is_static():
        return f"the shape of '{given.name}' is open"
    added = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if added is not None and bias(node) is None:
        return "its bias is computed, or not one number a column"
    if added is not None and node.attributes.get_float("beta", 1.0) != 1.0:
        return "beta scales its bias"
    return None


def origins(model: ir.Model, float_model: ir.Model, where: str) -> list[tuple[Weight, Weight]]:
    """The quantized weights, each with the float one that it came from; StageError where there is none."""
    quantized = [weight for weight in weights(model) if weight.is_quantized]
    named = {weight.name: weight for weight in weights(float_model)}
    pairs = [(weight, named[weight.name]) for weight in quantized if weight.name in named]
    if not quantized:
        raise StageError(
            f"{where}: no weight is quantized yet; put a stage before it that quantizes them"
        )
    if not pairs:
        raise StageError(
            f"{where}: the quantized weights do not say which float weights they come from; put symmetric, asymmetric "
            "or logarithmic before it, or another stage that quantizes by qpipe.quant.qdq"
        )
    return pairs


def _weight(value: ir.Value, nodes: Sequence[ir.Node]) -> Weight | None:
    quantized = _read_quantized(value)
    array = quantized.dequantize() if quantized else constant(value)
    if array is None or array.ndim < 2 or (nodes[0].op_type == "MatMul" and array.ndim > 2):
        return None
    producer = value.producer()
    recorded = producer.metadata_props.get(FLOAT_NAME) if producer and quantized else None
    kind, axis = _kind_and_axis(nodes[0], array)
    return Weight(recorded or value.name or "", kind, value, tuple(nodes), axis, array, quantized)


def _kind_and_axis(node: ir.Node, array: Array) -> tuple[WeightKind, int]:
    if node.op_type == "MatMul":
        return "matmul", array.ndim - 1
    if node.op_type == "Gemm":
        return "gemm", 0 if node.attributes.get_int("transB", 0) else 1
    return (
        "depthwise" if array.shape[1] == 1 and node.attributes.get_int("group", 1) > 1 else "conv"
    ), 0


def _read_quantized(value: ir.Value) -> QuantizedWeight | None:
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return None
    codes = constant(node.inputs[0])
    scale = constant(node.inputs[1])
    if codes is None or scale is None:
        return None
    zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero_point is None:
        zero_point = np.zeros(scale.shape, codes.dtype)
    name = node.metadata_props.get(CODEBOOK, "full_range")
    bits = int(node.metadata_props.get(BITS, 8))
    axis = node.attributes.get_int("axis", 1) % codes.ndim if scale.size > 1 else None
    if axis is None:
        scale = scale.reshape(())
        zero_point = zero_point.reshape(())
    return QuantizedWeight(codes, scale, zero_point, axis, CODEBOOKS.get(name, full_range)(bits))


def constant(value: ir.Value | None) -> Array | None:
    """A constant's array, whether initializer or Constant node; None for what is computed."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


# ---- deciding the codes


def to_codebook(
    weight: Weight,
    codebook: Codebook,
    *,
    axis: int | None,
    method: Method = "minmax",
    percentile: float = 99.99,
    target: Target = ANY_TARGET,
) -> QuantizedWeight:
    """Each value to the nearest level; zero point 0; one scale per slice of `axis`, one for all where it is None or the
    target takes no other."""
    axis = None if target.per_tensor_weights else axis
    scale = symmetric_scale(weight.array, codebook, axis=axis, method=method, percentile=percentile)
    if target.power_of_two_scales:
        scale = power_of_two(scale, clips=method != "minmax")
    zero_point = np.zeros(scale.shape, np.int8)
    codes = encode(codebook, weight.array, scale, zero_point, axis=axis)
    return QuantizedWeight(codes, scale, zero_point, axis, codebook)


def symmetric(
    weight: Weight,
    *,
    bits: int | None = None,
    axis: int | None,
    method: Method = "minmax",
    percentile: float = 99.99,
    target: Target = ANY_TARGET,
) -> QuantizedWeight:
    """Uniform levels with zero in the middle: -127..127 at 8 bits. Without `bits` as many as the target takes whole."""
    book = uniform(bits or weight_bits(target))
    return to_codebook(weight, book, axis=axis, method=method, percentile=percentile, target=target)


def weight_bits(target: Target) -> int:
    """The bits of weights whose products the target sums exactly: where two of u8 x s8 saturate at 16 bits, 7."""
    return 7 if target.saturates else 8


def asymmetric(
    weight: Weight,
    *,
    bits: int | None = None,
    axis: int | None = None,
    method: Method = "minmax",
    percentile: float = 99.99,
    target: Target = ANY_TARGET,
) -> QuantizedWeight:
    """Uniform levels over the weights' own interval, any zero point, one for each slice along `axis`."""
    bits = bits or weight_bits(target)
    axis = None if target.per_tensor_weights else axis
    codebook = full_range(bits)
    scale, zero_point = asymmetric_scale(
        weight.array, bits=bits, axis=axis, method=method, percentile=percentile
    )
    if target.power_of_two_scales:
        low = (codebook.levels[0] - zero_point.astype(np.float32)) * scale
        scale = power_of_two(scale, clips=method != "minmax")
        zero_point = np.clip(
            np.rint(codebook.levels[0] - low / scale), codebook.levels[0], codebook.levels[-1]
        )
        zero_point = zero_point.astype(np.int8)
    codes = encode(codebook, weight.array, scale, zero_point, axis=axis)
    return QuantizedWeight(codes, scale, zero_point, axis, codebook)


def rescale(quantized: QuantizedWeight, scale: Array) -> QuantizedWeight:
    """The same weights coded anew for other scales, in the same codebook."""
    codes = encode(
        quantized.codebook, quantized.dequantize(), scale, quantized.zero_point, axis=quantized.axis
    )
    return replace(quantized, codes=codes.astype(quantized.codes.dtype), scale=scale)


def encode(
    codebook: Codebook, array: Array, scale: Array, zero_point: Array, *, axis: int | None
) -> Array:
    """The int8 codes nearest to an array's values under a scale and zero point that are given."""
    steps = array / along_axis(scale, array.ndim, axis)
    if not zero_point.any():
        return nearest(codebook, steps)
    offset = along_axis(zero_point.astype(np.int64), array.ndim, axis)
    codes: Array = np.clip(np.rint(steps) + offset, codebook.levels[0], codebook.levels[-1]).astype(
        np.int8
    )
    return codes


# ---- writing them into the network


def quantize_weight(model: ir.Model, weight: Weight, quantized: QuantizedWeight) -> None:
    """Let the weight's nodes read these codes through a DequantizeLinear; replaces what was quantized before."""
    for reader in weight.nodes:
        reader.replace_input_with(1, None)
    discard(model, weight.value)
    inputs = [
        initializer(model, f"{weight.name}_quantized", quantized.codes),
        initializer(model, f"{weight.name}_scale", np.asarray(quantized.scale, np.float32)),
        initializer(
            model,
            f"{weight.name}_zero_point",
            np.asarray(quantized.zero_point, quantized.codes.dtype),
        ),
    ]
    node = ir.node(
        "DequantizeLinear",
        inputs,
        {} if quantized.axis is None else {"axis": quantized.axis},
        name=f"{weight.name}_dequantize",
        outputs=[ir.val(f"{weight.name}_dequantized", ir.DataType.FLOAT, quantized.codes.shape)],
        metadata_props={
            FLOAT_NAME: weight.name,
            CODEBOOK: quantized.codebook.name,
            BITS: str(quantized.codebook.bits),
        },
    )
    model.graph.insert_before(weight.node, node)
    for reader in weight.nodes:
        reader.replace_input_with(1, node.outputs[0])


def initializer(model: ir.Model, name: str, array: Array) -> ir.Value:
    """A new constant of the graph; its name grows underscores where the network has one of that name."""
    while name in model.graph.initializers:
        name += "_"
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    return value


def discard(model: ir.Model, value: ir.Value | None) -> None:
    """Remove a constant, or the node that makes it and its constants, unless something still reads it."""
    if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    node = value.producer()
    if node is None:
        if value.name is not None and model.graph.initializers.get(value.name) is value:
            del model.graph.initializers[value.name]
        return
    inputs = list(node.inputs)
    model.graph.remove(node, safe=True)
    for source in inputs:
        discard(model, source)


# ---- biases stay float between stages; compile makes them integers once nothing changes any more


def bias(node: ir.Node) -> Array | None:
    """The float bias of a Conv or Gemm, [C] or [1]; dequantized where it is int32, None where it has none, or another
    for each row."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    quantized = _read_quantized(value) if value is not None else None
    array = quantized.dequantize() if quantized else constant(value)
    if array is None or node.op_type == "MatMul" or not is_row(array):
        return None
    return array.reshape(-1)


def set_bias(model: ir.Model, node: ir.Node, values: Array) -> None:
    """Give a Conv or Gemm this float bias, [C], instead of the one it has, if any."""
    old = node.inputs[2] if len(node.inputs) > 2 else None
    value = initializer(model, f"{node.outputs[0].name}_bias", np.asarray(values, np.float32))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)
    discard(model, old)


# ---- leaving things out


def is_excluded(node: ir.Node, exclude: Iterable[str]) -> bool:
    """Whether a pattern names this node, its operator, one of its constants or its output (shell wildcards)."""
    names = {
        node.name,
        node.op_type,
        *(v.name for v in node.outputs),
        *map(_origin, node.inputs),
    } - {None}
    return any(fnmatchcase(str(name), pattern) for name in names for pattern in exclude)


def _origin(value: ir.Value | None) -> str | None:
    node = value.producer() if value is not None else None
    if value is None or (node is None and value.const_value is None):
        return None  # an activation: excluding a node must not exclude its readers
    if node is None:
        return value.name
    return node.metadata_props.get(FLOAT_NAME)


def check_exclude(model: ir.Model, exclude: Sequence[str], where: str) -> None:
    """StageError for a pattern that names nothing in the network."""
    for pattern in exclude:
        if not any(is_excluded(node, [pattern]) for node in model.graph):
            raise StageError(
                f"{where}: exclude '{pattern}' names no node, weight or operator of the network"
            )

"""The one view of a network's weights, float or quantized, and their QDQ form between stages.

A quantized weight is int8 codes behind a DequantizeLinear, whatever its bits: packing is compile's
work. Its node carries the codebook, the bits and the name of the float weight that it came from,
which survive in the model's file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.arithmetic import along_axis, dequantize
from qpipe.quant.codebook import CODEBOOKS, Codebook, full_range, nearest, uniform
from qpipe.quant.graph import (
    add_initializer,
    constant,
    has_known_shape,
    is_row_vector,
    only_reader,
    optional_input,
    remove_unused,
    replace_constant,
    value_names,
)
from qpipe.quant.saturation import (
    LARGEST_PAIR,
    Pairing,
    limit_pairs,
    pair_sums,
    pairings,
)
from qpipe.quant.scales import (
    Method,
    asymmetric_scale,
    asymmetric_scale_of_pairs,
    round_to_power_of_two,
    symmetric_scale,
)
from qpipe.types import ANY_TARGET, Array, Target

WeightKind = Literal["conv", "depthwise", "gemm", "matmul"]
WEIGHTED = ("Conv", "Gemm", "MatMul")
QDQ_OPERATORS = ("QuantizeLinear", "DequantizeLinear")
# what the DequantizeLinear of a weight records
FLOAT_NAME = "qpipe.float"
CODEBOOK = "qpipe.codebook"
BITS = "qpipe.bits"
FULL_BITS = 8  # of weights that have all the bits of their codes


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """What a quantizer decides: int8 codes, float32 scale, int8 zero point and codebook.

    Scale and zero point are [] with axis None, else [C].
    """

    codes: Array
    scale: Array
    zero_point: Array
    axis: int | None
    codebook: Codebook

    def dequantize(self) -> Array:
        """Return the float32 weights that inference computes with, in the shape of the codes."""
        return dequantize(self.codes, self.scale, self.zero_point, axis=self.axis)


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant that Conv, Gemm or MatMul multiplies by.

    `array` is its float values, dequantized where quantized.
    """

    name: str  # of the float weight, as calibration and the float network call it
    kind: WeightKind
    value: ir.Value  # what its nodes read: the float constant, or the output of DequantizeLinear
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
        """Whether its nodes read it through a DequantizeLinear."""
        return self.quantized is not None

    @property
    def bias(self) -> Array | None:
        """The first node's bias in float; None where it has none or it is computed."""
        return bias(self.node)

    def to_rows(self, array: Array) -> Array:
        """Return an array in the shape of the weights as [N, K]: K weights for each output."""
        return np.moveaxis(array, self.channel_axis, 0).reshape(array.shape[self.channel_axis], -1)

    def from_rows(self, rows: Array) -> Array:
        """Return rows [N, K] in the shape of the weights."""
        shape = np.moveaxis(self.array, self.channel_axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(rows.reshape(shape), 0, self.channel_axis))

    def pairings(self, target: Target) -> tuple[Pairing, ...]:
        """Return the pairs of weights along K whose products the target adds in 16 bits.

        There are none where it adds in 32.
        """
        if not target.saturates or self._is_summed_in_32_bits:
            return ()
        channels = self.array.shape[1 - self.channel_axis]
        return pairings(channels, math.prod(self.array.shape[2:]))

    @property
    def _is_summed_in_32_bits(self) -> bool:
        """Whether processors without VNNI do so, too: where each channel has one output."""
        outputs = self.array.shape[0]
        groups = {node.attributes.get_int("group", 1) for node in self.nodes}
        return self.kind == "depthwise" and groups == {outputs}


# ---- reading


def weights(model: ir.Model) -> list[Weight]:
    """Return the constant weights of Conv, Gemm and MatMul in the order of the graph.

    Nodes that share a constant share one Weight.
    """
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.domain or node.op_type not in WEIGHTED:
            continue
        value = optional_input(node, 1)
        if value is not None:
            readers.setdefault(value, []).append(node)
    constant_weights = []
    for value, nodes in readers.items():
        weight = _weight(value, nodes)
        if weight is not None:
            constant_weights.append(weight)
    return constant_weights


def float_weights(model: ir.Model, exclude: Sequence[str] = ()) -> list[Weight]:
    """Return the weights that are still to be quantized.

    Left out are those that a pattern of `exclude` names (or one of whose nodes it names, see
    `is_excluded`), and those that no integer kernel would read: they would be dequantized again at
    each inference.
    """
    excluded_nodes = {node for node in model.graph if is_excluded(node, exclude)}
    weights_to_quantize = []
    for weight in weights(model):
        has_integer_kernel = any(reason_to_stay_float(node) is None for node in weight.nodes)
        is_left_out = not excluded_nodes.isdisjoint(weight.nodes)
        if has_integer_kernel and not weight.is_quantized and not is_left_out:
            weights_to_quantize.append(weight)
    return weights_to_quantize


def reason_to_stay_float(node: ir.Node) -> str | None:
    """Return why no integer kernel computes a Conv, Gemm or MatMul with a quantized weight.

    It is None where one does. A shape that is unknown yet counts as static.
    """
    source = node.inputs[0]
    if source is not None and source.shape is not None and not has_known_shape(source):
        return f"the shape of '{source.name}' depends on values"
    if node.op_type != "Gemm" or optional_input(node, 2) is None:
        return None
    if bias(node) is None:
        return "its bias is computed, or not one number per column"
    if node.attributes.get_float("beta", 1.0) != 1.0:
        return "beta scales its bias"
    return None


def pair_with_float_weights(
    model: ir.Model, float_model: ir.Model, where: str
) -> list[tuple[Weight, Weight]]:
    """Return each quantized weight with the float weight that it came from.

    Raise StageError, which begins with `where`, without any quantized weight or any such pair.
    """
    quantized = [weight for weight in weights(model) if weight.is_quantized]
    originals = {weight.name: weight for weight in weights(float_model)}
    if not quantized and not float_weights(float_model):
        raise StageError(f"{where}: the network has no weight to quantize; leave this scheme out")
    if not quantized:
        raise StageError(
            f"{where}: no weight is quantized yet; put a stage that quantizes weights before it"
        )
    pairs = [(weight, originals[weight.name]) for weight in quantized if weight.name in originals]
    if not pairs:
        raise StageError(
            f"{where}: the quantized weights do not record which float weights they came from; "
            "put symmetric, asymmetric or logarithmic before it, or another stage that quantizes "
            "by qpipe.quant.qdq"
        )
    return pairs


def _weight(value: ir.Value, nodes: Sequence[ir.Node]) -> Weight | None:
    """Return the view of a constant; None where it is computed, or of unsupported axes."""
    quantized = _read_quantized(value)
    array = constant(value) if quantized is None else quantized.dequantize()
    if array is None or array.ndim < 2:
        return None
    if nodes[0].op_type == "MatMul" and array.ndim > 2:
        return None
    name = value.name or ""
    producer = value.producer()
    if producer is not None and quantized is not None:
        name = producer.metadata_props.get(FLOAT_NAME) or name
    kind, channel_axis = _kind_and_channel_axis(nodes[0], array)
    return Weight(name, kind, value, tuple(nodes), channel_axis, array, quantized)


def _kind_and_channel_axis(node: ir.Node, array: Array) -> tuple[WeightKind, int]:
    if node.op_type == "MatMul":
        return "matmul", array.ndim - 1
    if node.op_type == "Gemm":
        is_transposed = node.attributes.get_int("transB", 0) != 0
        return "gemm", 0 if is_transposed else 1
    is_depthwise = array.shape[1] == 1 and node.attributes.get_int("group", 1) > 1
    return "depthwise" if is_depthwise else "conv", 0


def _read_quantized(value: ir.Value) -> QuantizedWeight | None:
    """Return the constant codes behind a DequantizeLinear, per-tensor or per-channel.

    None for all other values.
    """
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return None
    codes = constant(node.inputs[0])
    scale, zero_point = scale_and_zero_point_of(node)
    if codes is None or scale is None:
        return None
    if zero_point is None:
        zero_point = np.zeros(scale.shape, codes.dtype)
    axis = node.attributes.get_int("axis", 1) % codes.ndim if scale.size > 1 else None
    if axis is None:
        scale = scale.reshape(())
        zero_point = zero_point.reshape(())
    make_codebook = CODEBOOKS.get(node.metadata_props.get(CODEBOOK, ""), full_range)
    codebook = make_codebook(int(node.metadata_props.get(BITS, 8)))
    return QuantizedWeight(codes, scale, zero_point, axis, codebook)


def pair_around(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Return the DequantizeLinear that a node reads first, and the QuantizeLinear that reads it.

    None where there is none of either, or where anything else reads the node.
    """
    value = node.inputs[0]
    source = value.producer() if value is not None else None
    quantizer = only_reader(node.outputs[0])
    if source is None or source.op_type != "DequantizeLinear":
        return None
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return None
    return source, quantizer


def scale_and_zero_point_of(node: ir.Node) -> tuple[Array | None, Array | None]:
    """Return the constant scale and zero point of a QuantizeLinear or DequantizeLinear.

    Each is None where it is computed; the zero point also where it is left out, which means 0.
    """
    return constant(node.inputs[1]), constant(optional_input(node, 2))


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
    """Return each value rounded to the nearest level, with zero point 0.

    There is one scale per slice of `axis`, one in all where it is None or the target takes no
    other. Raise StageError for a percentile that is not above 50 and at most 100.
    """
    if target.per_tensor_weights:
        axis = None
    scale = symmetric_scale(weight.array, codebook, axis=axis, method=method, percentile=percentile)
    kernel_pairings = weight.pairings(target)
    if kernel_pairings:
        largest = codebook.largest
        steps = weight.array / along_axis(scale, weight.array.ndim, axis)
        steps = steps.clip(-largest, largest)
        scale = scale * _widening(weight, steps, axis, kernel_pairings)
    if target.power_of_two_scales:
        scale = round_to_power_of_two(scale, clips=method != "minmax")
    zero_point = np.zeros(scale.shape, np.int8)
    codes = encode(codebook, weight.array, scale=scale, zero_point=zero_point, axis=axis)
    quantized = QuantizedWeight(codes, scale, zero_point, axis, codebook)
    return _with_limited_pairs(weight, quantized, kernel_pairings)


def symmetric(
    weight: Weight,
    *,
    bits: int = 8,
    axis: int | None,
    method: Method = "minmax",
    percentile: float = 99.99,
    target: Target = ANY_TARGET,
) -> QuantizedWeight:
    """Return the weight at uniform levels with zero in the middle: -127..127 at 8 bits.

    `axis` as in `to_codebook`.
    """
    return to_codebook(
        weight, uniform(bits), axis=axis, method=method, percentile=percentile, target=target
    )


def asymmetric(
    weight: Weight,
    *,
    bits: int = 8,
    axis: int | None = None,
    method: Method = "minmax",
    percentile: float = 99.99,
    target: Target = ANY_TARGET,
) -> QuantizedWeight:
    """Return the weight at uniform levels over its own range, with any zero point.

    `axis` as in `to_codebook`.
    """
    if target.per_tensor_weights:
        axis = None
    codebook = full_range(bits)
    scale, zero_point = asymmetric_scale(
        weight.array, bits=bits, axis=axis, method=method, percentile=percentile
    )
    kernel_pairings = weight.pairings(target)
    if kernel_pairings and bits == FULL_BITS:
        scale, zero_point = _pair_safe_parameters(weight, scale, zero_point, axis, kernel_pairings)
    if target.power_of_two_scales:
        power = round_to_power_of_two(scale, clips=method != "minmax")
        moved = np.rint(zero_point.astype(np.float64) * scale / power)
        zero_point = moved.clip(codebook.levels[0], codebook.levels[-1]).astype(np.int8)
        scale = power
    codes = encode(codebook, weight.array, scale=scale, zero_point=zero_point, axis=axis)
    quantized = QuantizedWeight(codes, scale, zero_point, axis, codebook)
    return _with_limited_pairs(weight, quantized, kernel_pairings)


# ---- weights whose products some processors add in 16 bits: see qpipe.quant.saturation


def with_exact_sums(weight: Weight, target: Target) -> QuantizedWeight:
    """Return a quantized weight on coarser scales, so that no pair leaves the rule."""
    quantized = weight.quantized
    assert quantized is not None
    if quantized.zero_point.any():
        return asymmetric(weight, axis=quantized.axis, target=target)
    kernel_pairings = weight.pairings(target)
    codes = quantized.codes.astype(np.float32)
    scale = quantized.scale * _widening(weight, codes, quantized.axis, kernel_pairings)
    return _with_limited_pairs(weight, rescale(quantized, scale), kernel_pairings)


def _widening(
    weight: Weight, steps: Array, axis: int | None, kernel_pairings: Sequence[Pairing]
) -> Array:
    """Return by what a scale must grow so that no pair leaves the rule: 1 or more.

    `steps` are weights in units of the scale. It is [] with axis None, else [C].
    """
    size = () if axis is None else (steps.shape[axis],)
    sums = np.abs(pair_sums(weight.to_rows(steps), kernel_pairings))
    by_output = sums.max(axis=1, initial=LARGEST_PAIR) / LARGEST_PAIR
    factors = by_output if axis == weight.channel_axis else by_output.max()
    return np.broadcast_to(factors, size).astype(np.float32)


def _pair_safe_parameters(
    weight: Weight,
    scale: Array,
    zero_point: Array,
    axis: int | None,
    kernel_pairings: Sequence[Pairing],
) -> tuple[Array, Array]:
    """Return the parameters nearest to these with which no pair leaves the rule."""
    codes = np.array([-128, 127], np.int64).reshape(2, *[1] * zero_point.ndim)
    low, high = (codes - zero_point) * scale.astype(np.float64)
    values = weight.array.clip(*(along_axis(end, weight.array.ndim, axis) for end in (low, high)))
    means = pair_sums(weight.to_rows(values), kernel_pairings) / 2
    if not means.size:  # a weight of one input has no pair
        return scale, zero_point
    along = 1 if axis == weight.channel_axis else None
    return asymmetric_scale_of_pairs(
        low, high, mean_low=means.min(axis=along), mean_high=means.max(axis=along)
    )


def _with_limited_pairs(
    weight: Weight, quantized: QuantizedWeight, kernel_pairings: Sequence[Pairing]
) -> QuantizedWeight:
    codes = quantized.codes
    limited = weight.from_rows(limit_pairs(weight.to_rows(codes), kernel_pairings))
    return replace(quantized, codes=limited.astype(codes.dtype))


def rescale(quantized: QuantizedWeight, scale: Array) -> QuantizedWeight:
    """Return the weights coded for other scales of the same shape, in the same codebook."""
    codes = encode(
        quantized.codebook,
        quantized.dequantize(),
        scale=scale,
        zero_point=quantized.zero_point,
        axis=quantized.axis,
    )
    return replace(quantized, codes=codes.astype(quantized.codes.dtype), scale=scale)


def encode(
    codebook: Codebook, array: Array, *, scale: Array, zero_point: Array, axis: int | None
) -> Array:
    """Return the int8 codes nearest to an array's values.

    Scale and zero point are [] with axis None, else [C].
    """
    steps = array / along_axis(scale, array.ndim, axis)
    if not zero_point.any():
        return nearest(codebook, steps)
    zero_points = along_axis(zero_point.astype(np.int64), array.ndim, axis)
    codes: Array = np.rint(steps) + zero_points
    return codes.clip(codebook.levels[0], codebook.levels[-1]).astype(np.int8)


# ---- writing them into the network


def quantize_weight(model: ir.Model, weight: Weight, quantized: QuantizedWeight) -> None:
    """Let the weight's nodes read these codes through a DequantizeLinear.

    It replaces what they read before.
    """
    for reader in weight.nodes:
        reader.replace_input_with(1, None)
    remove_unused(model.graph, weight.value)
    dequantize_node = add_dequantize(
        model.graph,
        quantized.codes,
        scale=np.asarray(quantized.scale, np.float32),
        zero_point=np.asarray(quantized.zero_point, quantized.codes.dtype),
        axis=quantized.axis,
        name=weight.name,
        before=weight.node,
    )
    dequantize_node.metadata_props[FLOAT_NAME] = weight.name
    dequantize_node.metadata_props[CODEBOOK] = quantized.codebook.name
    dequantize_node.metadata_props[BITS] = str(quantized.codebook.bits)
    for reader in weight.nodes:
        reader.replace_input_with(1, dequantize_node.outputs[0])


def add_dequantize(
    graph: ir.Graph,
    codes: Array,
    *,
    scale: Array,
    zero_point: Array,
    axis: int | None,
    name: str,
    before: ir.Node,
    used_names: set[str | None] | None = None,
) -> ir.Node:
    """Insert a DequantizeLinear of constant codes before a node.

    `name` begins the names of all that is added.
    """
    if used_names is None:
        used_names = value_names(graph)
    inputs = [
        add_initializer(graph, f"{name}_quantized", codes, used_names),
        add_initializer(graph, f"{name}_scale", scale, used_names),
        add_initializer(graph, f"{name}_zero_point", zero_point, used_names),
    ]
    node = ir.node(
        "DequantizeLinear",
        inputs,
        {} if axis is None else {"axis": axis},
        name=f"{name}_dequantize",
        outputs=[ir.val(f"{name}_dequantized", ir.DataType.FLOAT, codes.shape)],
    )
    graph.insert_before(before, node)
    return node


# ---- biases stay float between stages; compile makes them integers once nothing changes any more


def bias(node: ir.Node) -> Array | None:
    """Return the float bias of a Conv or Gemm, [C] or [1], dequantized where it is int32.

    None where there is no bias, where it is computed, and where it differs from row to row.
    """
    value = optional_input(node, 2)
    if value is None or node.op_type == "MatMul":
        return None
    quantized = _read_quantized(value)
    array = constant(value) if quantized is None else quantized.dequantize()
    if array is None or not is_row_vector(array):
        return None
    return array.reshape(-1)


def set_bias(model: ir.Model, node: ir.Node, values: Array) -> None:
    """Give a Conv or Gemm this float bias, [C], in place of the one that it has, if any."""
    old_value = optional_input(node, 2)
    name = f"{node.outputs[0].name}_bias"
    replace_constant(node, 2, np.asarray(values, np.float32), name=name)
    remove_unused(model.graph, old_value)


# ---- leaving things out


def is_excluded(node: ir.Node, exclude: Iterable[str]) -> bool:
    """Return whether a pattern names this node, its operator, an output or one of its constants.

    Patterns are those of a shell: * ? [seq].
    """
    names = {node.name, node.op_type}
    names.update(value.name for value in node.outputs)
    names.update(_constant_name(value) for value in node.inputs)
    for pattern in exclude:
        if any(name is not None and fnmatchcase(name, pattern) for name in names):
            return True
    return False


def _constant_name(value: ir.Value | None) -> str | None:
    """Return the name of a constant, of a quantized one that of its float weight.

    None for activations: excluding a node must not exclude its readers.
    """
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        return node.metadata_props.get(FLOAT_NAME)
    return None if value.const_value is None else value.name


def check_exclude(model: ir.Model, exclude: Sequence[str], where: str) -> None:
    """Raise StageError, which begins with `where`, for a pattern that matches nothing."""
    for pattern in exclude:
        if not any(is_excluded(node, [pattern]) for node in model.graph):
            raise StageError(
                f"{where}: exclude '{pattern}' matches no node, weight or operator of the network"
            )

"""Quantizing activations: the QuantizeLinear, DequantizeLinear pairs that stock runtimes fuse.

A pair goes on every tensor that an integer operator reads or writes, never between an operator and
the Relu or Clip that it absorbs; operators that only move values pass on the scale of their input.
All others stay float, between a DequantizeLinear and a QuantizeLinear: `integer_operators` says
which, and why. The constant table of a Gather, such as word embeddings, becomes integers as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from functools import cache
from typing import Literal

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import integer_range, quantize, scale_and_zero_point
from qpipe.quant.code_bounds import bound_codes
from qpipe.quant.coverage import coverage
from qpipe.quant.graph import (
    add_initializer,
    constant,
    has_known_shape,
    is_constant,
    only_reader,
    remove_unused,
    value_names,
)
from qpipe.quant.integer_operators import (
    Selection,
    activation_inputs,
    constant_number,
    is_dequantized,
    moves_values,
    quantized_tensors,
    select_integer_nodes,
    table_of,
)
from qpipe.quant.ranges import Method, activation_range
from qpipe.quant.scales import round_to_power_of_two
from qpipe.quant.statistics import Statistics, TensorStatistics, gather
from qpipe.types import ANY_TARGET, Array, Target

# the option of stages; "none" leaves activations float
ActivationRange = Literal["minmax", "percentile", "mse", "entropy", "none"]
Range = Callable[[str], tuple[float, float]]  # the real range of a tensor, by its name

FEWEST_BITS = 2
FULL_BITS = 8
WIDE_BITS = 16
OPSET_16_BITS = 21
OPSET_FEW_BITS = 12  # the first whose Clip takes integers
# integers must tell so many levels of a tensor apart, where it has more than MANY_VALUES values
FEWEST_LEVELS = 16
MANY_VALUES = 64
NUMBER_STEPS = 100  # at least, of a constant number whose scale is a power of two

log = logging.getLogger(__name__)


def quantize_activations(
    model: ir.Model,
    statistics: Statistics,
    *,
    method: Method = "minmax",
    bits: int = 8,
    percentile: float = 99.99,
    exclude: Sequence[str] = (),
    target: Target = ANY_TARGET,
    unclipped: Container[str] = (),
) -> None:
    """Insert the pairs for all operators whose weights, if any, are quantized already.

    Codes are unsigned, of 2 to 8 or 16 bits, with any zero point that the target takes. Fewer than
    8 bits are for what layers multiply; the network's inputs and all other tensors keep 8.
    `statistics` are those of the float network; tensors that are quantized already keep their
    range, and those named in `unclipped` have the range minmax. Logs in one line what stays float.
    Raise StageError for other bits, for 16 bits below opset 21, and for statistics of another
    network.
    """
    selection = insert_pairs(
        model,
        statistics,
        method=method,
        bits=bits,
        percentile=percentile,
        exclude=exclude,
        target=target,
        unclipped=unclipped,
    )
    float_summary = coverage(model, selection.reasons).summary()
    if float_summary:
        log.warning(float_summary)


def insert_pairs(
    model: ir.Model,
    statistics: Statistics,
    *,
    method: Method,
    bits: int,
    percentile: float,
    exclude: Sequence[str],
    target: Target,
    unclipped: Container[str],
) -> Selection:
    """Insert the pairs without a word in the log; return which nodes compute on integers."""
    _check_bits(model, bits)
    tables = _table_statistics(model)
    statistics = Statistics([*statistics.values(), *tables])

    kernel_bits = max(bits, FULL_BITS)
    few_bits = dict.fromkeys(names_of_factors(model), bits) if bits < FULL_BITS else {}

    @cache
    def tensor_range(name: str) -> tuple[float, float]:
        own_method = "minmax" if name in unclipped else method
        tensor_bits = few_bits.get(name, kernel_bits)
        low, high = activation_range(
            statistics[name], own_method, bits=tensor_bits, percentile=percentile
        )
        return _symmetric_range(low, high, tensor_bits) if target.symmetric_only else (low, high)

    clips = method != "minmax"
    used_names = value_names(model.graph)
    parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    sources, selection = plan_pairs(model, statistics, tensor_range, kernel_bits, exclude)
    moved = {
        value for value in sources if unmoved(value) is not value and unmoved(value) in sources
    }
    for value, source in sources.items():
        name = source.name or ""
        tensor_bits = few_bits.get(name, kernel_bits)
        if source not in parameters:
            scale, zero_point = _parameters(
                tensor_range(name), tensor_bits, clips=clips, target=target
            )
            parameters[source] = (
                add_initializer(model.graph, f"{name}_scale", scale, used_names),
                add_initializer(model.graph, f"{name}_zero_point", zero_point, used_names),
            )
        quantizer = _insert_pair(model, value, *parameters[source])
        if name in few_bits and quantizer is not None and value not in moved:
            bound_codes(model, quantizer, _code_range(bits, target))
    for node in model.graph:
        number = constant_number(node) if node in selection.integer else None
        if number is not None and is_constant(number):
            _quantize_number(model, node, number, kernel_bits, target)
    return selection


def _check_bits(model: ir.Model, bits: int) -> None:
    if bits != WIDE_BITS and not FEWEST_BITS <= bits <= FULL_BITS:
        raise StageError(f"activations: bits is {bits}; it must be {FEWEST_BITS} to 8, or 16")
    least_opset = 0
    if bits != FULL_BITS:
        least_opset = OPSET_16_BITS if bits == WIDE_BITS else OPSET_FEW_BITS
    if model.opset_imports.get("", 0) < least_opset:
        raise StageError(
            f"activations: {bits} bits need opset {least_opset}; export the network with a newer "
            "opset"
        )


def _table_statistics(model: ir.Model) -> list[TensorStatistics]:
    """Return the statistics of the float tables that Gather looks up."""
    tables = dict.fromkeys(table_of(node) for node in model.graph)
    arrays = {table.name or "": constant(table) for table in tables if table is not None}
    return [
        gather(name, [array])
        for name, array in arrays.items()
        if array is not None and np.isfinite(array).all()
    ]


def names_of_factors(model: ir.Model) -> set[str]:
    """Return the names of the computed tensors that a Conv, Gemm or MatMul multiplies."""
    layers = [node for node in model.graph if node.op_type in qdq.WEIGHTED]
    factors = [unmoved(value) for node in layers for value in activation_inputs(node)]
    return {value.name or "" for value in factors if value.producer() is not None}


def plan_pairs(
    model: ir.Model,
    statistics: Statistics,
    tensor_range: Range,
    bits: int,
    exclude: Sequence[str] = (),
) -> tuple[dict[ir.Value, ir.Value], Selection]:
    """Return the tensors to quantize, and the nodes that compute on integers then.

    Each tensor maps to the one whose range it takes: itself, the one whose values were only moved,
    or the result of the Clip that follows.
    """

    @cache
    def float_reason(value: ir.Value) -> str | None:
        if is_dequantized(value):
            return None
        name = _range_source(value, statistics).name or ""
        if name not in statistics:
            return f"no statistics of '{value.name}'"
        return _coarseness(statistics[name], tensor_range(name), bits)

    quantized_layers: set[ir.Node] = set()
    for weight in qdq.weights(model):
        if weight.is_quantized:
            quantized_layers.update(weight.nodes)
    _check_statistics(model, quantized_layers, statistics)
    selection = select_integer_nodes(model, float_reason, quantized_layers, exclude)
    sources: dict[ir.Value, ir.Value] = {}
    for value, moved_from in quantized_tensors(model, selection, exclude).items():
        source = _range_source(moved_from, statistics)
        if source.name in statistics and not _has_pair(value):
            sources[value] = source
    return sources, selection


def _check_statistics(
    model: ir.Model, quantized_layers: Container[ir.Node], statistics: Statistics
) -> None:
    """Raise StageError where no layer's input has statistics, though calibration would gather them.

    They are then those of another network.
    """
    without_statistics = []
    for node in model.graph:
        value = node.inputs[0] if node in quantized_layers else None
        if value is None:
            continue
        if is_dequantized(value) or value.name in statistics:
            return
        if has_known_shape(value):
            without_statistics.append(value)
    if without_statistics:
        raise StageError(
            f"activations: no statistics of tensor '{without_statistics[0].name}'; calibrate the "
            "network that is quantized"
        )


def clipped_output(value: ir.Value) -> ir.Value | None:
    """Return the output of a Relu or Clip that alone reads a tensor; None for all other tensors.

    Its limits are those of the tensor's integers, so the range of the tensor itself is not needed.
    """
    reader = only_reader(value)
    if reader is None or reader.op_type not in ("Clip", "Relu"):
        return None
    return reader.outputs[0]


def _range_source(value: ir.Value, statistics: Statistics) -> ir.Value:
    """Return the tensor whose range a tensor takes.

    It is the tensor itself or, where calibration left it out because a Clip follows, the result of
    the Clip.
    """
    clipped = None if value.name in statistics else clipped_output(value)
    return value if clipped is None else _range_source(clipped, statistics)


def _coarseness(tensor: TensorStatistics, limits: tuple[float, float], bits: int) -> str | None:
    """Return why integers would not tell a tensor's values apart; None where they do.

    A mask that adds -10000 leaves no levels for the other values.
    """
    if len(tensor.bins) <= MANY_VALUES:
        return None
    low, high = limits
    values = (tensor.bins.astype(np.uint32) << 16).view(np.float32)
    dtype = _dtype(bits)
    scale, zero_point = scale_and_zero_point(low, high, dtype)
    codes = quantize(values, scale, zero_point, dtype=dtype)
    used_levels = len(np.unique(codes))
    if used_levels >= FEWEST_LEVELS:
        return None
    return f"'{tensor.name}' from {low:.3g} to {high:.3g} would use {used_levels} levels"


def _has_pair(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type in qdq.QDQ_OPERATORS:
        return True
    return any(reader.op_type == "QuantizeLinear" for reader in value.consumers())


def unmoved(value: ir.Value) -> ir.Value:
    """Return the tensor whose values a tensor holds, moved by operators such as Reshape.

    It is the tensor itself where none moved them.
    """
    node = value.producer()
    while node is not None and moves_values(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


# ---- scale and zero point


def _parameters(
    limits: tuple[float, float], bits: int, *, clips: bool, target: Target
) -> tuple[Array, Array]:
    """Return the scale and the zero point of a range; `clips` where the range leaves values out."""
    low, high = limits
    scale, zero_point = scale_and_zero_point(low, high, _dtype(bits), bits=bits)
    if target.power_of_two_scales:
        scale, zero_point = _power_of_two_parameters(scale, zero_point, bits, clips=clips)
    else:
        scale = _keep_last_level_inside(scale, high - low, bits)
    lowest, _ = _code_range(bits, target)
    return scale, np.asarray(zero_point + lowest, zero_point.dtype)


def _dtype(bits: int) -> type[np.unsignedinteger]:
    return np.uint8 if bits <= FULL_BITS else np.uint16


def _code_range(bits: int, target: Target) -> tuple[int, int]:
    """Return the lowest and the highest code: those around the middle where zero has to be it."""
    lowest, highest = integer_range(_dtype(bits), bits)
    if target.symmetric_only and bits < FULL_BITS:
        offset = 2 ** (FULL_BITS - 1) - 2 ** (bits - 1)
        return lowest + offset, highest + offset
    return lowest, highest


def _symmetric_range(low: float, high: float, bits: int) -> tuple[float, float]:
    """Return the range around zero that puts the zero point in the middle of the codes.

    There is one code more below the middle than above.
    """
    largest = max(-low, high)
    middle = 2 ** (bits - 1)
    return -largest * middle / (middle - 1), largest


def _power_of_two_parameters(
    scale: Array, zero_point: Array, bits: int, *, clips: bool
) -> tuple[Array, Array]:
    """Return the scale as a power of two, and the zero point moved with the lower end of the range.

    A zero point in the middle of the codes stays there.
    """
    power = round_to_power_of_two(scale, clips=clips)
    lowest, highest = integer_range(zero_point.dtype, bits)
    if int(zero_point) == (highest + 1) // 2:
        return power, zero_point
    moved = np.rint(zero_point.astype(np.float64) * scale / power).clip(lowest, highest)
    return power, moved.astype(zero_point.dtype)


def _keep_last_level_inside(scale: Array, width: float, bits: int) -> Array:
    """Return the scale, or the float below it where its last level would lie beyond the range.

    Rounding the scale up to float32 takes the last level there. A Clip that ends at the range's end
    is absorbed only if no level lies beyond it.
    """
    width_of_levels = np.float32(scale) * np.float32(2**bits - 1)
    if width_of_levels > np.float32(width) > 0:
        return np.nextafter(scale, np.float32(0), dtype=np.float32)
    return scale


# ---- inserting


def _insert_pair(
    model: ir.Model, value: ir.Value, scale: ir.Value, zero_point: ir.Value
) -> ir.Node | None:
    """Let all readers of a tensor read it through a new pair, whose first node is returned.

    A constant becomes integers.
    """
    name = value.name
    array = constant(value)
    if array is not None:
        _quantize_table(model, value, array, scale, zero_point)
        return None
    quantize_node = ir.node("QuantizeLinear", [value, scale, zero_point], name=f"{name}_quantize")
    codes = quantize_node.outputs[0]
    codes.name = f"{name}_quantized"
    dequantize_node = ir.node(
        "DequantizeLinear", [codes, scale, zero_point], name=f"{name}_dequantize"
    )
    dequantized = dequantize_node.outputs[0]
    dequantized.name = f"{name}_dequantized"
    dequantized.shape = value.shape
    dequantized.dtype = ir.DataType.FLOAT
    for reader, index in list(value.uses()):
        if reader is not quantize_node:
            reader.replace_input_with(index, dequantized)
    # the network's outputs keep their names; one that is an input stays it
    if value.is_graph_output() and not value.is_graph_input():
        outputs = model.graph.outputs
        outputs[outputs.index(value)] = dequantized
        value.name = f"{name}_float"
        dequantized.name = name
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], [quantize_node, dequantize_node])
    else:
        model.graph.insert_after(producer, [quantize_node, dequantize_node])
    return quantize_node


def _quantize_table(
    model: ir.Model, table: ir.Value, array: Array, scale: ir.Value, zero_point: ir.Value
) -> None:
    """Let all readers of a constant read its integers through a DequantizeLinear."""
    scale_array = constant(scale)
    zero_point_array = constant(zero_point)
    assert scale_array is not None
    assert zero_point_array is not None
    codes = quantize(array, scale_array, zero_point_array, dtype=zero_point_array.dtype)
    codes_value = add_initializer(model.graph, f"{table.name}_quantized", codes)
    node = ir.node(
        "DequantizeLinear",
        [codes_value, scale, zero_point],
        name=f"{table.name}_dequantize",
        outputs=[ir.val(f"{table.name}_dequantized", ir.DataType.FLOAT, array.shape)],
    )
    for reader, index in list(table.uses()):
        reader.replace_input_with(index, node.outputs[0])
    model.graph.insert_before(model.graph[0], node)
    remove_unused(model.graph, table)


def _quantize_number(
    model: ir.Model, node: ir.Node, number: ir.Value, bits: int, target: Target
) -> None:
    """Let a node read a constant number as an integer times a scale: its sign times its magnitude.

    That is exact, but for scales that must be a power of two.
    """
    array = constant(number)
    assert array is not None
    magnitude = np.abs(array.reshape(())).astype(np.float32)
    scale = np.asarray(magnitude)
    if target.power_of_two_scales:
        scale = round_to_power_of_two(magnitude / NUMBER_STEPS, clips=False)
    steps = round(float(magnitude / scale))
    is_negative = bool(array.reshape(()) < 0)
    zero_point = steps if is_negative else 0
    if target.symmetric_only:
        zero_point = 2 ** (bits - 1)
    code = zero_point - steps if is_negative else zero_point + steps
    dequantize_node = qdq.add_dequantize(
        model.graph,
        np.full(array.shape, code, _dtype(bits)),
        scale=scale,
        zero_point=np.array(zero_point, _dtype(bits)),
        axis=None,
        name=number.name or f"{node.name}_number",
        before=node,
    )
    for index, value in enumerate(node.inputs):
        if value is number:
            node.replace_input_with(index, dequantize_node.outputs[0])
    remove_unused(model.graph, number)

"""Where activations become integers: the QuantizeLinear, DequantizeLinear pairs that stock runtimes fuse away.

A pair goes on every tensor that an integer operator reads or writes, never between an operator and the Relu or Clip it
absorbs; operators that only move values pass their input's scale on. All others stay float, between a DequantizeLinear
and a QuantizeLinear: which, and why, is selection's to say.
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
from qpipe.quant.arithmetic import quantize, scale_and_zero_point
from qpipe.quant.coverage import coverage
from qpipe.quant.integer_operators import PAIR, is_dequantized, only_reader, select, tensors
from qpipe.quant.ranges import Method, activation_range
from qpipe.quant.scales import power_of_two
from qpipe.quant.statistics import Statistics, TensorStatistics
from qpipe.types import ANY_TARGET, Array, Target

ActivationRange = Literal[
    "minmax", "percentile", "mse", "entropy", "none"
]  # what stages take: none leaves them float
Interval = Callable[[str], tuple[float, float]]  # the real interval of a tensor, by its name
DTYPES = {8: np.uint8, 16: np.uint16}
OPSET_16_BITS = 21
FEWEST_LEVELS = 16
MANY_VALUES = 64

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
) -> None:
    """Insert the pairs, unsigned with any zero point that the target takes, for all operators whose weights (if any)
    are quantized already.

    Statistics are those of the float network; tensors that are quantized already keep what they have. Logs what stays
    float, in one line.
    """
    if bits not in DTYPES:
        raise StageError(f"activations: {bits} bits; it takes 8 or 16")
    if bits > 8 and model.opset_imports.get("", 0) < OPSET_16_BITS:
        raise StageError(
            f"activations: 16 bits need opset {OPSET_16_BITS}; import the network with a newer opset"
        )

    @cache
    def interval(name: str) -> tuple[float, float]:
        low, high = activation_range(statistics[name], method, bits=bits, percentile=percentile)
        return _mirrored(low, high, bits) if target.symmetric_only else (low, high)

    parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    wanted, reasons = plan(model, statistics, interval, bits, exclude)
    for value, source in wanted.items():
        if source not in parameters:
            low, high = interval(source.name or "")
            scale, zero_point = scale_and_zero_point(low, high, DTYPES[bits])
            if target.power_of_two_scales:
                scale, zero_point = _shifts(scale, zero_point, clips=method != "minmax")
            else:
                scale = _inside(scale, high - low, bits)
            parameters[source] = (
                qdq.initializer(model, f"{source.name}_scale", scale),
                qdq.initializer(model, f"{source.name}_zero_point", zero_point),
            )
        _insert(model, value, *parameters[source])
    told = coverage(model, reasons).told()
    if told:
        log.warning(told)


def plan(
    model: ir.Model,
    statistics: Statistics,
    interval: Interval,
    bits: int,
    exclude: Sequence[str] = (),
) -> tuple[dict[ir.Value, ir.Value], dict[ir.Node, str]]:
    """The tensors to quantize, each with the one whose range it takes (itself, or what was only moved to make it), and
    why the nodes that stay float do."""

    @cache
    def unknown(value: ir.Value) -> str | None:
        if is_dequantized(value):
            return None
        name = _source(value, statistics).name or ""
        if name not in statistics:
            return f"no statistics of '{value.name}'"
        return _too_coarse(statistics[name], interval(name), bits)

    coded = {node for weight in qdq.weights(model) if weight.is_quantized for node in weight.nodes}
    _check_known(model, coded, statistics)
    chosen = select(model, unknown, coded, exclude)
    found = {
        value: _source(source, statistics)
        for value, source in tensors(model, chosen, exclude).items()
    }
    wanted = {
        v: source for v, source in found.items() if source.name in statistics and not _is_done(v)
    }
    return wanted, chosen.reasons


def _check_known(model: ir.Model, coded: Container[ir.Node], statistics: Statistics) -> None:
    """StageError where no layer's input has statistics, though calibration gathers them: they are another network's."""
    inputs = [
        node.inputs[0] for node in model.graph if node in coded and node.inputs[0] is not None
    ]
    strange = [
        v for v in inputs if not is_dequantized(v) and v.shape is not None and v.shape.is_static()
    ]
    if strange and not any(is_dequantized(value) or value.name in statistics for value in inputs):
        raise StageError(
            f"activations: no statistics of tensor '{strange[0].name}'; calibrate the network that is quantized"
        )


def limited(value: ir.Value) -> ir.Value | None:
    """What a Relu or Clip makes of a tensor that nothing else reads: its limits are those of the tensor's integers, so
    nobody needs to know the tensor's own range; None for all other tensors."""
    reader = only_reader(value)
    return reader.outputs[0] if reader is not None and reader.op_type in ("Clip", "Relu") else None


def _source(value: ir.Value, statistics: Statistics) -> ir.Value:
    """Whose range a tensor takes: its own; where calibration left it out because a Clip follows, the Clip's."""
    after = None if value.name in statistics else limited(value)
    return value if after is None else _source(after, statistics)


def _too_coarse(tensor: TensorStatistics, interval: tuple[float, float], bits: int) -> str | None:
    """Why integers would not tell a tensor's values apart: a mask that adds -10000 leaves none for the rest."""
    if len(tensor.bins) <= MANY_VALUES:
        return None
    values = (tensor.bins.astype(np.uint32) << 16).view(np.float32)
    used = len(
        np.unique(
            quantize(values, *scale_and_zero_point(*interval, DTYPES[bits]), dtype=DTYPES[bits])
        )
    )
    low, high = interval
    return (
        None
        if used >= FEWEST_LEVELS
        else f"'{tensor.name}' from {low:.3g} to {high:.3g} would use {used} levels"
    )


def _is_done(value: ir.Value) -> bool:
    producer = value.producer()
    return (producer is not None and producer.op_type in PAIR) or any(
        reader.op_type == "QuantizeLinear" for reader in value.consumers()
    )


def _mirrored(low: float, high: float, bits: int) -> tuple[float, float]:
    """The interval around zero that puts the zero point in the middle of the codes; these reach one further down."""
    largest = max(-low, high)
    top = 2 ** (bits - 1)
    return -largest * top / (top - 1), largest


def _shifts(scale: Array, zero_point: Array, *, clips: bool) -> tuple[Array, Array]:
    """The scale as a power of two; the zero point stays in the middle, or moves with the interval's lower end."""
    wide = power_of_two(scale, clips=clips)
    limits = np.iinfo(zero_point.dtype)
    if int(zero_point) == (int(limits.max) + 1) // 2:
        return wide, zero_point
    moved = np.clip(np.rint(zero_point.astype(np.float64) * scale / wide), limits.min, limits.max)
    return wide, moved.astype(zero_point.dtype)


def _inside(scale: Array, width: float, bits: int) -> Array:
    """The scale, one float smaller where rounding it up took the last level beyond the interval: a Clip that ends
    there is absorbed only if no level lies outside."""
    beyond = np.float32(scale) * np.float32(2**bits - 1) > np.float32(width) > 0
    return np.nextafter(scale, np.float32(0), dtype=np.float32) if beyond else scale


def _insert(model: ir.Model, value: ir.Value, scale: ir.Value, zero_point: ir.Value) -> None:
    name = value.name
    quantize = ir.node("QuantizeLinear", [value, scale, zero_point], name=f"{name}_quantize")
    quantize.outputs[0].name = f"{name}_quantized"
    dequantize = ir.node(
        "DequantizeLinear", [quantize.outputs[0], scale, zero_point], name=f"{name}_dequantize"
    )
    restored = dequantize.outputs[0]
    restored.name = f"{name}_dequantized"
    restored.shape = value.shape
    restored.dtype = ir.DataType.FLOAT
    is_output = value.is_graph_output()
    for reader, index in list(value.uses()):
        if reader is not quantize:
            reader.replace_input_with(index, restored)
    if is_output:  # the network's outputs keep their names
        outputs = model.graph.outputs
        outputs[outputs.index(value)] = restored
        value.name = f"{name}_float"
        restored.name = name
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], [quantize, dequantize])
    else:
        model.graph.insert_after(producer, [quantize, dequantize])

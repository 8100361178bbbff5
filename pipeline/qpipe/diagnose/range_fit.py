"""How the ranges of rounded activations fit their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.inference import session
from qpipe.quant.integer_operators import PAIR
from qpipe.quant.sensitivity import layer_name
from qpipe.samples.store import Samples
from qpipe.types import Array


@dataclass(frozen=True)
class Reading:
    """A rounded tensor that a layer reads."""

    tensor: str
    clipped: float  # share of its values beyond the range
    channels: float  # range of its largest channel over that of the median


def readings(
    model: ir.Model, float_model: ir.Model, samples: Samples, indices: Sequence[int]
) -> Mapping[str, list[Reading]]:
    """By layer, what it reads through a QuantizeLinear, with the float network's values on these samples; tensors that
    the float network does not have by that name are left out."""
    known = {value.name for node in float_model.graph for value in node.outputs}
    fed = {value.name for value in float_model.graph.inputs}
    quantizers: dict[ir.Node, str] = {}
    for node in model.graph:
        name = (
            node.inputs[0].name
            if node.op_type == "QuantizeLinear" and node.inputs[0] is not None
            else None
        )
        name = name if name in known | fed else (name or "").removesuffix("_float")
        if name in known | fed and _parameters(node) is not None:
            quantizers[node] = name or ""
    seen = _look(float_model, quantizers, sorted({*quantizers.values()} - fed), samples, indices)
    found: dict[str, list[Reading]] = {}
    for node, name in quantizers.items():
        clipped, total, largest = seen[node]
        reading = Reading(name, clipped / max(total, 1), spread(largest))
        for layer in _readers(node):
            found.setdefault(layer, []).append(reading)
    return found


def _look(
    float_model: ir.Model,
    quantizers: Mapping[ir.Node, str],
    names: list[str],
    samples: Samples,
    indices: Sequence[int],
) -> dict[ir.Node, tuple[int, int, Array]]:
    """Of each quantizer: values beyond its range, all values, and the largest magnitude of each channel."""
    running = session(float_model, names) if names else None
    inputs = [value.name or "" for value in float_model.graph.inputs]
    seen: dict[ir.Node, tuple[int, int, Array]] = {node: (0, 0, np.zeros(1)) for node in quantizers}
    for index in indices:
        arrays = samples.feeds(index, inputs)
        if running is not None:
            arrays |= dict(zip(names, running.run(names, arrays), strict=True))
        for node, name in quantizers.items():
            clipped, total, largest = seen[node]
            array = arrays[name]
            by_channel = (
                np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
                if array.ndim > 2
                else array.reshape(1, -1)
            )
            magnitudes = np.abs(by_channel).max(axis=1)
            seen[node] = (
                clipped + _beyond(node, array),
                total + array.size,
                np.maximum(largest, magnitudes),
            )
    return seen


def _parameters(node: ir.Node) -> tuple[Array, Array] | None:
    """A quantizer's scale and zero point, where it has one for the whole tensor."""
    scale = qdq.constant(node.inputs[1])
    zero_point = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    return (
        (scale, zero_point)
        if scale is not None and zero_point is not None and scale.size == 1
        else None
    )


def _beyond(node: ir.Node, array: Array) -> int:
    parameters = _parameters(node)
    assert parameters is not None
    scale, zero_point = parameters
    limits = np.iinfo(zero_point.dtype)
    codes = np.rint(array.astype(np.float32) / scale.reshape(())) + float(zero_point.reshape(()))
    return int(np.count_nonzero((codes < limits.min) | (codes > limits.max)))


def _readers(quantizer: ir.Node) -> list[str]:
    restored = [
        node for node in quantizer.outputs[0].consumers() if node.op_type == "DequantizeLinear"
    ]
    readers = [
        layer_name(node)
        for one in restored
        for node in one.outputs[0].consumers()
        if node.op_type not in PAIR
    ]
    return [
        *readers,
        *(one.outputs[0].name or "" for one in restored if one.outputs[0].is_graph_output()),
    ]


def spread(largest: Array) -> float:
    """How many times the median channel's range the largest one's is; dead channels do not count."""
    alive = largest[largest > 0]
    return float(largest.max() / np.median(alive)) if alive.size else 1.0

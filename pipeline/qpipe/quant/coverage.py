"""What of a network runs on integers, what stays float, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.code_bounds import bounds_codes
from qpipe.quant.graph import has_known_shape
from qpipe.quant.integer_operators import (
    Selection,
    integer_candidates,
    is_absorbed,
    is_dequantized,
    moves_values,
    quantized_tensors,
    select_integer_nodes,
)

FLOAT_SHARE_TO_WARN = 0.25  # of the computed values


class FloatNode(NamedTuple):
    """A node that computes in float, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Work:
    """What nodes compute: products of weights or activations, and values of their outputs."""

    products: int = 0
    values: int = 0

    def __add__(self, other: Work) -> Work:
        """Return the work of both."""
        return Work(self.products + other.products, self.values + other.values)


@dataclass(frozen=True)
class Coverage:
    """How many nodes of each operator run on integers, and the nodes that stay float.

    The latter are in the graph's order. Neither counts nodes without a float output (those that
    compute shapes and indices), nor those that only move float values.
    """

    integer: Mapping[str, int]
    float_nodes: Sequence[FloatNode]
    integer_work: Work = Work()
    float_work: Work = Work()

    def work_summary(self, *, is_timed: bool = False) -> str:
        """Return in one line the share of the work that is integer; empty where none is.

        It warns where much is computed in float, unless the time it takes was measured: each tensor
        there becomes float and integers again, which may take longer than integer kernels save.
        """
        products = _share(self.integer_work.products, self.float_work.products)
        values = _share(self.integer_work.values, self.float_work.values)
        if not self.integer:
            return ""
        summary = f"{products:.0%} of the multiplications, {values:.0%} of the computed values"
        if 1 - values >= FLOAT_SHARE_TO_WARN and not is_timed:
            summary += "; int8 may be slower than float, for what stays float is converted"
        return summary.replace("%", " %")

    def summary(self) -> str:
        """Return in one line what stays float; empty where nothing does."""
        groups: dict[tuple[str, str], list[str]] = {}
        for node, operator, reason in self.float_nodes:
            groups.setdefault((operator, reason), []).append(node)
        parts = []
        for (operator, reason), nodes in groups.items():
            subject = f"{len(nodes)} {operator}" if len(nodes) > 1 else f"{operator} '{nodes[0]}'"
            parts.append(f"{subject} ({reason})")
        return f"stays float: {', '.join(parts)}" if parts else ""


def coverage(model: ir.Model, reasons: Mapping[ir.Node, str] | None = None) -> Coverage:
    """Return what is integer in a quantized network, or would be in a float one once quantized.

    For a quantized network `reasons` say why quantization left nodes float, where that is known;
    for other nodes the reason is what is missing around them.
    """
    selection = _select(model)
    sources = quantized_tensors(model, selection)
    all_reasons = {**selection.reasons, **(reasons or {})}
    integer: Counter[str] = Counter()
    float_nodes: list[FloatNode] = []
    integer_work = Work()
    float_work = Work()
    for node in model.graph:
        is_of_pair = node.op_type in qdq.QDQ_OPERATORS or bounds_codes(node)
        if is_of_pair or not any(_may_be_float(value) for value in node.outputs):
            continue
        if moves_values(node):
            if node.inputs[0] in sources:
                integer[node.op_type] += 1
        elif node in selection.integer or is_absorbed(node, selection.integer):
            integer[node.op_type] += 1
            integer_work += _work(node)
        else:
            float_nodes.append(FloatNode(node.name or "", node.op_type, all_reasons[node]))
            float_work += _work(node)
    return Coverage(dict(integer), float_nodes, integer_work, float_work)


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part else 0.0


def _work(node: ir.Node) -> Work:
    """Return a node's work; axes whose size is not known count as 1."""
    values = sum(_element_count(value) for value in node.outputs)
    if node.op_type in ("Gemm", "MatMul"):
        shared_axis = _sizes(node.inputs[0])[-1:]
        return Work(values * math.prod(shared_axis), values)
    if node.op_type in ("Conv", "ConvTranspose"):
        is_transposed = node.op_type == "ConvTranspose"
        computed = _element_count(node.inputs[0]) if is_transposed else values
        return Work(computed * math.prod(_sizes(node.inputs[1])[1:]), values)
    return Work(0, values)


def _element_count(value: ir.Value | None) -> int:
    return math.prod(_sizes(value))


def _sizes(value: ir.Value | None) -> list[int]:
    if value is None or value.shape is None:
        return []
    return [size if isinstance(size, int) else 1 for size in value.shape]


def integer_nodes(model: ir.Model) -> set[ir.Node]:
    """Return the nodes that run on integers in a quantized network."""
    return _select(model).integer


def _select(model: ir.Model) -> Selection:
    all_weights = qdq.weights(model)
    if not any(node.op_type == "QuantizeLinear" for node in model.graph):
        return select_integer_nodes(model, _dynamic_shape, _layers(all_weights))
    quantized_layers = _layers([weight for weight in all_weights if weight.is_quantized])
    selection = integer_candidates(model, _missing_pair, quantized_layers)
    for node in model.graph:
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None:
            selection.read.add(node.inputs[0])
    return selection


def _layers(weights: Collection[qdq.Weight]) -> set[ir.Node]:
    return {node for weight in weights for node in weight.nodes}


def _may_be_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _missing_pair(value: ir.Value) -> str | None:
    """Return why a tensor of a quantized network is not integers."""
    if is_dequantized(value):
        return None
    if any(reader.op_type == "QuantizeLinear" for reader in value.consumers()):
        return None
    return f"'{value.name}' is float"


def _dynamic_shape(value: ir.Value) -> str | None:
    """Return why a tensor of a float network cannot be integers."""
    if has_known_shape(value):
        return None
    return f"the shape of '{value.name}' depends on values"

"""What of a network runs on integers, what stays float, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.integer_operators import (
    PAIR,
    absorbed,
    candidates,
    is_dequantized,
    is_moving,
    select,
    tensors,
)


class Float(NamedTuple):
    """A node that computes in float, and the reason in words."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Operators with how many nodes of theirs run on integers, and the nodes that stay float, in the graph's order.

    In neither are nodes that give no float tensor (those that handle shapes and indices), and those that only move
    float values.
    """

    integer: Mapping[str, int]
    float: Sequence[Float]

    def told(self) -> str:
        """What stays float, in one line; empty where nothing does."""
        groups: dict[tuple[str, str], list[str]] = {}
        for node, operator, reason in self.float:
            groups.setdefault((operator, reason), []).append(node)
        words = [
            f"{operator} '{nodes[0]}' ({reason})"
            if len(nodes) == 1
            else f"{len(nodes)} {operator} ({reason})"
            for (operator, reason), nodes in groups.items()
        ]
        return f"stays float: {', '.join(words)}" if words else ""


def coverage(model: ir.Model, reasons: Mapping[ir.Node, str] | None = None) -> Coverage:
    """Of a float network, what quantizing all of it would make integer; of a quantized one, what is integer in it.

    Of a quantized one, `reasons` are those that kept nodes float, where they are known; otherwise it says what is
    missing around them.
    """
    layers = {node: weight.is_quantized for weight in qdq.weights(model) for node in weight.nodes}
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        found = candidates(
            model, _float, {node for node, is_quantized in layers.items() if is_quantized}
        )
        found.read.update(
            value
            for node in model.graph
            if node.op_type == PAIR[0]
            for value in node.inputs[:1]
            if value
        )
    else:
        found = select(model, _open, set(layers))
    moved = tensors(model, found)
    why = {**found.reasons, **(reasons or {})}
    integer: Counter[str] = Counter()
    left: list[Float] = []
    for node in model.graph:
        if node.op_type in PAIR or not any(_is_float(value) for value in node.outputs):
            continue
        if is_moving(node):
            integer[node.op_type] += node.inputs[0] in moved
        elif node in found.integer or absorbed(node, found.integer):
            integer[node.op_type] += 1
        else:
            left.append(Float(node.name or "", node.op_type, why[node]))
    return Coverage({operator: count for operator, count in integer.items() if count}, left)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _float(value: ir.Value) -> str | None:
    is_pair = is_dequantized(value) or any(
        reader.op_type == "QuantizeLinear" for reader in value.consumers()
    )
    return None if is_pair else f"'{value.name}' is float"


def _open(value: ir.Value) -> str | None:
    return (
        None
        if value.shape is not None and value.shape.is_static()
        else f"the shape of '{value.name}' is open"
    )

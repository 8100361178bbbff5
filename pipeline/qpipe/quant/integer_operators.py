"""Which operators run on integers, and of the others why not.

What was seen to fuse on ONNX Runtime 1.32, between a DequantizeLinear of each input and a QuantizeLinear of the output:
Conv of one to three dimensions, Gemm, MatMul (both also of two activations), Add, Mul, Concat, AveragePool,
GlobalAveragePool, LeakyRelu, Sigmoid; and with the scale of their input, because they only move values: MOVING. Gemm
and MatMul give float just as well. Softmax and Where fuse too, and take four to ten times as long as their float
kernels do with the pairs around them (x86), so they stay float; nothing else fuses: ConvTranspose, HardSwish, Gelu,
LayerNormalization, Pad, SpaceToDepth, ReduceMean, PRelu, LSTM ... A constant side of Add or Mul would have to be
unsigned, with one scale for all its channels: float keeps these exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq

JOINING = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
MOVING = (
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "Identity",
    "MaxPool",
    "ReduceMax",
    "Reshape",
    "Resize",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
FREE = (
    "Gemm",
    "MatMul",
)  # may give float: where nobody goes on in integers, one rounding fewer, on logits mostly
PAIR = ("QuantizeLinear", "DequantizeLinear")

Unknown = Callable[[ir.Value], str | None]  # why a tensor cannot be integers; None where it can


@dataclass(eq=False)
class Selection:
    """The nodes whose kernels compute on integers, and why each other node does not."""

    integer: set[ir.Node] = field(default_factory=set)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    read: set[ir.Value] = field(
        default_factory=set
    )  # what integer kernels read, be it moved before

    def drop(self, node: ir.Node, reason: str) -> None:
        self.integer.discard(node)
        self.reasons[node] = reason


def candidates(
    model: ir.Model, unknown: Unknown, coded: Container[ir.Node], exclude: Sequence[str] = ()
) -> Selection:
    """All nodes with an integer kernel for what they do; `coded` are those whose weights are (to be) quantized."""
    found = Selection()
    for node in model.graph:
        out = "excluded" if qdq.is_excluded(node, exclude) else None
        reason = out or _no_kernel(node) or _no_weight(node, coded) or _no_tensor(node, unknown)
        if reason is None:
            found.integer.add(node)
        else:
            found.reasons[node] = reason
    return found


def select(
    model: ir.Model, unknown: Unknown, coded: Container[ir.Node], exclude: Sequence[str] = ()
) -> Selection:
    """The candidates less those that would cost precision and gain nothing: joining operators stand between layers.

    An operator without a weight must mostly read what layers give or read anyway, and be read on integers itself.
    """
    found = candidates(model, unknown, coded, exclude)
    for node in reversed(model.graph):
        if node in found.integer and node.op_type in JOINING and result(node) not in found.read:
            found.drop(node, "nothing behind it runs on integers")
        if node in found.integer:
            found.read.update(activations(node))
        elif (is_moving(node) or node.op_type in PAIR) and not found.read.isdisjoint(node.outputs):
            found.read.update(node.inputs[:1])  # type: ignore[arg-type]
    given = {
        value
        for node in found.integer
        if node.op_type not in JOINING
        for value in activations(node)
    }
    for node in model.graph:
        if (
            node in found.integer
            and node.op_type in JOINING
            and not _mostly(activations(node), given)
        ):
            found.drop(node, "little of what it reads is integers")
        if node in found.integer:
            given.add(result(node))
        elif (is_moving(node) or node.op_type in PAIR) and node.inputs[0] in given:
            given.update(node.outputs)
    return found


def _mostly(values: Sequence[ir.Value], given: Container[ir.Value]) -> bool:
    """Whether more than half of the elements of some tensors are in those that are given; 1 for an open shape."""
    sizes = [
        math.prod(d if isinstance(d, int) else 1 for d in v.shape) if v.shape is not None else 1
        for v in values
    ]
    return 2 * sum(size for size, value in zip(sizes, values, strict=True) if value in given) > sum(
        sizes
    )


def tensors(
    model: ir.Model, chosen: Selection, exclude: Sequence[str] = ()
) -> dict[ir.Value, ir.Value]:
    """All that integer kernels read and write, and what is moved of it, each with the tensor whose values it has."""
    found: dict[ir.Value, ir.Value] = {}
    for node in model.graph:
        if node in chosen.integer:
            found.update((value, value) for value in activations(node))
            if node.op_type not in FREE or result(node) in chosen.read:
                found[result(node)] = result(node)
    for node in model.graph:
        source = found.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        if (
            source is not None
            and (is_moving(node) or node.op_type in PAIR)
            and not qdq.is_excluded(node, exclude)
        ):
            found.update(dict.fromkeys(_moved(node), source))
    return found


# ---- reasons


def _no_kernel(node: ir.Node) -> str | None:
    if node.domain:
        return f"an operator of '{node.domain}'"
    if node.op_type not in (*JOINING, *qdq.WEIGHTED):
        return "no integer kernel"
    if _is_fused_wrongly(node):
        return "it is dilated"
    return qdq.why_float(node) if node.op_type in qdq.WEIGHTED else None


def _is_fused_wrongly(node: ir.Node | None) -> bool:
    """Whether ONNX Runtime (1.32) takes it for a pooling without dilations, and then refuses the network."""
    return (
        node is not None
        and node.op_type == "AveragePool"
        and max(node.attributes.get_ints("dilations", [1])) > 1
    )


def _no_weight(node: ir.Node, coded: Container[ir.Node]) -> str | None:
    if node.op_type not in qdq.WEIGHTED or node in coded:
        return None
    weight = node.inputs[1]
    if weight is not None and is_constant(weight):
        dims = len(weight.shape) if weight.shape is not None else 0
        return (
            "its weight has more than two axes"
            if node.op_type == "MatMul" and dims > 2
            else "its weight is float"
        )
    if node.op_type == "MatMul":
        return "its weight is on the left" if is_constant(node.inputs[0]) else None
    return "its weight is computed"


def _no_tensor(node: ir.Node, unknown: Unknown) -> str | None:
    given = [] if node.op_type in FREE else [result(node)]
    if any(map(is_constant, activations(node))):
        return "one side is constant"
    if any(_is_fused_wrongly(value.producer()) for value in activations(node)):
        return "ONNX Runtime makes no sense of a dilated AveragePool before it"
    return next(
        (
            reason
            for value in [*activations(node), *given]
            if (reason := unknown(value)) is not None
        ),
        None,
    )


# ---- the tensors around a node


def activations(node: ir.Node) -> list[ir.Value]:
    """The tensors that an integer kernel reads as activations: not its weight, nor its bias."""
    count = 1 if node.op_type in ("Conv", "Gemm") else len(node.inputs)
    return [
        v
        for v in node.inputs[:count]
        if v is not None and not (node.op_type == "MatMul" and is_weight(v))
    ]


def is_weight(value: ir.Value) -> bool:
    """Whether a tensor is constant, float or behind a DequantizeLinear."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return is_constant(producer.inputs[0])
    return is_constant(value)


def is_constant(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def is_dequantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def is_moving(node: ir.Node) -> bool:
    """Whether an operator gives nothing but values of its first input, and so their integers."""
    if node.domain or node.op_type not in MOVING or _gives_indices(node):
        return False
    if node.op_type != "Resize":
        return True
    crops = (
        node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        == "tf_crop_and_resize"
    )
    return node.attributes.get_string("mode", "nearest") == "nearest" and not crops


def _gives_indices(node: ir.Node) -> bool:
    return node.op_type != "Split" and any(
        value.uses() or value.is_graph_output() for value in node.outputs[1:]
    )


def _moved(node: ir.Node) -> Sequence[ir.Value]:
    return node.outputs if node.op_type == "Split" else node.outputs[:1]


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that reads a tensor, where it is the only one, in the same graph, and the tensor no output."""
    readers = value.consumers()
    producer = value.producer()
    if len(readers) != 1 or value.is_graph_output():
        return None
    return readers[0] if producer is None or readers[0].graph is producer.graph else None


def result(node: ir.Node) -> ir.Value:
    """The tensor whose integers the operator's kernel writes: its output, or that of the Relu or Clip it absorbs."""
    reader = only_reader(node.outputs[0])
    return reader.outputs[0] if reader is not None and _cuts_at_zero(reader) else node.outputs[0]


def absorbed(node: ir.Node, integer: set[ir.Node]) -> bool:
    """Whether a Relu or Clip is done by the kernel before it."""
    producer = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return producer in integer and producer is not None and result(producer) is node.outputs[0]


def _cuts_at_zero(node: ir.Node) -> bool:
    """Relu, or Clip from zero up: with zero point 0 its cut is the saturation of the unsigned integers."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    low = qdq.constant(node.inputs[1])
    high = (
        qdq.constant(node.inputs[2])
        if len(node.inputs) > 2 and node.inputs[2] is not None
        else np.array(np.inf)
    )
    return low is not None and high is not None and low.item() == 0 and high.item() > 0

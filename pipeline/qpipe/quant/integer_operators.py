"""Which operators run on integers, and why the others do not.

Seen to fuse on ONNX Runtime 1.32, between a DequantizeLinear of each input and a QuantizeLinear of
the output: Conv of one to three dimensions, Gemm, MatMul (both also of two activations), Add, Mul,
Concat, AveragePool, GlobalAveragePool, LeakyRelu, Sigmoid; and with the scale of their input,
because they only move values: MOVING. HardSigmoid and HardSwish do not fuse, but compile makes Add
and Mul of them. Gemm and MatMul may give float just as well. Softmax and Where fuse too, and take
three to ten times as long as their float kernels do with the pairs around them (x86), so they stay
float. Nothing else fuses: ConvTranspose, Gelu, LayerNormalization, Pad, SpaceToDepth, ReduceMean,
PRelu, LSTM ... Tables of 256 codes, by Gather, would cost several times what these do in float:
tests/bench/bench_islands.py. A constant side of Add or Mul may be one number, which integers hold
exactly. Several would have to be unsigned, with one scale for all channels: float keeps these
exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.code_bounds import bounds_codes
from qpipe.quant.graph import constant, constant_tensor, is_constant, only_reader, optional_input

# operators without weights, which stand between layers
JOINING = (
    "Add",
    "Mul",
    "Concat",
    "AveragePool",
    "GlobalAveragePool",
    "LeakyRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
)
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
# operators whose integer kernels may give float: where nothing after them runs on integers, this is
# one rounding fewer, mostly on logits
FLOAT_OUTPUT = ("Gemm", "MatMul")

SMALLEST_NUMBER = 1e-30  # of constants; a scale must not be so small that it has fewer bits
TABLE_AXES = 2
MIN_TABLE_ELEMENTS = 1024

# returns why a tensor cannot be integers; None where it can
FloatReason = Callable[[ir.Value], str | None]


@dataclass(eq=False)
class Selection:
    """The nodes whose kernels compute on integers, and why each other node does not."""

    integer: set[ir.Node] = field(default_factory=set)
    reasons: dict[ir.Node, str] = field(default_factory=dict)
    # what integer kernels read, also before it is moved
    read: set[ir.Value] = field(default_factory=set)
    # constants that Gather looks up
    tables: set[ir.Value] = field(default_factory=set)

    def drop(self, node: ir.Node, reason: str) -> None:
        """Let a node stay float, for a reason."""
        self.integer.discard(node)
        self.reasons[node] = reason


def integer_candidates(
    model: ir.Model,
    float_reason: FloatReason,
    quantized_layers: Container[ir.Node],
    exclude: Sequence[str] = (),
) -> Selection:
    """Return all nodes with an integer kernel for what they compute.

    `quantized_layers` are the nodes whose weights are, or are to be, quantized.
    """
    selection = Selection()
    for node in model.graph:
        if qdq.is_excluded(node, exclude):
            selection.drop(node, "excluded")
            continue
        table = table_of(node)
        if table is not None and float_reason(table) is None:
            selection.tables.add(table)
        reason = (
            _kernel_obstacle(node)
            or _weight_obstacle(node, quantized_layers)
            or _tensor_obstacle(node, float_reason)
        )
        if reason is None:
            selection.integer.add(node)
        else:
            selection.drop(node, reason)
    return selection


def select_integer_nodes(
    model: ir.Model,
    float_reason: FloatReason,
    quantized_layers: Container[ir.Node],
    exclude: Sequence[str] = (),
) -> Selection:
    """Return the candidates without joining operators that would cost precision and gain nothing.

    A joining operator must be read on integers itself, and most of what it reads must come from
    layers, or be read on integers anyway.
    """
    selection = integer_candidates(model, float_reason, quantized_layers, exclude)
    _drop_unread(model, selection)
    _drop_fed_by_float(model, selection)
    return selection


def _drop_unread(model: ir.Model, selection: Selection) -> None:
    """Drop joining operators whose result no integer kernel reads.

    Note in `selection.read` what these read.
    """
    for node in reversed(model.graph):
        is_joining = node in selection.integer and node.op_type in JOINING
        if is_joining and kernel_output(node) not in selection.read:
            selection.drop(node, "nothing after it runs on integers")
        if node in selection.integer:
            selection.read.update(activation_inputs(node))
        elif _passes_integers(node) and not selection.read.isdisjoint(node.outputs):
            source = node.inputs[0]
            if source is not None:
                selection.read.add(source)


def _drop_fed_by_float(model: ir.Model, selection: Selection) -> None:
    """Drop joining operators that mostly read what is not on integers for others anyway."""
    integers = set(selection.tables)
    for node in selection.integer:
        if node.op_type not in JOINING:
            integers.update(activation_inputs(node))
    for node in model.graph:
        is_joining = node in selection.integer and node.op_type in JOINING
        if is_joining and not _are_mostly_in(activation_inputs(node), integers):
            selection.drop(node, "most of what it reads is float")
        if node in selection.integer:
            integers.add(kernel_output(node))
        elif _passes_integers(node) and node.inputs[0] in integers:
            integers.update(node.outputs)


def _are_mostly_in(values: Sequence[ir.Value], integers: Container[ir.Value]) -> bool:
    """Return whether more than half of the elements of some tensors are in tensors of a set."""
    sizes = [_size(value) for value in values]
    integer_sizes = [_size(value) for value in values if value in integers]
    return 2 * sum(integer_sizes) > sum(sizes)


def _size(value: ir.Value) -> int:
    """Return the number of elements; dynamic axes count as 1."""
    if value.shape is None:
        return 1
    return math.prod(size for size in value.shape if isinstance(size, int))


def quantized_tensors(
    model: ir.Model, selection: Selection, exclude: Sequence[str] = ()
) -> dict[ir.Value, ir.Value]:
    """Return tables, all tensors that integer kernels read and write, and what is moved of them.

    Each maps to the tensor whose values it has: itself, or the one that was moved.
    """
    sources: dict[ir.Value, ir.Value] = {}
    sources.update((table, table) for table in selection.tables)
    for node in model.graph:
        if node not in selection.integer:
            continue
        sources.update((value, value) for value in activation_inputs(node))
        output = kernel_output(node)
        if node.op_type not in FLOAT_OUTPUT or output in selection.read:
            sources[output] = output
    for node in model.graph:
        moved_value = optional_input(node, 0)
        source = sources.get(moved_value) if moved_value is not None else None
        if source is None or not _passes_integers(node) or qdq.is_excluded(node, exclude):
            continue
        outputs = node.outputs if node.op_type == "Split" else node.outputs[:1]
        sources.update(dict.fromkeys(outputs, source))
    return sources


def table_of(node: ir.Node) -> ir.Value | None:
    """Return the constant table that a Gather looks up, such as word embeddings; None without one.

    It is float or behind a DequantizeLinear. A small one saves nothing and does not count.
    """
    if node.op_type != "Gather" or node.domain or is_constant(node.inputs[1]):
        return None
    table = node.inputs[0]
    if table is None or (is_constant(table) and table.dtype != ir.DataType.FLOAT):
        return None
    tensor = constant_tensor(_float_or_codes(table))
    if tensor is None or len(tensor.shape) < TABLE_AXES or tensor.size < MIN_TABLE_ELEMENTS:
        return None
    return table


# ---- why a node stays float


def _kernel_obstacle(node: ir.Node) -> str | None:
    if node.domain:
        return f"an operator of '{node.domain}'"
    if node.op_type not in (*JOINING, *qdq.WEIGHTED):
        return "no integer kernel"
    if _is_dilated_pooling(node):
        return "it is dilated"
    return qdq.reason_to_stay_float(node) if node.op_type in qdq.WEIGHTED else None


def _is_dilated_pooling(node: ir.Node | None) -> bool:
    """Return whether a node is an AveragePool with dilations.

    On integers, ONNX Runtime (1.32) takes it for one without, and then refuses the network.
    """
    if node is None or node.op_type != "AveragePool":
        return False
    return max(node.attributes.get_ints("dilations", [1])) > 1


def _weight_obstacle(node: ir.Node, quantized_layers: Container[ir.Node]) -> str | None:
    if node.op_type not in qdq.WEIGHTED or node in quantized_layers:
        return None
    weight = node.inputs[1]
    is_matmul = node.op_type == "MatMul"
    if weight is not None and is_constant(weight):
        axes = len(weight.shape) if weight.shape is not None else 0
        if is_matmul and axes > 2:
            return "its weight has more than two axes"
        return "its weight is float"
    if not is_matmul:
        return "its weight is computed"
    return "its weight is on the left" if is_constant(node.inputs[0]) else None


def _tensor_obstacle(node: ir.Node, float_reason: FloatReason) -> str | None:
    inputs = activation_inputs(node)
    for value in inputs:
        if is_constant(value):
            return "one side is constant"
    for value in inputs:
        if _is_dilated_pooling(value.producer()):
            return "ONNX Runtime does not support the dilated AveragePool before it"
    outputs = [] if node.op_type in FLOAT_OUTPUT else [kernel_output(node)]
    for value in (*inputs, *outputs):
        reason = float_reason(value)
        if reason is not None:
            return reason
    return None


# ---- the tensors around a node


def activation_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the tensors that an integer kernel reads as activations, without weight and bias."""
    inputs = node.inputs[:1] if node.op_type in ("Conv", "Gemm") else node.inputs
    number = constant_number(node)
    values = [value for value in inputs if value is not None and value is not number]
    if node.op_type == "MatMul":
        return [value for value in values if not _is_weight(value)]
    return values


def constant_number(node: ir.Node) -> ir.Value | None:
    """Return the constant side of an Add or Mul that is one number and not zero, else None.

    It is float or behind a DequantizeLinear.
    """
    if node.op_type not in ("Add", "Mul") or node.domain:
        return None
    constants = [value for value in node.inputs if value is not None and _is_weight(value)]
    if len(constants) != 1:
        return None
    tensor = constant_tensor(_float_or_codes(constants[0]))
    if tensor is None or tensor.size != 1:
        return None
    is_usable = tensor.dtype != ir.DataType.FLOAT or _is_usable(float(tensor.numpy().item()))
    return constants[0] if is_usable else None


def _is_usable(number: float) -> bool:
    return math.isfinite(number) and abs(number) >= SMALLEST_NUMBER


def _float_or_codes(value: ir.Value) -> ir.Value | None:
    """Return a constant, of one behind a DequantizeLinear its codes."""
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return producer.inputs[0]
    return value


def _is_weight(value: ir.Value) -> bool:
    """Return whether a tensor is constant, float or behind a DequantizeLinear."""
    return is_constant(_float_or_codes(value))


def is_dequantized(value: ir.Value | None) -> bool:
    """Return whether a tensor is the output of a DequantizeLinear."""
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _passes_integers(node: ir.Node) -> bool:
    return moves_values(node) or node.op_type in qdq.QDQ_OPERATORS or bounds_codes(node)


def moves_values(node: ir.Node) -> bool:
    """Return whether a node's outputs hold values of its first input only, moved or not."""
    if node.domain or node.op_type not in MOVING or _has_used_indices(node):
        return False
    if node.op_type != "Resize":
        return True
    transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    mode = node.attributes.get_string("mode", "nearest")
    return mode == "nearest" and transformation != "tf_crop_and_resize"


def _has_used_indices(node: ir.Node) -> bool:
    """Return whether an output beside the first, which holds indices, is in use."""
    if node.op_type == "Split":
        return False
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def kernel_output(node: ir.Node) -> ir.Value:
    """Return the tensor whose integers a node's kernel writes.

    It is the node's output, or that of the Relu or Clip that the kernel absorbs.
    """
    reader = only_reader(node.outputs[0])
    if reader is not None and _cuts_at_zero(reader):
        return reader.outputs[0]
    return node.outputs[0]


def is_absorbed(node: ir.Node, integer_nodes: Collection[ir.Node]) -> bool:
    """Return whether a Relu or Clip is computed by the integer kernel before it."""
    source = optional_input(node, 0)
    producer = source.producer() if source is not None else None
    if producer is None or producer not in integer_nodes:
        return False
    return kernel_output(producer) is node.outputs[0]


def _cuts_at_zero(node: ir.Node) -> bool:
    """Return whether a node is a Relu, or a Clip from zero up.

    With zero point 0 its cut is the saturation of the unsigned integers.
    """
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip":
        return False
    low = constant(optional_input(node, 1))
    if low is None or low.item() != 0:
        return False
    high_value = optional_input(node, 2)
    high = constant(high_value)
    if high is None:
        return high_value is None  # without an upper bound, not with a computed one
    return bool(high.item() > 0)

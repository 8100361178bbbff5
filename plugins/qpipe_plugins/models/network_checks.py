"""What a network must fulfil to be imported: each check refuses it with one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError, suggest
from qpipe.quant.graph import has_known_shape
from qpipe.types import Array

MAX_NODES = 200_000
MAX_ELEMENTS = 1 << 29  # of one tensor: 2 GiB of float32
INPUT_TYPES = (
    "float",
    "float16",
    "double",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "bool",
)
MULTIPLYING_OPERATORS = {
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "GRU",
    "LSTM",
    "LayerNormalization",
    "MatMul",
    "RNN",
}
# the shape of their output depends on values: what follows may stay without a shape
DATA_DEPENDENT_OPERATORS = {
    "NonMaxSuppression",
    "NonZero",
    "Unique",
    "Compress",
    "If",
    "Loop",
    "Scan",
}

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)

Operator = tuple[str, str]  # domain and name


def check_inputs(proto: onnx.ModelProto, where: str) -> None:
    """Raise StageError unless the inputs are tensors of a type that samples can have."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if not inputs:
        raise StageError(f"{where}: the network has no input; export one that has")
    for value in inputs:
        type_name = _type_name(value)
        if type_name not in INPUT_TYPES:
            raise StageError(
                f"{where}: input '{value.name}' is {type_name}; "
                f"it must be a tensor of {', '.join(INPUT_TYPES)}"
            )
        if not value.type.tensor_type.HasField("shape"):
            fix = "export it with one, in which axes may be open"
            raise StageError(f"{where}: input '{value.name}' has no shape; {fix}")


def check_outputs(proto: onnx.ModelProto, where: str) -> None:
    """Raise StageError for outputs that are maps, which onnx_ir does not read.

    So do names with control characters, which no device may send.
    """
    for value in proto.graph.output:
        if not value.name.isprintable():
            problem = f"the name of output {value.name!a} has control characters"
            raise StageError(f"{where}: {problem}; export the network with another")
        element = value.type.sequence_type.elem_type if _is_sequence(value) else value.type
        if element.WhichOneof("value") == "map_type":
            raise StageError(
                f"{where}: output '{value.name}' gives maps, as of the operator ZipMap; "
                "export the network with tensors instead, as by the option zipmap: False"
            )


def _is_sequence(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.WhichOneof("value") == "sequence_type")


def _type_name(value: onnx.ValueInfoProto) -> str:
    """Return the element type of a tensor; `of type sequence` and the like for anything else."""
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        return onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return f"of type {kind}".removesuffix("_type")


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Raise StageError for too many nodes.

    They are counted before functions are inlined: a function may call others twice, and these in
    turn, so that a small file becomes a network of any size.
    """
    calls: dict[Operator, list[Operator]] = {}
    for function in proto.functions:
        operators = [(node.domain, node.op_type) for node in function.node]
        calls[function.domain, function.name] = operators
    sizes: dict[Operator, int] = {}

    def count_nodes(operators: Iterable[Operator]) -> int:
        return sum(count_inlined(operator) for operator in operators)

    def count_inlined(operator: Operator) -> int:
        if operator not in calls:
            return 1
        if operator not in sizes:
            sizes[operator] = count_nodes(calls[operator])
        return sizes[operator]

    total = count_nodes((node.domain, node.op_type) for node in proto.graph.node)
    if total > MAX_NODES:
        raise StageError(f"{where}: the network has {total} nodes; the limit is {MAX_NODES}")


def check_finite_weights(model: ir.Model, where: str) -> None:
    """Raise StageError for weights that are not finite."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.dtype in FLOATS and not _is_sound(value, tensor.numpy()):
            raise StageError(
                f"{where}: weight '{name}' holds NaN or infinity; "
                "export a network with finite weights"
            )


def _is_sound(value: ir.Value, array: Array) -> bool:
    """Return whether all numbers are finite.

    Infinity is as good where nothing multiplies by it, as in a mask that is added.
    """
    if np.isfinite(array).all():
        return True
    if np.isnan(array).any():
        return False
    return not any(reader.op_type in MULTIPLYING_OPERATORS for reader in value.consumers())


def check_shapes(model: ir.Model, where: str) -> None:
    """Raise StageError for a tensor of unknown shape, and for one that is too large.

    A shape that depends on values may stay unknown.
    """
    data_dependent = data_dependent_values(model.graph)
    for node in model.graph:
        for value in node.outputs:
            if value not in data_dependent:
                _check_shape(value, node, where)


def data_dependent_values(graph: ir.Graph) -> set[ir.Value | None]:
    """Return the tensors whose shape may depend on values."""
    data_dependent: set[ir.Value | None] = set()
    for node in graph:
        is_data_dependent = node.op_type in DATA_DEPENDENT_OPERATORS or bool(node.domain)
        if is_data_dependent or not data_dependent.isdisjoint(node.inputs):
            data_dependent.update(node.outputs)
    return data_dependent


def _check_shape(value: ir.Value, node: ir.Node, where: str) -> None:
    tensor = f"'{value.name}', output of {node.op_type} '{node.name}',"
    shape = value.shape
    if shape is not None:
        elements = math.prod(size for size in shape if isinstance(size, int))
        if elements > MAX_ELEMENTS:
            raise StageError(
                f"{where}: {tensor} has {elements} elements; the limit is {MAX_ELEMENTS}"
            )
    if value.name and value.uses() and not has_known_shape(value):
        raise StageError(
            f"{where}: the shape of {tensor} is not known; export the network with static shapes"
        )


def check_states(model: ir.Model, states: Mapping[str, str], where: str) -> None:
    """Raise StageError unless each state is an input that is fed by an output like it."""
    inputs = {value.name or "": value for value in model.graph.inputs}
    outputs = {value.name or "": value for value in model.graph.outputs}
    for name, output in states.items():
        if name not in inputs:
            problem = f"states names input '{name}', which is not there"
            raise StageError(f"{where}: {problem}; {suggest(name, inputs)}")
        if output not in outputs:
            problem = f"states names output '{output}', which is not there"
            raise StageError(f"{where}: {problem}; {suggest(output, outputs)}")
        if not _are_alike(inputs[name], outputs[output]):
            state_text = _type_and_shape(inputs[name])
            output_text = _type_and_shape(outputs[output])
            problem = f"state '{name}' is {state_text}, output '{output}' is {output_text}"
            raise StageError(f"{where}: {problem}; give an output that is like its state")
    if states and len(states) == len(inputs):
        raise StageError(f"{where}: states names all inputs; leave out those that the samples give")


def _are_alike(state: ir.Value, output: ir.Value) -> bool:
    """Return whether an output may feed a state: of its type, and of its sizes where known."""
    if output.shape is None:
        return True
    if state.dtype != output.dtype or len(state.shape or ()) != len(output.shape):
        return False
    sizes = zip(state.shape or (), output.shape, strict=True)
    return all(size == other for size, other in sizes if isinstance(other, int))


def _type_and_shape(value: ir.Value) -> str:
    dtype = "untyped" if value.dtype is None else value.dtype.name.lower()
    sizes = ", ".join(map(str, value.shape or ()))
    return f"{dtype} [{sizes}]"


def element_count(model: ir.Model) -> int:
    """Return how many elements all tensors that are fed or computed have, where that is known."""
    values = list(model.graph.inputs)
    for node in model.graph:
        values += node.outputs
    shapes = [value.shape for value in values if value.shape is not None]
    return sum(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)

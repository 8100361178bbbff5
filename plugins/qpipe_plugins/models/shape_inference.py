"""Shape inference by onnx, within a limit of memory, and strict about contradictions.

The pass of onnx_ir only warns where inference fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from qpipe_plugins.models.memory_limit import limited_memory
from qpipe_plugins.models.network_checks import data_dependent_values

MAX_VISIBLE = 1 << 10  # elements of the constants that shape inference may read
# bytes beyond the network's: shape inference lists the elements of a vector of any length that
# determines a shape
MEMORY = 1 << 30


# operators whose shapes onnx 1.22 does not infer, though they keep that of their input
KEEPING_SHAPE = ("GroupNormalization",)
# how onnx 1.22 names the node at which types or shapes do not fit together, and why
CONTRADICTION = re.compile(
    r"\(op_type:(?P<operator>\w+)(, node name: (?P<name>[^)]*))?\): (\[\w+\] )?(?P<reason>[^\n]*)"
)
LONGEST_REASON = 200  # characters


class ContradictionError(Exception):
    """Types or shapes of a network do not fit together; the text names the node and the reason."""


def infer_shapes(model: ir.Model) -> None:
    """Infer the type and shape of every tensor.

    Raise ContradictionError where they do not fit together, OverflowError where inference needs too
    much memory.
    """
    _infer_known_operators(model)
    while _keep_shapes(model.graph):
        _infer_known_operators(model)


def _keep_shapes(graph: ir.Graph) -> bool:
    """Let what onnx infers nothing of have the shape of its input; return whether there was any."""
    is_changed = False
    for node in graph:
        if node.op_type not in KEEPING_SHAPE or node.domain or node.inputs[0] is None:
            continue
        source = node.inputs[0]
        output = node.outputs[0]
        if output.shape is None and source.shape is not None:
            output.shape = source.shape
            output.type = source.type
            is_changed = True
    return is_changed


def _infer_known_operators(model: ir.Model) -> None:
    with _large_constants_as_inputs(model.graph):
        proto = ir.to_proto(model)
    with limited_memory(MEMORY + 4 * proto.ByteSize()):
        try:
            inferred = _infer(proto, strict=True)
        except ContradictionError:
            # strict inference fails at some functions and branches that are sound; without it a
            # contradiction leaves a shape unknown, also where the file states one for an output
            for value in proto.graph.output:
                if value.type.HasField("tensor_type"):
                    value.type.tensor_type.ClearField("shape")
            inferred = _infer(proto, strict=False)
            if not _has_all_shapes(model.graph, inferred):
                raise
    _apply(model.graph, inferred)
    _unname_data_dependent_sizes(model.graph)


def _infer(proto: onnx.ModelProto, *, strict: bool) -> onnx.GraphProto:
    """Return the graph with what inference says of each tensor; raise ContradictionError."""
    try:
        inferred = onnx.shape_inference.infer_shapes(
            proto, check_type=True, strict_mode=strict, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise ContradictionError(_contradiction(str(error))) from error
    return inferred.graph


def _contradiction(error: str) -> str:
    """Return node and reason of an error of inference, as in Add 'a': Incompatible dimensions."""
    match = CONTRADICTION.search(error)
    if match is None:
        return error.partition("\n")[0][:LONGEST_REASON]
    name = f" '{match['name']}'" if match["name"] else ""
    return f"{match['operator']}{name}: {match['reason'][:LONGEST_REASON]}"


def _tensor_infos(inferred: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    return {info.name: info for info in (*inferred.value_info, *inferred.output)}


def _has_all_shapes(graph: ir.Graph, inferred: onnx.GraphProto) -> bool:
    """Return whether all shapes were inferred that do not depend on values."""
    infos = _tensor_infos(inferred).items()
    with_shape = {name for name, info in infos if _has_shape(info)}
    data_dependent = data_dependent_values(graph)
    values = [value for node in graph for value in node.outputs if value not in data_dependent]
    return all(value.name in with_shape for value in values if value.name)


def _has_shape(info: onnx.ValueInfoProto) -> bool:
    return info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape")


def _apply(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    """Set the shape and type of each tensor whose shape was inferred, also in branches of If."""
    infos = _tensor_infos(inferred)
    for node, node_proto in zip(graph, inferred.node, strict=True):
        if node.op_type == "If":
            for attribute in node_proto.attribute:
                _apply(node.attributes[attribute.name].as_graph(), attribute.g)
        for value in node.outputs:
            if value.name not in infos:
                continue
            inferred_value = ir.from_proto(infos[value.name])
            if inferred_value.shape is not None:
                value.shape = inferred_value.shape
                value.type = inferred_value.type


def _unname_data_dependent_sizes(graph: ir.Graph) -> None:
    """Keep the names of open sizes to those that inputs determine, see `has_known_shape`."""
    for value in data_dependent_values(graph):
        if value is not None and value.shape is not None:
            sizes = [size if isinstance(size, int) else None for size in value.shape]
            value.shape = ir.Shape(sizes)


@contextmanager
def _large_constants_as_inputs(graph: ir.Graph) -> Iterator[None]:
    """Let large constants be inputs meanwhile: shape inference copies everything it is given."""
    values = list(graph.initializers.values())
    input_count = len(graph.inputs)
    tensors = [value.const_value for value in values]
    for value, tensor in zip(values, tensors, strict=True):
        if tensor is not None and tensor.size > MAX_VISIBLE:
            value.shape = ir.Shape(tensor.shape.numpy())
            value.type = ir.TensorType(tensor.dtype)
            value.const_value = None
            del graph.initializers[value.name or ""]
            graph.inputs.append(value)
    try:
        yield
    finally:
        graph.inputs[:] = graph.inputs[:input_count]
        graph.initializers.clear()
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
            graph.register_initializer(value)

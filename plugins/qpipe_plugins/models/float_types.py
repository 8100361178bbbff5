"""Networks that compute in float16, bfloat16 or double, brought to float32."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

from qpipe.quant.given_network import set_given_floats
from qpipe.quant.graph import subgraphs, unique_name, value_names

log = logging.getLogger(__name__)

OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
# attributes by which operators choose the type of what they give
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "stash_type")


def compute_in_float32(model: ir.Model) -> bool:
    """Compute in float32 what a network computes in other types; return whether it did.

    Inputs and outputs keep their types, by a Cast each. The types are recorded, see
    `qpipe.quant.given_network`.
    """
    types = _other_floats(model.graph)
    if not types:
        return False
    log.info("computed in float32 instead of %s", ", ".join(sorted(types)))
    set_given_floats(model, types)
    input_types = {value: value.type for value in model.graph.inputs}
    output_types = [value.dtype for value in model.graph.outputs]
    _widen(model.graph)
    used_names = value_names(model.graph)
    for value, type_of_input in input_types.items():
        if value.type != type_of_input:
            value.type = type_of_input
            _cast_input(model.graph, value, used_names)
    for index, dtype in enumerate(output_types):
        if dtype in OTHER_FLOATS and model.graph.outputs[index].dtype != dtype:
            _cast_output(model.graph, index, dtype, used_names)
    return True


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Return the tensors of a graph: inputs, initializers, and outputs of nodes."""
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        values += node.outputs
    return values


def _other_floats(graph: ir.Graph) -> set[str]:
    """Return the names of the other floating-point types in a graph and its subgraphs."""
    types = {value.dtype.name.lower() for value in _values(graph) if value.dtype in OTHER_FLOATS}
    for node in graph:
        for subgraph in subgraphs(node):
            types |= _other_floats(subgraph)
    return types


def _widen(graph: ir.Graph) -> None:
    """Let all tensors of a graph and its subgraphs be float32 where they were of another float."""
    for value in _values(graph):
        if value.dtype in OTHER_FLOATS:
            value.type = _in_float32(value.type)
        if value.const_value is not None and value.is_initializer():
            value.const_value = _tensor_in_float32(value.const_value)
    for node in graph:
        for attribute in list(node.attributes.values()):
            _widen_attribute(node, attribute)
        for subgraph in subgraphs(node):
            _widen(subgraph)
        _drop_cast(node)


def _in_float32(type_of_value: ir.TypeProtocol | None) -> ir.TypeProtocol:
    """Return a type of float32 elements: of a tensor, or of a sequence or an optional of them."""
    if isinstance(type_of_value, ir.SequenceType):
        return ir.SequenceType(_in_float32(type_of_value.elem_type))
    if isinstance(type_of_value, ir.OptionalType):
        return ir.OptionalType(_in_float32(type_of_value.elem_type))
    return ir.TensorType(ir.DataType.FLOAT)


def _tensor_in_float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in OTHER_FLOATS:
        return tensor
    with np.errstate(over="ignore"):
        return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _widen_attribute(node: ir.Node, attribute: ir.Attr) -> None:
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = _tensor_in_float32(attribute.as_tensor())
        node.attributes.add(ir.AttrTensor(attribute.name, tensor))
    elif attribute.name in TYPE_ATTRIBUTES and attribute.value in OTHER_FLOATS:
        node.attributes.add(ir.AttrInt64(attribute.name, ir.DataType.FLOAT))


def _drop_cast(node: ir.Node) -> None:
    """Let a Cast of float32 to float32 be an Identity, which simplification removes."""
    if node.op_type != "Cast" or node.domain:
        return
    source = node.inputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT:
        return
    if node.attributes.get_int("to", 0) == ir.DataType.FLOAT:
        node.op_type = "Identity"
        node.attributes.clear()


def _cast(source: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [source], {"to": dtype}, name=name)
    output = node.outputs[0]
    output.name = name
    output.type = ir.TensorType(dtype)
    output.shape = source.shape
    return node


def _cast_input(graph: ir.Graph, value: ir.Value, used_names: set[str | None]) -> None:
    """Cast an input to float32 for all that reads it; an output that is this input stays it."""
    name = unique_name(graph, f"{value.name}_float32", used_names)
    cast = _cast(value, ir.DataType.FLOAT, name)
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    graph.insert_before(graph[0], cast)


def _cast_output(
    graph: ir.Graph, index: int, dtype: ir.DataType, used_names: set[str | None]
) -> None:
    """Cast a tensor to the type that the output has for the user, and give the output its name."""
    value = graph.outputs[index]
    name = value.name or ""
    value.name = unique_name(graph, f"{name}_float32", used_names)
    cast = _cast(value, dtype, name)
    graph.append(cast)
    graph.outputs[index] = cast.outputs[0]

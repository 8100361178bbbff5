"""Reading and changing ONNX graphs, beyond what onnx_ir brings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from qpipe.types import Array

# the ONNX operators with subgraphs; looking at every node's attributes for one takes much longer
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
GRAPH_ATTRIBUTES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)

# ---- reading constants


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node's output.

    None for what is computed or fed. An initializer that is also a graph input is fed: its value is
    only a default.
    """
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer or of a Constant node's output.

    None for what is computed or fed.
    """
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Return whether a value is constant, without reading its array; see `constant_tensor`."""
    return constant_tensor(value) is not None


# ---- shapes


def has_known_shape(value: ir.Value) -> bool:
    """Return whether the sizes of the network's inputs determine the shape of a tensor.

    A size that follows from an open one has a name; one that depends on values has none.
    """
    if value.shape is None:
        return False
    return all(isinstance(size, int) or size.value is not None for size in value.shape)


# ---- names


def value_names(graph: ir.Graph) -> set[str | None]:
    """Return the names of all tensors of a graph: initializers, inputs, and outputs of nodes.

    Those of subgraphs are included.
    """
    names: set[str | None] = {*graph.initializers}
    names.update(value.name for value in graph.inputs)
    for node in graph:
        for value in node.outputs:
            names.add(value.name)
        if node.op_type in CONTROL_FLOW or node.domain:
            for subgraph in subgraphs(node):
                names |= value_names(subgraph)
    return names


def subgraphs(node: ir.Node) -> Sequence[ir.Graph]:
    """Return the branches or the body of a control flow operator; none for other nodes."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs.extend(attribute.as_graphs())
    return graphs


@contextmanager
def without_subgraphs(graph: ir.Graph) -> Iterator[None]:
    """Hide branches and bodies from passes of onnx_ir, which would change them as well."""
    hidden: list[tuple[ir.Node, ir.Attr]] = []
    for node in graph:
        for attribute in list(node.attributes.values()):
            if attribute.type in GRAPH_ATTRIBUTES:
                hidden.append((node, node.attributes.pop(attribute.name)))
    try:
        yield
    finally:
        for node, attribute in hidden:
            node.attributes.add(attribute)


def unique_name(graph: ir.Graph, name: str, used_names: set[str | None] | None = None) -> str:
    """Return `name`, or `name_1`, `name_2`, ... where the graph uses it already.

    `used_names` (by default those of `value_names`) spares a pass over the graph to callers that
    ask often; the name returned is added to it.
    """
    if used_names is None:
        used_names = value_names(graph)
    unique = name
    numbers = itertools.count(1)
    while unique in used_names:
        unique = f"{name}_{next(numbers)}"
    used_names.add(unique)
    return unique


# ---- initializers


def add_initializer(
    graph: ir.Graph,
    name: str,
    array: Array,
    used_names: set[str | None] | None = None,
    *,
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """Add an initializer, called `name` or as `unique_name` makes of it.

    `dtype` is for element types that numpy lacks: INT4 for an array of int8.
    """
    tensor = ir.tensor(array, dtype=dtype, name=unique_name(graph, name, used_names))
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def shared_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Return the initializer `name` where it holds this very array, else add one."""
    existing = constant(graph.initializers.get(name))
    if existing is not None and existing.dtype == array.dtype and np.array_equal(existing, array):
        return graph.initializers[name]
    return add_initializer(graph, name, array)


def replace_constant(
    node: ir.Node,
    index: int,
    array: Array,
    *,
    name: str = "",
    used_names: set[str | None] | None = None,
) -> ir.Value:
    """Let a node read another constant at an input, which may be one beyond its last.

    An initializer that nothing else reads changes in place. Otherwise an initializer is added,
    called `name`, by default like the input's value before.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old_value = optional_input(node, index)
    if old_value is not None and _is_private_initializer(old_value):
        old_value.const_value = ir.tensor(array, name=old_value.name)
        old_value.shape = ir.Shape(array.shape)
        return old_value
    if not name:
        old_name = old_value.name if old_value is not None else None
        name = old_name or f"{node.name}_{index}"
    new_value = add_initializer(graph, name, array, used_names)
    set_input(node, index, new_value)
    return new_value


def _is_private_initializer(value: ir.Value) -> bool:
    return value.is_initializer() and len(value.uses()) == 1 and not value.is_graph_output()


def remove_unused(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove an initializer, or the node that computes a value and all that only this node reads.

    What is still read, and the graph's inputs and outputs, stay.
    """
    if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    node = value.producer()
    if node is None:
        if value.name is not None and graph.initializers.get(value.name) is value:
            del graph.initializers[value.name]
        return
    inputs = list(node.inputs)
    graph.remove(node, safe=True)
    for source in inputs:
        remove_unused(graph, source)


# ---- nodes


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def set_input(node: ir.Node, index: int, value: ir.Value) -> None:
    """Let a node read a value at an input, which may be one beyond its last."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def values_read(node: ir.Node) -> list[ir.Value]:
    """Return what a node reads of its graph, also inside its branches and loops."""
    values = [value for value in node.inputs if value is not None]
    for graph in subgraphs(node):
        for reader in ir.traversal.RecursiveGraphIterator(graph):
            values += [
                value for value in reader.inputs if value is not None and value.graph is node.graph
            ]
    return values


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the node that reads a tensor, where it is the only one, in the same graph.

    None for graph outputs.
    """
    readers = value.consumers()
    producer = value.producer()
    if len(readers) != 1 or value.is_graph_output():
        return None
    reader = readers[0]
    is_in_subgraph = producer is not None and reader.graph is not producer.graph
    return None if is_in_subgraph else reader


def is_affine(node: ir.Node) -> bool:
    """Return whether a layer computes weight times input plus a constant bias per channel, or none.

    Layers are Conv, Gemm and MatMul. Gemm may do more: alpha and beta scale, transA transposes, and
    its third input C may be computed or differ by row.
    """
    bias = optional_input(node, 2)
    bias_array = constant(bias)
    if bias is not None and (bias_array is None or not is_row_vector(bias_array)):
        return False
    if node.op_type != "Gemm":
        return True
    is_transposed = node.attributes.get_int("transA", 0) != 0
    return not is_transposed and not has_gemm_scaling(node)


def has_gemm_scaling(node: ir.Node) -> bool:
    """Return whether a Gemm's alpha or beta is not 1."""
    return any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))


def is_row_vector(array: Array) -> bool:
    """Return whether an array broadcasts as one number per column, or as one for all.

    Its shape is [N], [1, N], [1] or [].
    """
    return array.ndim == 0 or array.size == array.shape[-1]

"""Small things that stages do to graphs, beyond what onnx_ir brings."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.types import Array


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer or of a Constant node's output; None for what is computed or fed."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def unique_name(graph: ir.Graph, name: str) -> str:
    """The name, with a number behind it where the graph has it already."""
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    taken.update(value.name for node in graph for value in node.outputs)
    return next(n for n in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if n not in taken)


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer, called `name` or nearly so."""
    tensor = ir.tensor(array, name=unique_name(graph, name))
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace_constant(node: ir.Node, index: int, array: Array, name: str = "") -> ir.Value:
    """Give one node another constant at an input; an initializer that nobody else uses changes in place."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old = node.inputs[index] if index < len(node.inputs) else None
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
        old.const_value = ir.tensor(array, name=old.name)
        old.shape = ir.Shape(array.shape)
        return old
    new = add_initializer(graph, name or (old.name if old is not None and old.name else f"{node.name}_{index}"), array)
    while len(node.inputs) <= index:
        node.resize_inputs(len(node.inputs) + 1)
    node.replace_input_with(index, new)
    return new


def is_plain(node: ir.Node) -> bool:
    """Whether a layer adds a constant bias, or none, to weight times input: Gemm may scale both, or transpose."""
    if len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None:
        return False
    if node.op_type != "Gemm":
        return True
    is_scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return not is_scaled and node.attributes.get_int("transA", 0) == 0

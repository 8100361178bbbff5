"""Small things that stages do to graphs, beyond what onnx_ir brings."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from qpipe.types import Array


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer or of a Constant node's output; None for what is computed or fed."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def names(graph: ir.Graph) -> set[str | None]:
    """What the tensors of a graph are called."""
    return {
        *graph.initializers,
        *(value.name for value in graph.inputs),
        *(value.name for node in graph.all_nodes() for value in node.outputs),
    }


def unique_name(graph: ir.Graph, name: str, taken: set[str | None] | None = None) -> str:
    """The name, with a number behind it where the graph has it already; who asks often keeps the names in `taken`."""
    taken = names(graph) if taken is None else taken
    unique = next(n for i in itertools.count() if (n := f"{name}_{i}" if i else name) not in taken)
    taken.add(unique)
    return unique


def add_initializer(
    graph: ir.Graph, name: str, array: Array, taken: set[str | None] | None = None
) -> ir.Value:
    """A new initializer, called `name` or nearly so."""
    tensor = ir.tensor(array, name=unique_name(graph, name, taken))
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def replace_constant(
    node: ir.Node, index: int, array: Array, name: str = "", taken: set[str | None] | None = None
) -> ir.Value:
    """Give one node another constant at an input; an initializer that nobody else uses changes in place."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old = node.inputs[index] if index < len(node.inputs) else None
    if (
        old is not None
        and old.is_initializer()
        and len(old.uses()) == 1
        and not old.is_graph_output()
    ):
        old.const_value = ir.tensor(array, name=old.name)
        old.shape = ir.Shape(array.shape)
        return old
    name = name or (old.name if old is not None and old.name else f"{node.name}_{index}")
    new = add_initializer(graph, name, array, taken)
    while len(node.inputs) <= index:
        node.resize_inputs(len(node.inputs) + 1)
    node.replace_input_with(index, new)
    return new


def is_plain(node: ir.Node) -> bool:
    """Whether a layer adds a constant bias by column, or none, to weight times input: Gemm may do more."""
    added = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(added)
    if added is not None and (array is None or not is_row(array)):
        return False
    if node.op_type != "Gemm":
        return True
    is_scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    return not is_scaled and node.attributes.get_int("transA", 0) == 0


def is_row(array: Array) -> bool:
    """Whether what is added has one number for each column, or one for all: [N], [1, N], [1] or []."""
    return array.size == array.shape[-1] if array.ndim else True

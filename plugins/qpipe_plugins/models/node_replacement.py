"""A node in the place of another one."""

from __future__ import annotations

import onnx_ir as ir


def replace_node(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Let a new node take the place of another one, with its output's name, type and shape."""
    graph.insert_before(old, new)
    old_output = old.outputs[0]
    new_output = new.outputs[0]
    name = old_output.name
    new_output.shape = old_output.shape
    new_output.type = old_output.type
    old_output.replace_all_uses_with(new_output, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    new_output.name = name

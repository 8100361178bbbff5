"""Branches that are decided when the network is read."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.quant.graph import constant, unique_name, value_names


def inline_constant_branches(graph: ir.Graph) -> None:
    """Replace each If whose condition is constant by the nodes of the branch that it takes.

    A branch may hold such an If itself.
    """
    pending = [node for node in graph if node.op_type == "If" and not node.domain]
    while pending:
        node = pending.pop()
        condition = constant(node.inputs[0])
        if condition is None or condition.size != 1:
            continue
        branch = node.attributes["then_branch" if condition.item() else "else_branch"].as_graph()
        moved_nodes = _inline(graph, node, branch)
        pending += [moved for moved in moved_nodes if moved.op_type == "If" and not moved.domain]


def _inline(graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> list[ir.Node]:
    """Move a branch into the graph in place of its If; return its nodes."""
    constants = list(branch.initializers.values())
    moved_nodes = list(branch)
    branch_outputs = list(branch.outputs)
    branch.outputs.clear()
    branch.initializers.clear()
    branch.remove(moved_nodes)
    node.attributes.clear()
    used_names = value_names(graph)
    for value in constants:
        value.name = unique_name(graph, value.name or "constant", used_names)
        graph.register_initializer(value)
    for moved in moved_nodes:
        for value in moved.outputs:
            if value.name:
                value.name = unique_name(graph, value.name, used_names)
    graph.insert_before(node, moved_nodes)
    for branch_output, output in zip(branch_outputs, node.outputs, strict=True):
        identity = ir.node("Identity", [branch_output])
        new_output = identity.outputs[0]
        name = output.name
        new_output.type = output.type
        new_output.shape = output.shape
        graph.insert_before(node, identity)
        output.replace_all_uses_with(new_output, replace_graph_outputs=True)
        output.name = None
        new_output.name = name
    graph.remove(node, safe=True)
    return moved_nodes

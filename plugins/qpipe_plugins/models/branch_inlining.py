"""Branches that are decided when the network is read; all others stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from qpipe.quant.graph import constant, remove_unused, subgraphs, unique_name, value_names


def nesting_branches(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield each branch, at any depth, that has an If itself."""
    for node in if_nodes(graph):
        for branch in subgraphs(node):
            if any(if_nodes(branch)):
                yield branch
                yield from nesting_branches(branch)


def inline_constant_branches(graph: ir.Graph) -> None:
    """Replace each If whose condition is constant by the nodes of the branch that it takes.

    A branch may hold such an If itself.
    """
    pending = list(if_nodes(graph))
    for branch in nesting_branches(graph):
        pending += if_nodes(branch)
    while pending:
        node = pending.pop()
        condition = constant(node.inputs[0])
        if condition is None or condition.size != 1:
            continue
        branch = node.attributes["then_branch" if condition.item() else "else_branch"].as_graph()
        pending += if_nodes(_inline(graph, node, branch))


def if_nodes(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield each If of a graph, without those in its subgraphs."""
    return (node for node in nodes if node.op_type == "If" and not node.domain)


def _inline(root: ir.Graph, node: ir.Node, branch: ir.Graph) -> list[ir.Node]:
    """Move a branch into the graph of its If, in place of it; return its nodes.

    Names stay unique in the root graph and all its subgraphs.
    """
    graph = node.graph
    condition = node.inputs[0]
    assert isinstance(graph, ir.Graph)
    constants = list(branch.initializers.values())
    moved_nodes = list(branch)
    branch_outputs = list(branch.outputs)
    branch.outputs.clear()
    branch.initializers.clear()
    branch.remove(moved_nodes)
    for other in subgraphs(node):
        _discard(other)
    node.attributes.clear()
    used_names = value_names(root)
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
    remove_unused(graph, condition)
    return moved_nodes


def _discard(branch: ir.Graph) -> None:
    """Let a branch that is not taken read nothing of the graph outside."""
    for node in branch:
        for inner in subgraphs(node):
            _discard(inner)
    branch.outputs.clear()
    branch.remove(list(branch), safe=True)

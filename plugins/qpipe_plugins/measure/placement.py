"""How much of a build really runs on integer kernels, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

import qpipe

MOVING = "other"  # nodes that compute no values
LONGEST = 50


def placement(deployed: qpipe.Deployed, device: qpipe.Device) -> list[qpipe.Measurement]:
    """How many of a build's nodes compute in 8 bits, by the word of the runtime on the device.

    Of the graph as it runs there, after its fusions; nodes that only move, convert or index values do not count. The
    detail has all nodes by provider and precision, and the names of those that stayed float. Gives nothing where the
    runner does not say. Cost: one start and one inference.
    """
    placed = device.placement(deployed.stored)
    if placed is None:
        return []
    by_precision: dict[str, int] = {}
    for nodes in placed.nodes.values():
        for precision, number in nodes.items():
            by_precision[precision] = by_precision.get(precision, 0) + number
    computing = sum(number for precision, number in by_precision.items() if precision != MOVING)
    detail = {
        "of": computing,
        "nodes": {provider: dict(nodes) for provider, nodes in placed.nodes.items()},
        "float": _own_names(deployed.build, placed.float_nodes[:LONGEST]),
    }
    value = float(by_precision.get("int8", 0))
    return [
        qpipe.Measurement(
            "int8_nodes", value, "nodes", better="max", deployed=deployed.name, detail=detail
        )
    ]


def _own_names(build: qpipe.Build, names: Sequence[str]) -> list[str]:
    """A runtime may call a node by the tensor that it makes; here it gets the name that it has in the network."""
    makers: Mapping[str, ir.Node] = {}
    model = build.folder / str(build.manifest.get("model"))
    if model.suffix == ".onnx" and model.is_file():
        graph = ir.load(model).graph
        makers = {value.name: node for node in graph for value in node.outputs if value.name}
    return [_called(makers[name]) if name in makers else name for name in names]


def _called(node: ir.Node) -> str:
    """Its name, or what it does to what."""
    source = node.inputs[0] if node.inputs else None
    maker = source.producer() if source is not None else None
    of = (
        maker.name
        if maker is not None and maker.name
        else source.name
        if source is not None
        else ""
    )
    return node.name or f"{node.op_type} of {of}"

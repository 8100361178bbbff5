"""How much of a build runs on integer kernels, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

import qpipe

NOT_COMPUTING = "other"  # nodes that compute no values
MOST_NAMES = 50


def placement(deployed: qpipe.Deployed, device: qpipe.Device) -> list[qpipe.Measurement]:
    """Count the nodes of a build that compute in 8 bits, as the runtime on the device reports them.

    The nodes are those of the graph that runs there, after its fusions; nodes that only move,
    convert or index values do not count. The detail has all nodes by provider and precision, and
    the names of those that stayed float. Gives nothing where the runner does not report it. Cost:
    one start and one inference.
    """
    placed = device.placement(deployed.stored)
    if placed is None:
        return []
    by_precision: Counter[str] = Counter()
    for counts in placed.nodes.values():
        by_precision.update(counts)
    computing = by_precision.total() - by_precision[NOT_COMPUTING]
    detail = {
        "of": computing,
        "nodes": {provider: dict(counts) for provider, counts in placed.nodes.items()},
        "float": _network_names(deployed.build, placed.float_nodes[:MOST_NAMES]),
    }
    return [
        qpipe.Measurement(
            "int8_nodes",
            float(by_precision["int8"]),
            "nodes",
            better="max",
            deployed=deployed.name,
            detail=detail,
        )
    ]


def _network_names(build: qpipe.Build, names: Sequence[str]) -> list[str]:
    """Return the names that nodes have in the network; a runtime may use the name of an output."""
    makers: Mapping[str, ir.Node] = {}
    model = build.folder / str(build.manifest.get("model"))
    if model.suffix == ".onnx" and model.is_file():
        graph = ir.load(model).graph
        makers = {value.name: node for node in graph for value in node.outputs if value.name}
    return [_node_name(makers[name]) if name in makers else name for name in names]


def _node_name(node: ir.Node) -> str:
    """Return the name of a node, or its operator and what it reads."""
    if node.name:
        return node.name
    source = node.inputs[0] if node.inputs else None
    if source is None:
        return f"{node.op_type} of "
    maker = source.producer()
    source_name = maker.name if maker is not None and maker.name else source.name
    return f"{node.op_type} of {source_name}"

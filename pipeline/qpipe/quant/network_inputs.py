"""What a network takes: the shapes of its inputs, by which samples are fed."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import onnx_ir as ir

from qpipe.samples.preprocess import Shape

if TYPE_CHECKING:
    import onnxruntime


def input_shapes(
    network: ir.Model | onnxruntime.InferenceSession, names: Collection[str] | None = None
) -> dict[str, Shape]:
    """Return the shapes of a network's inputs, or of those that are named, in its order."""
    shapes: dict[str, Shape] = {}
    if isinstance(network, ir.Model):
        for value in network.graph.inputs:
            shapes[value.name or ""] = None if value.shape is None else list(value.shape)
    else:
        for node in network.get_inputs():
            shapes[node.name] = node.shape
    return {name: shape for name, shape in shapes.items() if names is None or name in names}

"""Layers of a quantized network, each paired with the layer of the float network it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.graph import is_affine
from qpipe.types import Array

# inputs per output channel whose second moments are still affordable: half a gigabyte
MAX_INPUTS = 8192


@dataclass(frozen=True, eq=False)
class PairedLayer:
    """A node with a quantized weight, and the node of the float network that it stands for.

    Arrays of weights appear in two shapes: as the node reads them, and as groups [G, K, O]: for
    each of G groups the K inputs of each of its O output channels.
    """

    node: ir.Node
    float_node: ir.Node
    weight: qdq.Weight
    float_weight: qdq.Weight

    @property
    def groups(self) -> int:
        """The groups of a convolution; 1 for all other layers."""
        if self.node.op_type != "Conv":
            return 1
        return self.node.attributes.get_int("group", 1)

    @property
    def takes_bias(self) -> bool:
        """Whether the layer adds a bias: Conv and Gemm do, MatMul does not."""
        return self.node.op_type != "MatMul"

    def to_groups(self, array: Array) -> Array:
        """Return an array that broadcasts to the weights, as groups [G, K, O]."""
        whole = np.broadcast_to(array, self.weight.array.shape)
        by_output = np.moveaxis(whole, self.weight.channel_axis, 0)
        outputs = len(by_output) // self.groups
        return by_output.reshape(self.groups, outputs, -1).transpose(0, 2, 1)

    def from_groups(self, array: Array) -> Array:
        """Return groups [G, K, O] in the shape of the weights."""
        axis = self.weight.channel_axis
        shape = np.moveaxis(self.weight.array, axis, 0).shape
        by_output = array.transpose(0, 2, 1).reshape(shape)
        return np.ascontiguousarray(np.moveaxis(by_output, 0, axis))


def pair_layers(model: ir.Model, float_model: ir.Model, stage: str) -> list[PairedLayer]:
    """Return the layers whose rounding can be corrected, in the order of the graph.

    Raise StageError, naming the quantize stage, where no quantized weight has such a layer.
    """
    where = f"quantize {stage}"
    layers = []
    for weight, float_weight in qdq.pair_with_float_weights(model, float_model, where):
        if not _is_supported(weight, float_weight):
            continue
        for node, float_node in zip(weight.nodes, float_weight.nodes, strict=True):
            layers.append(PairedLayer(node, float_node, weight, float_weight))
    if not layers:
        raise StageError(
            f"{where}: no quantized weight belongs to a supported layer; it takes Conv, MatMul, "
            "and Gemm without alpha, beta, transA or a computed bias, "
            f"with up to {MAX_INPUTS} inputs per output channel"
        )
    positions = {node: position for position, node in enumerate(model.graph)}
    return sorted(layers, key=lambda layer: positions[layer.node])


def _is_supported(weight: qdq.Weight, float_weight: qdq.Weight) -> bool:
    if len(weight.nodes) != len(float_weight.nodes):
        return False
    inputs_per_output = weight.array.size // weight.array.shape[weight.channel_axis]
    return inputs_per_output <= MAX_INPUTS and all(map(is_affine, float_weight.nodes))


def copy_weight(model: ir.Model, weight: qdq.Weight, source: qdq.Weight) -> None:
    """Give a weight and the biases of its layers what they are in another network."""
    if source.quantized is not None:
        qdq.quantize_weight(model, weight, source.quantized)
    for node, source_node in zip(weight.nodes, source.nodes, strict=True):
        bias = qdq.bias(source_node)
        if bias is not None:
            qdq.set_bias(model, node, bias)

"""Folding of a product or a sum with one number into the convolutions that read it.

Learnt scales behind an activation are of this kind, as in PP-LCNetV3.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import constant, optional_input, replace_constant, value_names
from qpipe.types import Array
from qpipe_plugins.models.operands import ConstantPair, split_constant


def fold_input_scaling(graph: ir.Graph) -> None:
    """Fold each Mul and Add of one number that only convolutions read, without changing a shape.

    A sum folds only where no zeros pad it.
    """
    used_names = value_names(graph)
    for node in reversed(graph):
        pair = _number_pair(node)
        if pair is None:
            continue
        readers = list(node.outputs[0].consumers())
        if not readers or not all(_can_fold(node, reader) for reader in readers):
            continue
        for reader in readers:
            _fold(node, reader, float(pair.array.reshape(())), used_names)
        node.outputs[0].replace_all_uses_with(pair.value)
        graph.remove(node, safe=True)


def _number_pair(node: ir.Node) -> ConstantPair | None:
    if node.domain or node.op_type not in ("Add", "Mul") or node.outputs[0].is_graph_output():
        return None
    pair = split_constant(node)
    if pair is None or pair.array.size != 1 or pair.array.dtype != np.float32:
        return None
    has_same_shape = pair.value.shape is not None and pair.value.shape == node.outputs[0].shape
    return pair if has_same_shape and np.isfinite(pair.array).all() else None


def _can_fold(node: ir.Node, reader: ir.Node) -> bool:
    """Return whether a reader is a convolution of constants, without padding where a sum is."""
    if reader.op_type != "Conv" or reader.domain or reader.inputs[0] is not node.outputs[0]:
        return False
    bias = optional_input(reader, 2)
    is_constant = constant(reader.inputs[1]) is not None
    if not is_constant or (bias is not None and constant(bias) is None):
        return False
    has_padding = any(reader.attributes.get_ints("pads", []))
    is_explicit = reader.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return node.op_type == "Mul" or (is_explicit and not has_padding)


def _fold(node: ir.Node, layer: ir.Node, number: float, used_names: set[str | None]) -> None:
    weight: Array | None = constant(layer.inputs[1])
    assert weight is not None
    if node.op_type == "Mul":
        scaled = (weight * np.float64(number)).astype(weight.dtype)
        replace_constant(layer, 1, scaled, used_names=used_names)
        return
    bias = constant(optional_input(layer, 2))
    sums = weight.astype(np.float64).reshape(len(weight), -1).sum(axis=1)
    new_bias = (number * sums + (0 if bias is None else bias)).astype(weight.dtype)
    replace_constant(layer, 2, new_bias, name=f"{layer.name}_bias", used_names=used_names)

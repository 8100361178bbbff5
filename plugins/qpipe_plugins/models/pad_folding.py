"""Folding of a Pad with zeros into the convolutions that read it.

No kernel of ONNX Runtime pads integers between two quantized layers, but a quantized convolution
pads its input itself.
"""

from __future__ import annotations

import onnx_ir as ir

from qpipe.quant.graph import constant, optional_input, remove_unused
from qpipe.types import Array

FIRST_SPATIAL_AXIS = 2  # behind batch and channels


def fold_pads(graph: ir.Graph) -> None:
    """Add the zeros of each Pad to the pads of the convolutions, if these alone read it."""
    for node in list(graph):
        if node.op_type != "Pad" or node.domain or node.outputs[0].is_graph_output():
            continue
        zeros = _spatial_zeros(node)
        readers = node.outputs[0].consumers()
        if zeros is None or not all(_can_pad(reader, node) for reader in readers):
            continue
        for reader in readers:
            pads = reader.attributes.get_ints("pads", [0] * len(zeros))
            sums = [pad + count for pad, count in zip(pads, zeros, strict=True)]
            reader.attributes.pop("auto_pad", None)
            reader.attributes.add(ir.AttrInt64s("pads", sums))
            reader.replace_input_with(0, node.inputs[0])
        remove_unused(graph, node.outputs[0])


def _spatial_zeros(node: ir.Node) -> list[int] | None:
    """Return how many zeros a Pad adds before all spatial axes, then behind them.

    None where it adds anything else, or cuts.
    """
    counts = constant(optional_input(node, 1))
    shape = node.outputs[0].shape
    if counts is None or shape is None or not _adds_zeros(node):
        return None
    axes = list(range(len(shape)))
    if optional_input(node, 3) is not None:
        stated_axes = constant(node.inputs[3])
        if stated_axes is None:
            return None
        axes = [int(axis) % len(shape) for axis in stated_axes]
    before = dict(zip(axes, counts.tolist()[: len(axes)], strict=True))
    behind = dict(zip(axes, counts.tolist()[len(axes) :], strict=True))
    zeros = [[side.get(axis, 0) for axis in range(len(shape))] for side in (before, behind)]
    if any(min(side) < 0 or any(side[:FIRST_SPATIAL_AXIS]) for side in zeros):
        return None
    return [count for side in zeros for count in side[FIRST_SPATIAL_AXIS:]]


def _adds_zeros(node: ir.Node) -> bool:
    is_constant = node.attributes.get_string("mode", "constant") == "constant"
    value = optional_input(node, 2)
    number: Array | None = constant(value)
    return is_constant and (value is None or (number is not None and not number.any()))


def _can_pad(reader: ir.Node, pad: ir.Node) -> bool:
    """Return whether a node is a convolution, of the same graph, whose pads are numbers."""
    is_convolution = reader.op_type == "Conv" and not reader.domain and reader.graph is pad.graph
    has_numbers = reader.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    is_a_weight = pad.outputs[0] in reader.inputs[1:]
    return is_convolution and has_numbers and not is_a_weight

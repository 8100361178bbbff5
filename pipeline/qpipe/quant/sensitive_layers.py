"""Layers that few weights make and on which much hangs: the first, the last, and depthwise convolutions."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.quant import qdq


def own_bits(
    model: ir.Model,
    *,
    first: int | None = None,
    last: int | None = None,
    depthwise: int | None = None,
) -> dict[str, int]:
    """The bits of those weights that get other bits than the rest, by name; what is None is like the rest.

    First and last are so in the order of the graph, whether they are quantized yet or not; that goes before depthwise.
    """
    order = qdq.weights(model)
    own = {
        weight.name: depthwise
        for weight in order
        if weight.kind == "depthwise" and depthwise is not None
    }
    ends = ((order[0].name, first), (order[-1].name, last)) if order else ()
    return own | {name: bits for name, bits in ends if bits is not None}

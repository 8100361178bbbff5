"""Sensitive layers, few weights with a large effect: first, last and depthwise layers."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.quant import qdq


def sensitive_layer_bits(
    model: ir.Model,
    *,
    first: int | None = None,
    last: int | None = None,
    depthwise: int | None = None,
) -> dict[str, int]:
    """Return the bits of those weights that get other bits than the rest, by name of the weight.

    An option that is None makes no difference between these layers and the rest. First and last are
    so in the order of the graph, quantized or not; their bits take precedence over `depthwise`.
    """
    all_weights = qdq.weights(model)
    bits_by_name: dict[str, int] = {}
    if depthwise is not None:
        for weight in all_weights:
            if weight.kind == "depthwise":
                bits_by_name[weight.name] = depthwise
    if all_weights and first is not None:
        bits_by_name[all_weights[0].name] = first
    if all_weights and last is not None:
        bits_by_name[all_weights[-1].name] = last
    return bits_by_name

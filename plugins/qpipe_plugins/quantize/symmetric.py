"""Symmetric uniform quantization."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from qpipe.quant import qdq, scales
from qpipe.quant.activations import ActivationRange, quantize_activations
from qpipe.quant.sensitive_layers import own_bits
from qpipe.quant.statistics import Statistics
from qpipe.stages.bounds import Bits, Percent
from qpipe.types import ANY_TARGET, Target


def symmetric(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    *,
    bits: Bits | None = None,
    granularity: Literal["tensor", "channel"] = "channel",
    range: scales.Method = "minmax",  # noqa: A002  (the word users know)
    bits_first: Bits | None = None,
    bits_last: Bits | None = None,
    bits_depthwise: Bits | None = None,
    activations: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Weights to evenly spaced levels around zero, one scale a tensor or output channel; 8-bit activations.

    Takes seconds. Weights that are quantized already are kept. `range` chooses the scales of weights, `activations`
    the ranges of activations (none leaves them float); `percentile` is how many percent of the values such a range
    holds, in both. `exclude` names nodes, weights or operators that stay float. Without `bits` weights have 8, or 7
    where the target's sums saturate (x86 without VNNI); the first layer, the last and depthwise ones may have bits of
    their own: few weights, each of which counts.
    Method: Jacob et al. 2018 (arXiv 1712.05877), per-channel as in Krishnamoorthi 2018 (arXiv 1806.08342).
    """
    qdq.check_exclude(model, exclude, "quantize symmetric")
    own = own_bits(model, first=bits_first, last=bits_last, depthwise=bits_depthwise)
    for weight in qdq.float_weights(model, exclude):
        axis = weight.channel_axis if granularity == "channel" else None
        each = own.get(weight.name, bits)
        codes = qdq.symmetric(
            weight, bits=each, axis=axis, method=range, percentile=percentile, target=target
        )
        qdq.quantize_weight(model, weight, codes)
    if activations != "none":
        quantize_activations(
            model,
            statistics,
            method=activations,
            percentile=percentile,
            exclude=exclude,
            target=target,
        )
    return model

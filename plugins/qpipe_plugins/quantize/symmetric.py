"""Symmetric uniform quantization."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from qpipe.quant import qdq, scales
from qpipe.quant.activations import ActivationRange
from qpipe.quant.sensitive_layers import sensitive_layer_bits
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Bits, Percent
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.activations import quantize_activations_of_weights


def symmetric(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    calibration_samples: Samples | None = None,
    *,
    bits: Bits = 8,
    granularity: Literal["tensor", "channel"] = "channel",
    weight_range: scales.Method = "minmax",
    bits_first: Bits | None = None,
    bits_last: Bits | None = None,
    bits_depthwise: Bits | None = None,
    activation_range: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize weights to evenly spaced levels around zero; 8-bit activations.

    One scale per tensor or per output channel; shapes stay. Takes seconds. Weights that are
    quantized already are kept. `weight_range` chooses the scales of weights, `activation_range`
    the ranges of activations (none leaves them float); `percentile` is the percentage of the
    values that such a range holds, in both. `exclude` names nodes, weights or operators that stay
    float. Where the target's sums saturate (x86 without VNNI), a scale is as coarse as keeps all
    sums exact. The first layer, the last one and depthwise layers may have bits of their own: they
    have few weights, each of which counts.
    Method: Jacob et al. 2018 (arXiv 1712.05877), per-channel as in Krishnamoorthi 2018
    (arXiv 1806.08342).
    """
    qdq.check_exclude(model, exclude, "quantize symmetric")
    bits_by_name = sensitive_layer_bits(
        model, first=bits_first, last=bits_last, depthwise=bits_depthwise
    )
    for weight in qdq.float_weights(model, exclude):
        quantized = qdq.symmetric(
            weight,
            bits=bits_by_name.get(weight.name, bits),
            axis=weight.channel_axis if granularity == "channel" else None,
            method=weight_range,
            percentile=percentile,
            target=target,
        )
        qdq.quantize_weight(model, weight, quantized)
    quantize_activations_of_weights(
        model,
        statistics,
        target,
        calibration_samples,
        activation_range=activation_range,
        percentile=percentile,
        exclude=exclude,
    )
    return model

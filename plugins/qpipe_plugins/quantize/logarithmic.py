"""Logarithmic quantization: weights at powers of two, or at sums of two of them."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from qpipe.quant import qdq, scales
from qpipe.quant.activations import ActivationRange
from qpipe.quant.codebook import apot, pot, uniform
from qpipe.quant.sensitive_layers import sensitive_layer_bits
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Bits, LogarithmicBits, Percent
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.activations import quantize_activations_of_weights


def logarithmic(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    calibration_samples: Samples | None = None,
    *,
    bits: LogarithmicBits = 4,
    levels: Literal["pot", "apot"] = "pot",
    granularity: Literal["tensor", "channel"] = "channel",
    weight_range: scales.Method = "mse",
    bits_first: Bits = 8,
    bits_last: Bits | None = None,
    bits_depthwise: Bits = 8,
    activation_range: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize weights to powers of two times a scale, or to sums of two; 8-bit activations.

    `levels` pot are zero and plus or minus 2^k; apot are sums of two such terms. One scale per
    tensor or per output channel; shapes stay. Takes seconds to a minute. At 4 bits the file is
    half that of int8 and runs on the same integer kernels. The first layer, depthwise layers and,
    where `bits_last` is given, the last one keep uniform levels of their own bits (8, or 7 where
    the target's sums saturate): they have few weights, each of which counts. Weights that are
    quantized already are kept.
    Method: Miyashita et al. 2016 (arXiv 1603.01025); apot: Li, Dong, Wang 2020
    (arXiv 1909.13144).
    """
    qdq.check_exclude(model, exclude, "quantize logarithmic")
    codebook = pot(bits) if levels == "pot" else apot(bits)
    uniform_bits = sensitive_layer_bits(
        model, first=bits_first, last=bits_last, depthwise=bits_depthwise
    )
    for weight in qdq.float_weights(model, exclude):
        weight_codebook = codebook
        method = weight_range
        if weight.name in uniform_bits:
            weight_codebook = uniform(uniform_bits[weight.name])
            if uniform_bits[weight.name] >= qdq.FULL_BITS:
                method = "minmax"
        quantized = qdq.to_codebook(
            weight,
            weight_codebook,
            axis=weight.channel_axis if granularity == "channel" else None,
            method=method,
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

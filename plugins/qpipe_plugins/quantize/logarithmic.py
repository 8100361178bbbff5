"""Logarithmic quantization: weights at powers of two, or at sums of two."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from qpipe.quant import qdq, scales
from qpipe.quant.activations import ActivationRange, quantize_activations
from qpipe.quant.codebook import Codebook, additive_powers_of_two, powers_of_two, uniform
from qpipe.quant.sensitive_layers import own_bits
from qpipe.quant.statistics import Statistics
from qpipe.stages.bounds import Bits, LogarithmicBits, Percent
from qpipe.types import ANY_TARGET, Target


def logarithmic(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    *,
    bits: LogarithmicBits = 4,
    levels: Literal["power_of_two", "additive"] = "power_of_two",
    granularity: Literal["tensor", "channel"] = "channel",
    range: scales.Method = "mse",  # noqa: A002  (the word users know)
    bits_first: Bits | None = None,
    bits_last: Bits | None = None,
    bits_depthwise: Bits | None = None,
    activations: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Weights to zero and plus or minus 2^k times a scale (or sums of two such levels); 8-bit activations.

    Takes seconds to a minute. At 4 bits the file is half that of int8 and runs on the same integer kernels. The first
    layer, depthwise layers and, where `bits_last` is given, the last one keep uniform levels of their own bits (8, or
    7 where the target's sums saturate): few weights, each of which counts. Weights that are quantized already are kept.
    Method: Miyashita et al. 2016 (arXiv 1603.01025); additive: Li, Dong, Wang 2020 (arXiv 1909.13144).
    """
    qdq.check_exclude(model, exclude, "quantize logarithmic")
    codebook = powers_of_two(bits) if levels == "power_of_two" else additive_powers_of_two(bits)
    fine = qdq.weight_bits(target)
    finer = own_bits(
        model, first=bits_first or fine, last=bits_last, depthwise=bits_depthwise or fine
    )
    for weight in qdq.float_weights(model, exclude):
        own = finer.get(weight.name)
        book: Codebook = codebook if own is None else uniform(own)
        method: scales.Method = range if own is None or own < fine else "minmax"
        axis = weight.channel_axis if granularity == "channel" else None
        codes = qdq.to_codebook(
            weight, book, axis=axis, method=method, percentile=percentile, target=target
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

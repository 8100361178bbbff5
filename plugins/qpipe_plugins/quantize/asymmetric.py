"""Asymmetric uniform quantization."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq, scales
from qpipe.quant.activations import ActivationRange, quantize_activations
from qpipe.quant.statistics import Statistics
from qpipe.stages.bounds import Bits, Percent
from qpipe.types import ANY_TARGET, Target


def asymmetric(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    *,
    bits: Bits | None = None,
    granularity: Literal["tensor", "channel"] = "tensor",
    range: scales.Method = "minmax",  # noqa: A002  (the word users know)
    activations: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Weights to evenly spaced levels over their own interval, a scale and zero point a tensor or output channel.

    Takes seconds. Up to one bit finer than symmetric where weights lean to one side, but a zero point costs time on the
    device; one per channel is exact, and many times slower than float on ONNX Runtime. Options are those of symmetric.
    Method: Jacob et al. 2018 (arXiv 1712.05877), per-channel as in Krishnamoorthi 2018 (arXiv 1806.08342).
    """
    if target.symmetric_only:
        raise StageError(
            "quantize asymmetric: the device's target takes zero points in the middle only; use symmetric"
        )
    qdq.check_exclude(model, exclude, "quantize asymmetric")
    for weight in qdq.float_weights(model, exclude):
        axis = weight.channel_axis if granularity == "channel" else None
        codes = qdq.asymmetric(
            weight, bits=bits, axis=axis, method=range, percentile=percentile, target=target
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

"""Asymmetric uniform quantization."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq, scales
from qpipe.quant.activations import ActivationRange
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Bits, Percent
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.activations import quantize_activations_of_weights


def asymmetric(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    calibration_samples: Samples | None = None,
    *,
    bits: Bits = 8,
    granularity: Literal["tensor", "channel"] = "tensor",
    weight_range: scales.Method = "minmax",
    activation_range: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize weights to evenly spaced levels over their own interval; 8-bit activations.

    A scale and a zero point per tensor or per output channel; shapes stay. Takes seconds. Up to
    one bit finer than symmetric where the weights lean to one side, but a zero point costs time on
    the device; one zero point per channel is exact, and many times slower than float on ONNX
    Runtime. The options are those of symmetric.
    Method: Jacob et al. 2018 (arXiv 1712.05877), per-channel as in Krishnamoorthi 2018
    (arXiv 1806.08342).
    """
    if target.symmetric_only:
        raise StageError(
            "quantize asymmetric: the device's target takes zero points in the middle only; "
            "use symmetric"
        )
    qdq.check_exclude(model, exclude, "quantize asymmetric")
    for weight in qdq.float_weights(model, exclude):
        axis = weight.channel_axis if granularity == "channel" else None
        quantized = qdq.asymmetric(
            weight, bits=bits, axis=axis, method=weight_range, percentile=percentile, target=target
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

"""Quantization of the activations: a stage of its own, and the last part of stages for weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq, ranges
from qpipe.quant.activations import ActivationRange, quantize_activations
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Percent
from qpipe.types import ANY_TARGET, Target
from qpipe_plugins.quantize.range_check import SEARCHED_METHODS, RangeOptions, unclipped_tensors


def activations(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    calibration_samples: Samples | None = None,
    *,
    activation_range: ranges.Method = "minmax",
    percentile: Percent = 99.99,
    bits: Literal[2, 3, 4, 5, 6, 7, 8, 16] = 8,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize the activations around all quantized weights to unsigned integers, asymmetrically.

    For chains whose weights another stage has quantized; put it behind that stage. Adds a
    QuantizeLinear and a DequantizeLinear, with one scale and zero point per tensor; shapes stay.
    Takes seconds. 16 bits (opset 21) have no integer kernels on CPUs: they show what quantizing
    the weights alone costs. Fewer than 8 bits run on the kernels of 8, with a Clip of the codes:
    the numbers of hardware with fewer, not its speed. They are for what a Conv, Gemm or MatMul
    multiplies; the network's inputs, what is only added, and outputs keep 8. The ranges mse and
    entropy are searched tensor by tensor; where some calibration samples tell that this moves the
    outputs much further than minmax, tensors keep it.
    Method: Jacob et al. 2018 (arXiv 1712.05877); ranges as in Krishnamoorthi 2018
    (arXiv 1806.08342).
    """
    qdq.check_exclude(model, exclude, "quantize activations")
    if not any(weight.is_quantized for weight in qdq.weights(model)):
        raise StageError(
            "quantize activations: no weight is quantized yet; "
            "put a stage that quantizes weights before it"
        )
    _quantize_checked(
        model,
        statistics,
        target,
        calibration_samples,
        RangeOptions(activation_range, bits, percentile, exclude),
    )
    return model


def quantize_activations_of_weights(
    model: ir.Model,
    statistics: Statistics,
    target: Target,
    samples: Samples | None,
    *,
    activation_range: ActivationRange,
    percentile: float,
    exclude: Sequence[str],
) -> None:
    """Quantize the activations around the quantized weights to 8 bits, unless the range is none.

    Where `samples` tell that a searched range is worse than minmax, tensors keep minmax.
    """
    if activation_range == "none":
        return
    options = RangeOptions(activation_range, 8, percentile, exclude)
    _quantize_checked(model, statistics, target, samples, options)


def _quantize_checked(
    model: ir.Model,
    statistics: Statistics,
    target: Target,
    samples: Samples | None,
    options: RangeOptions,
) -> None:
    unclipped: Collection[str] = ()
    if samples is not None and options.method in SEARCHED_METHODS:
        unclipped = unclipped_tensors(model, statistics, target, samples, options)
    quantize_activations(
        model,
        statistics,
        method=options.method,
        bits=options.bits,
        percentile=options.percentile,
        exclude=options.exclude,
        target=target,
        unclipped=unclipped,
    )

"""Quantization of the activations: a stage of its own, and the last part of stages for weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq, ranges
from qpipe.quant.activations import ActivationRange, quantize_activations
from qpipe.quant.statistics import Statistics
from qpipe.stages.bounds import Percent
from qpipe.types import ANY_TARGET, Target


def activations(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    *,
    activation_range: ranges.Method = "minmax",
    percentile: Percent = 99.99,
    bits: Literal[8, 16] = 8,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Quantize the activations around all quantized weights to unsigned integers, asymmetrically.

    For chains whose weights another stage has quantized; put it behind that stage. Adds a
    QuantizeLinear and a DequantizeLinear, with one scale and zero point per tensor; shapes stay.
    Takes seconds. 16 bits (opset 21) have no integer kernels on CPUs: they show what quantizing
    the weights alone costs.
    Method: Jacob et al. 2018 (arXiv 1712.05877); ranges as in Krishnamoorthi 2018
    (arXiv 1806.08342).
    """
    qdq.check_exclude(model, exclude, "quantize activations")
    if not any(weight.is_quantized for weight in qdq.weights(model)):
        raise StageError(
            "quantize activations: no weight is quantized yet; "
            "put a stage that quantizes weights before it"
        )
    quantize_activations(
        model,
        statistics,
        method=activation_range,
        bits=bits,
        percentile=percentile,
        exclude=exclude,
        target=target,
    )
    return model


def quantize_activations_of_weights(
    model: ir.Model,
    statistics: Statistics,
    target: Target,
    *,
    activation_range: ActivationRange,
    percentile: float,
    exclude: Sequence[str],
) -> None:
    """Quantize the activations around the quantized weights to 8 bits, unless the range is none."""
    if activation_range == "none":
        return
    quantize_activations(
        model,
        statistics,
        method=activation_range,
        percentile=percentile,
        exclude=exclude,
        target=target,
    )

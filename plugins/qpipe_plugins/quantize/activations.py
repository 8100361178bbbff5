"""Activations on their own, for chains whose weights another stage quantized."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq, ranges
from qpipe.quant.activations import quantize_activations
from qpipe.quant.statistics import Statistics
from qpipe.stages.bounds import Percent
from qpipe.types import ANY_TARGET, Target


def activations(
    model: ir.Model,
    statistics: Statistics,
    target: Target = ANY_TARGET,
    *,
    range: ranges.Method = "minmax",  # noqa: A002  (the word users know)
    percentile: Percent = 99.99,
    bits: Literal[8, 16] = 8,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Unsigned integers with any zero point for the activations around all weights that are quantized already.

    Takes seconds. 16 bits (opset 21) has no integer kernels on CPUs: it shows what the weights alone cost.
    """
    qdq.check_exclude(model, exclude, "quantize activations")
    if not any(weight.is_quantized for weight in qdq.weights(model)):
        raise StageError(
            "quantize activations: no weight is quantized yet; put a stage before it that quantizes them"
        )
    quantize_activations(
        model,
        statistics,
        method=range,
        bits=bits,
        percentile=percentile,
        exclude=exclude,
        target=target,
    )
    return model

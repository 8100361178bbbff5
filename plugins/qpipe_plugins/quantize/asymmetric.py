"""Asymmetric uniform quantization."""

from __future__ import annotations

import onnx_ir as ir

from qpipe.quant import qdq, scales
from qpipe.quant.activations import ActivationRange, quantize_activations
from qpipe.quant.statistics import Statistics


def asymmetric(
    model: ir.Model,
    statistics: Statistics,
    *,
    bits: int = 8,
    range: scales.Method = "minmax",  # noqa: A002  (the word users know)
    activations: ActivationRange = "minmax",
    percentile: float = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Weights to evenly spaced levels over their own interval, one scale and zero point a tensor; 8-bit activations.

    Takes seconds. Up to one bit finer than symmetric where weights lean to one side. One zero point a tensor, because
    integer kernels take no other: for a scale per channel use symmetric. The other options are as there.
    Method: Jacob et al. 2018 (arXiv 1712.05877).
    """
    qdq.check_exclude(model, exclude, "quantize asymmetric")
    for weight in qdq.float_weights(model, exclude):
        codes = qdq.asymmetric(weight, bits=bits, method=range, percentile=percentile)
        qdq.quantize_weight(model, weight, codes)
    if activations != "none":
        quantize_activations(model, statistics, method=activations, percentile=percentile, exclude=exclude)
    return model

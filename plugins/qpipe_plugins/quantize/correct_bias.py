"""Bias correction: what rounding the weights shifts on average goes into the bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.graph import is_plain
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import Array, Progress
from qpipe_plugins.quantize.compensate import shift_biases


def correct_bias(
    model: ir.Model,
    float_model: ir.Model,
    statistics: Statistics,
    calibration_samples: Samples | None = None,
    workdir: Path | None = None,
    progress: Progress | None = None,
    *,
    samples: Count | None = None,
) -> ir.Model:
    """Move each output channel's mean back to the float network's, by the mean of the layer's inputs.

    Takes a second; no samples: calibration has gathered the means of the float network. With `samples` so many are run
    through both networks, layer after layer, so that the inputs are those that the quantized network really has: two
    inferences each. Quantize the weights before it. Biases are set anew from the float network's, so twice is the same
    as once; one that is computed, or that Gemm scales, is left alone.
    Method: Nagel et al. 2019, section 4.2 and appendix D (arXiv 1906.04721), with measured means.
    """
    if samples and calibration_samples is not None and workdir is not None and progress is not None:
        count = min(samples, len(calibration_samples))
        shift_biases(model, float_model, calibration_samples, count, workdir, progress)
        return model
    for weight, origin in qdq.origins(model, float_model, "quantize correct_bias"):
        error = weight.array - origin.array
        for node, source in zip(weight.nodes, origin.nodes, strict=True):
            means = _input_means(node, statistics) if is_plain(source) else None
            shift = None if means is None else _shift(weight, node, error, means)
            if shift is not None:
                bias = qdq.bias(source)
                qdq.set_bias(model, node, (0 if bias is None else bias) - shift)
    return model


def _input_means(node: ir.Node, statistics: Statistics) -> Array | None:
    """The mean of each input channel, [C], by the name the tensor has in the float network."""
    value = node.inputs[0]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            break
        value = producer.inputs[0]
    name = value.name if value is not None else None
    return statistics[name].channel_mean if name is not None and name in statistics else None


def _shift(weight: qdq.Weight, node: ir.Node, error: Array, means: Array) -> Array | None:
    """What the error in the weights adds to each output channel on average, [C]; None where channels do not match."""
    if weight.kind in ("conv", "depthwise"):
        per_input = error.reshape(*error.shape[:2], -1).sum(
            axis=2, dtype=np.float64
        )  # [out, in of its group]
        groups = node.attributes.get_int("group", 1)
        if means.size != per_input.shape[1] * groups:
            return None
        by_group = np.repeat(means.reshape(groups, -1), len(per_input) // groups, axis=0)
        result: Array = np.einsum("oi,oi->o", per_input, by_group)
        return result
    if weight.kind == "matmul" or means.size != error.shape[1 - weight.channel_axis]:
        return None  # MatMul has no bias to put it in
    return np.moveaxis(error, weight.channel_axis, 0).astype(np.float64) @ means

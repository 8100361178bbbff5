"""Bias correction: the bias takes up what rounding the weights shifts on average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.code_bounds import bounds_codes
from qpipe.quant.graph import is_affine
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import Array, Progress
from qpipe_plugins.quantize.measured_bias import shift_biases


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
    """Correct the biases so that each output channel has the mean of the float network.

    Takes a second and needs no samples: calibration has gathered the mean of each layer's inputs
    in the float network. With `samples`, that many are run through both networks, layer after
    layer, so that the inputs are those that the quantized network really has: two inferences per
    sample. Put it behind the stages that quantize weights. Biases are computed from those of the
    float network, so applying it twice changes nothing more; a bias that is computed, or that Gemm
    scales, is left alone. Adds a bias [C] where a layer has none; shapes stay.
    Method: Nagel et al. 2019, section 4.2 and appendix D (arXiv 1906.04721), with measured means.
    """
    if samples and calibration_samples is not None and workdir is not None and progress is not None:
        count = min(samples, len(calibration_samples))
        shift_biases(model, float_model, calibration_samples, count, workdir, progress)
        return model
    for weight, origin in qdq.pair_with_float_weights(model, float_model, "quantize correct_bias"):
        rounding_error = weight.array - origin.array
        for node, float_node in zip(weight.nodes, origin.nodes, strict=True):
            if not is_affine(float_node):
                continue
            shift = _output_shift(weight, node, rounding_error, statistics)
            if shift is not None:
                bias = qdq.bias(float_node)
                qdq.set_bias(model, node, (0 if bias is None else bias) - shift)
    return model


def _output_shift(
    weight: qdq.Weight, node: ir.Node, rounding_error: Array, statistics: Statistics
) -> Array | None:
    """Return what the error of the weights adds to each output channel on average, [C].

    None where the input has no statistics or its channels do not match the weight's, and for
    MatMul, which has no bias.
    """
    means = _input_means(node, statistics)
    if means is None or weight.kind == "matmul":
        return None
    if weight.kind in ("conv", "depthwise"):
        return _convolution_shift(rounding_error, means, node.attributes.get_int("group", 1))
    inputs = rounding_error.shape[1 - weight.channel_axis]
    if means.size != inputs:
        return None
    by_output = np.moveaxis(rounding_error, weight.channel_axis, 0).astype(np.float64)
    shift: Array = by_output @ means
    return shift


def _convolution_shift(rounding_error: Array, means: Array, groups: int) -> Array | None:
    """Return the mean of the kernel's error times the mean of its input channel, [C]."""
    outputs, inputs = rounding_error.shape[:2]
    if means.size != inputs * groups:
        return None
    kernel_sums = rounding_error.reshape(outputs, inputs, -1).sum(axis=2, dtype=np.float64)
    input_means = np.repeat(means.reshape(groups, inputs), outputs // groups, axis=0)
    shift: Array = np.einsum("oi,oi->o", kernel_sums, input_means)
    return shift


def _input_means(node: ir.Node, statistics: Statistics) -> Array | None:
    """Return the mean of each input channel, [C]; None where calibration has none.

    The statistics name a tensor as the float network does, so the name is looked up in front of
    the QuantizeLinear and DequantizeLinear that were added since.
    """
    value = node.inputs[0]
    while value is not None:
        producer = value.producer()
        if producer is None or not (
            producer.op_type in qdq.QDQ_OPERATORS or bounds_codes(producer)
        ):
            break
        value = producer.inputs[0]
    if value is None or value.name is None or value.name not in statistics:
        return None
    return statistics[value.name].channel_mean

"""Compensation: layer after layer, weights are rounded anew so that outputs stay close to float.

A quantized layer gets inputs x that are no longer the float network's f, and its weights can only
take the levels of a codebook. Layers are taken in the order of the graph, so that x is what the
layers before really give, including their rounding and that of the activations. For a layer with
float weights w, with the moments of the samples around their means:

1. Drift: the outputs lack w (f - x). The target t = w + dw makes up for the part of it that is
   linear in x: dw = argmin E|dw x - w (f - x)|^2 + r |dw|^2, a ridge toward the float weights,
   where r is the ridge that leaves the least on samples that the fit has not seen. (Asymmetric
   calibration: Li et al. 2025, GPTAQ, arXiv 2504.02692; there without such a check.)
2. Scale: the one whose rounded weights q leave the least (t - q) H (t - q)^T, H = E[x x^T], per
   channel or per tensor. Below 8 bits, uniform levels get the one that symmetry leaves out: at 4
   bits 16 of them, -8 to 7, instead of 15.
3. Rounding: input by input, each making up for those before (Frantar et al. 2022, GPTQ,
   arXiv 2210.17323), then coordinate descent until no single code improves it (Behdin et al. 2023,
   QuantEase, arXiv 2309.01885).
4. Bias: it takes up what is left on average, b + E[w f] - E[q x] (Nagel et al. 2019,
   arXiv 1906.04721, with measured means).

In the code the outputs' `lack` is w (f - x), and arrays of weights are groups [G, K, O] as in
`paired_layers`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx_ir as ir
from pydantic import Field

from qpipe.quant import qdq
from qpipe.quant.arithmetic import along_axis
from qpipe.quant.codebook import Codebook, full_range
from qpipe.quant.horizontal_flip import FlippedSamples
from qpipe.quant.moments import Moments, input_rows, mean_variance, weight_correction
from qpipe.quant.piecewise_inference import MemoryBudget, PiecewiseInference
from qpipe.quant.rounding import Grid, Hessian, ScaleFit, round_to_grid
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Threads
from qpipe.types import ANY_TARGET, Array, Progress, Target
from qpipe_plugins.quantize.held_out import HOLD_OUT_EVERY, is_held_out, keep_what_helps
from qpipe_plugins.quantize.measured_bias import shift_bias
from qpipe_plugins.quantize.output_noise import OutputNoise
from qpipe_plugins.quantize.paired_layers import PairedLayer, pair_layers

CHECK_EVERY = 5  # one sample in so many is left out of the fit and checks it
CHECK_OFFSET = 1
FULL_RANGE_BELOW = 8  # bits
WHERE = "quantize compensate"

log = logging.getLogger(__name__)


def compensate(
    model: ir.Model,
    float_model: ir.Model,
    calibration_samples: Samples,
    workdir: Path,
    progress: Progress,
    target: Target = ANY_TARGET,
    *,
    drift: bool = True,
    rescale: bool = True,
    horizontal_flip: bool = False,
    samples: Count = 256,
    positions: Count = 32,
    damping: Annotated[float, Field(gt=0, le=100)] = 0.1,
    memory_mb: Annotated[int, Field(ge=0)] = 512,
    threads: Threads = 1,
) -> ir.Model:
    """Round weights anew, layer by layer, to make up for drift and rounding; for any codebook.

    Put it behind the stages that quantize weights and activations: it chooses new codes, scales
    and biases; shapes and bits stay. Costs two inferences per sample, `positions` places of each
    feature map, and the cube of each layer's width: half a minute for a MobileNet. Activations
    beyond `memory_mb` wait on the disk. Without `drift` it rounds the float weights themselves
    (GPTQ). Without `rescale`, or where the target takes powers of two only, scales stay as they
    are. `damping`, a part of the mean variance, keeps rounding from relying on what few samples
    show. `horizontal_flip` takes each picture a second time, with left and right exchanged: twice
    the time, and a little more exact where samples are few and nothing in them has a side, as
    writing has.
    Method: Frantar et al. 2022 (GPTQ, arXiv 2210.17323), Behdin et al. 2023 (QuantEase,
    arXiv 2309.01885), Li et al. 2025 (GPTAQ, arXiv 2504.02692).
    """
    start = ir.from_proto(ir.to_proto(model))
    layers = pair_layers(model, float_model, "compensate")
    views = 1
    pictures = calibration_samples
    if horizontal_flip:
        views = 2
        pictures = FlippedSamples(calibration_samples.folder, WHERE)
    count = min(samples * views, len(pictures))
    budget = MemoryBudget(workdir, memory_mb << 20)
    nodes = [layer.node for layer in layers]
    float_nodes = [layer.float_node for layer in layers]
    inference = PiecewiseInference(model, nodes, pictures, count, budget, threads=threads)
    float_inference = PiecewiseInference(
        float_model, float_nodes, pictures, count, budget, threads=threads
    )
    # scales that are powers of two are those that the target takes: they are chosen already
    can_rescale = rescale and not target.power_of_two_scales
    rounded_weights: dict[qdq.Weight, qdq.QuantizedWeight] = {}
    with inference, float_inference:
        for index, layer in enumerate(layers):
            progress(index, len(layers), "layers")
            observed = _observe(
                layer,
                inputs=inference.inputs(layer.node),
                float_inputs=float_inference.inputs(layer.float_node),
                positions=positions,
                views=views,
                count=count // views,
            )
            if layer.weight not in rounded_weights:
                target_weights = _target_weights(layer, observed, drift=drift)
                rounded_weights[layer.weight] = _round_weights(
                    layer,
                    target_weights,
                    observed.all,
                    damping=damping,
                    rescale=can_rescale,
                    target=target,
                )
                qdq.quantize_weight(model, layer.weight, rounded_weights[layer.weight])
            if layer.takes_bias:
                mean_input, mean_lack = observed.all.mean
                shift_bias(
                    model,
                    layer,
                    rounded_weights[layer.weight],
                    mean_input=mean_input,
                    mean_lack=mean_lack,
                )
    held_out = OutputNoise(
        calibration_samples,
        _checking_samples(count // views),
        float_model,
        threads=threads,
    )
    return keep_what_helps(start, model, held_out, WHERE)


def _checking_samples(count: int) -> list[int]:
    """Return which of `count` samples check the result: those that it was not fitted to, if any."""
    held_out = [index for index in range(count) if is_held_out(index, count)]
    if held_out:
        return held_out
    log.warning(
        "%s: %d samples are too few to leave some out: they check the result themselves; "
        "%d would do",
        WHERE,
        count,
        HOLD_OUT_EVERY,
    )
    return list(range(count))


@dataclass(frozen=True)
class Observed:
    """Moments of what a layer multiplies and of what its outputs lack."""

    fit: Moments  # of the samples that the drift is fitted to
    check: Moments  # of those that check the fit
    all: Moments


def _observe(
    layer: PairedLayer,
    *,
    inputs: Iterator[Array],
    float_inputs: Iterator[Array],
    positions: int,
    views: int,
    count: int,
) -> Observed:
    """Gather the moments over those of `count` samples that are not held out.

    Successive `views` of one sample stay together.
    """
    shape = layer.weight.array.shape
    float_weights = layer.to_groups(layer.float_weight.array).astype(np.float32)
    fit = Moments(*float_weights.shape)
    check = Moments(*float_weights.shape)
    for index, (array, float_array) in enumerate(zip(inputs, float_inputs, strict=True)):
        sample = index // views
        if is_held_out(sample, count):
            continue
        rows = input_rows(layer.node, shape, array, places=positions, sample=index)
        float_rows = input_rows(layer.node, shape, float_array, places=positions, sample=index)
        moments = check if sample % CHECK_EVERY == CHECK_OFFSET else fit
        moments.add(rows, (float_rows - rows) @ float_weights)
    return Observed(fit, check, fit + check)


def _target_weights(layer: PairedLayer, observed: Observed, *, drift: bool) -> Array:
    """Return the weights that the codes should come close to, float64 [G, K, O].

    Those of the float network, corrected for the drift of the inputs unless no sample is left to
    check the correction.
    """
    weights = layer.to_groups(layer.float_weight.array).astype(np.float64)
    if not drift or not observed.check.count:
        return weights
    return weights + weight_correction(
        fit=observed.fit, check=observed.check, centred=_is_centred(layer)
    )


def _is_centred(layer: PairedLayer) -> bool:
    """Return whether moments are taken around the means.

    They are where a bias takes up what is off on average, so that only what varies is left to the
    weights.
    """
    return layer.takes_bias


def _round_weights(
    layer: PairedLayer,
    target_weights: Array,
    moments: Moments,
    *,
    damping: float,
    rescale: bool,
    target: Target,
) -> qdq.QuantizedWeight:
    """Return the codes, and where `rescale` the scales, that keep the outputs close to those of
    the target weights [G, K, O].
    """
    quantized = layer.weight.quantized
    assert quantized is not None
    hessian, _ = moments.second(_is_centred(layer))
    hessian += damping * mean_variance(hessian) * np.eye(hessian.shape[-1])
    fit = _scale_fit(layer, quantized, rescale)
    codebook = quantized.codebook if fit == "none" else _codebook_for_new_scale(quantized.codebook)
    grid = Grid(
        codebook,
        _parameter_groups(layer, quantized, quantized.scale),
        _parameter_groups(layer, quantized, quantized.zero_point),
        layer.weight.pairings(target),
    )
    codes, scale = round_to_grid(target_weights, grid, Hessian(hessian), fit)
    if fit != "none":
        new_scale = scale.reshape(-1)
        if fit == "tensor":
            new_scale = new_scale[0]
        new_scale = np.asarray(new_scale, np.float32)
        quantized = replace(quantized, codebook=codebook, scale=new_scale)
    return replace(quantized, codes=layer.from_groups(codes).astype(quantized.codes.dtype))


def _scale_fit(layer: PairedLayer, quantized: qdq.QuantizedWeight, rescale: bool) -> ScaleFit:
    """Return what gets a new scale: the tensor, each output channel, or nothing."""
    if not rescale:
        return "none"
    if quantized.axis is None:
        return "tensor"
    return "output" if quantized.axis == layer.weight.channel_axis else "none"


def _codebook_for_new_scale(codebook: Codebook) -> Codebook:
    """Return the codebook with the lowest level that symmetric uniform ones of few bits leave out.

    At 8 bits that level is -128, which kernels do not take.
    """
    if codebook.name == "uniform" and codebook.bits < FULL_RANGE_BELOW:
        return full_range(codebook.bits)
    return codebook


def _parameter_groups(
    layer: PairedLayer, quantized: qdq.QuantizedWeight, parameter: Array
) -> Array:
    """Return the scale or zero point as groups: float64 [G, 1, O], or [G, K, O] where inputs
    differ.
    """
    broadcastable = along_axis(parameter, quantized.codes.ndim, quantized.axis)
    groups = layer.to_groups(broadcastable).astype(np.float64)
    if quantized.axis in (None, layer.weight.channel_axis):
        return groups[:, :1]
    return groups

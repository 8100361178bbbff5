"""Compensation: layer after layer, weights are rounded anew so that the network stays near float.

A quantized layer gets inputs x that are no longer the float network's f, and its weights can only take the levels of
a codebook. Layers are taken in the order of the graph, so that x is what the layers before really give, their rounding
and that of activations included. For a layer with float weights w, by the samples' moments around their means:

1. drift: outputs lack w (f - x). The target t = w + dw makes up for what of that is linear in x: dw = argmin
   E|dw x - w (f - x)|^2 + r |dw|^2, a ridge toward the float weights, r being what leaves the least on samples that a
   fit has not seen. (Asymmetric calibration: Li et al. 2025, GPTAQ, arXiv 2504.02692; there without a check.)
2. scale: the one whose rounded weights leave the least (t - q) H (t - q)^T, H = E[x x^T], per channel or per tensor.
   Below 8 bits uniform levels get the one that symmetry leaves out: 16 of them at 4 bits, -8 to 7, not 15.
3. rounding: input by input, each making up for those before (Frantar et al. 2022, GPTQ, arXiv 2210.17323), then
   coordinate descent until no single code betters it (Behdin et al. 2023, QuantEase, arXiv 2309.01885).
4. bias: what is left on average, b + E[w f] - E[q x] (Nagel et al. 2019, arXiv 1906.04721, of measured means).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx_ir as ir
from pydantic import Field

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import along_axis
from qpipe.quant.codebook import full_range
from qpipe.quant.graph import is_plain
from qpipe.quant.horizontal_flip import Mirrored
from qpipe.quant.moments import Moments, correction, mean_variance, rows
from qpipe.quant.piecewise_inference import Room, Segments
from qpipe.quant.rounding import Fit, Grid, Hessian, rounded
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Threads
from qpipe.types import ANY_TARGET, Array, Progress, Target

CHECK = 5  # of so many samples one is not fitted to, but checks the fit
# of activations, and of each feature map, where only means are wanted
MEMORY_MB = 512
PLACES = 32
LARGEST = 8192  # inputs of an output channel whose moments are still affordable: half a gigabyte


@dataclass(frozen=True, eq=False)
class Layer:
    """A node with quantized weights, and the node of the float network that it stands for."""

    node: ir.Node
    source: ir.Node
    weight: qdq.Weight
    origin: qdq.Weight

    @property
    def groups(self) -> int:
        return self.node.attributes.get_int("group", 1) if self.node.op_type == "Conv" else 1

    def stacked(self, array: Array) -> Array:
        """Weights, or what broadcasts to them, as [groups, inputs of an output, outputs of a group]."""
        whole = np.moveaxis(
            np.broadcast_to(array, self.weight.array.shape), self.weight.channel_axis, 0
        )
        return whole.reshape(self.groups, len(whole) // self.groups, -1).transpose(0, 2, 1)

    def unstacked(self, stack: Array) -> Array:
        """The same, in the shape of the weights again."""
        moved = np.moveaxis(self.weight.array, self.weight.channel_axis, 0).shape
        return np.ascontiguousarray(
            np.moveaxis(stack.transpose(0, 2, 1).reshape(moved), 0, self.weight.channel_axis)
        )


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
    mirror: bool = False,
    samples: Count = 256,
    positions: Count = 32,
    damping: Annotated[float, Field(gt=0, le=100)] = 0.1,
    memory_mb: Annotated[int, Field(ge=0)] = 512,
    threads: Threads = 1,
) -> ir.Model:
    """Choose codes, scales and biases anew, layer by layer, to make up for drift and rounding; any codebook, any bits.

    Put it after the stages that quantize weights and activations. Costs two inferences per sample, `positions` places
    of each feature map, and cubes of the layers' widths: half a minute for a MobileNet. Activations beyond `memory_mb`
    wait on the disk. Without `drift` float weights are what it rounds (GPTQ); without `rescale`, or where the target
    takes powers of two only, scales stay as they are. `damping`, a part of the mean variance, keeps rounding from
    relying on what few samples tell. `mirror` takes pictures a second time, left and right exchanged: twice the time,
    and a little better where few are at hand and nothing in them has a side, as writing has.
    """
    rescale = (
        rescale and not target.power_of_two_scales
    )  # those that a target takes are chosen already
    layers = _layers(model, float_model)
    views = 1 + mirror
    room = Room(workdir, memory_mb << 20)
    given = (
        Mirrored(calibration_samples.folder, "quantize compensate")
        if mirror
        else calibration_samples
    )
    count = min(samples * views, len(given))
    now = Segments(model, [layer.node for layer in layers], given, count, room, threads=threads)
    then = Segments(
        float_model, [layer.source for layer in layers], given, count, room, threads=threads
    )
    chosen: dict[qdq.Weight, qdq.QuantizedWeight] = {}
    with now, then:
        for done, layer in enumerate(layers):
            progress(done, len(layers), "layers")
            fit, check = _observe(
                layer, now.inputs(layer.node), then.inputs(layer.source), positions, views
            )
            if layer.weight not in chosen:
                wanted = _wanted(layer, fit, check if drift else None)
                chosen[layer.weight] = _round(layer, wanted, fit + check, damping, rescale)
                qdq.quantize_weight(model, layer.weight, chosen[layer.weight])
            if layer.node.op_type != "MatMul":
                _shift_bias(model, layer, chosen[layer.weight], (fit + check).mean)
    return model


def shift_biases(
    model: ir.Model,
    float_model: ir.Model,
    samples: Samples,
    count: int,
    workdir: Path,
    progress: Progress,
) -> None:
    """Step 4 alone, by so many samples: put what each layer's outputs lack on average into its bias."""
    layers = [
        each
        for each in _layers(model, float_model, "correct_bias")
        if each.node.op_type != "MatMul"
    ]
    room = Room(workdir, MEMORY_MB << 20)
    now = Segments(model, [layer.node for layer in layers], samples, count, room)
    then = Segments(float_model, [layer.source for layer in layers], samples, count, room)
    with now, then:
        for done, layer in enumerate(layers):
            progress(done, len(layers), "layers")
            assert layer.weight.quantized is not None
            row = _mean_row(layer, now.inputs(layer.node))
            float_row = _mean_row(layer, then.inputs(layer.source))
            lack = np.einsum("gko,gk->go", layer.stacked(layer.origin.array), float_row - row)
            _shift_bias(model, layer, layer.weight.quantized, (row, lack))


def _mean_row(layer: Layer, inputs: Iterator[Array]) -> Array:
    """The mean of what the layer multiplies, [G, K]."""
    shape = layer.weight.array.shape
    count = 0
    total = np.zeros(())
    for sample, array in enumerate(inputs):
        picked = rows(layer.node, shape, array, PLACES, sample)
        count += picked.shape[1]
        total = (
            total + (np.ones((1, picked.shape[1]), np.float32) @ picked)[:, 0]
        )  # many times faster than sum()
    return np.asarray(total / count)


def _layers(model: ir.Model, float_model: ir.Model, stage: str = "compensate") -> list[Layer]:
    pairs = qdq.origins(model, float_model, f"quantize {stage}")
    order = {node: place for place, node in enumerate(model.graph)}
    found = [
        Layer(node, source, weight, origin)
        for weight, origin in pairs
        if all(map(is_plain, origin.nodes)) and len(weight.nodes) == len(origin.nodes)
        for node, source in zip(weight.nodes, origin.nodes, strict=True)
        if weight.array.size // weight.array.shape[weight.channel_axis] <= LARGEST
    ]
    if not found:
        raise StageError(
            f"quantize {stage}: no quantized weight is one it can round anew; it takes those of Conv, MatMul, and "
            f"Gemm without alpha, beta, transA or a computed bias, of up to {LARGEST} inputs an output"
        )
    return sorted(found, key=lambda layer: order[layer.node])


def _observe(
    layer: Layer, inputs: Iterator[Array], float_inputs: Iterator[Array], positions: int, views: int
) -> tuple[Moments, Moments]:
    """Moments of what the layer multiplies and of what its outputs lack: to fit by, and to check by.

    Views of one sample, so many after each other, are on the same side."""
    shape = layer.weight.array.shape
    float_weights = layer.stacked(layer.origin.array).astype(np.float32)
    groups, size, outputs = float_weights.shape
    moments = Moments(groups, size, outputs), Moments(groups, size, outputs)
    for sample, (x, f) in enumerate(zip(inputs, float_inputs, strict=True)):
        x, f = (rows(layer.node, shape, array, positions, sample) for array in (x, f))
        moments[sample // views % CHECK == 1].add(x, (f - x) @ float_weights)
    return moments


def _wanted(layer: Layer, fit: Moments, check: Moments | None) -> Array:
    wanted = layer.stacked(layer.origin.array).astype(np.float64)
    return (
        wanted
        if check is None or not check.count
        else wanted + correction(fit, check, _is_centred(layer))
    )


def _is_centred(layer: Layer) -> bool:
    """Whether the bias takes up what is off on average, so that only what varies is left to the weights."""
    return layer.node.op_type != "MatMul"


def _round(
    layer: Layer, wanted: Array, moments: Moments, damping: float, rescale: bool
) -> qdq.QuantizedWeight:
    quantized = layer.weight.quantized
    assert quantized is not None
    hessian, _ = moments.second(_is_centred(layer))
    hessian += damping * mean_variance(hessian) * np.eye(hessian.shape[-1])
    scale, zero_point = (
        layer.stacked(along_axis(parameter, quantized.codes.ndim, quantized.axis)).astype(
            np.float64
        )
        for parameter in (quantized.scale, quantized.zero_point)
    )
    fit: Fit = "none"
    if quantized.axis in (None, layer.weight.channel_axis):
        scale = scale[:, :1]
        zero_point = zero_point[:, :1]
        fit = ("tensor" if quantized.axis is None else "output") if rescale else "none"
    book = quantized.codebook
    if fit != "none" and book.name == "uniform" and book.bits < 8:
        book = full_range(book.bits)
    codes, scale = rounded(wanted, Grid(book, scale, zero_point), Hessian(hessian), fit)
    if fit != "none":
        kept = scale.reshape(-1) if fit == "output" else scale.reshape(-1)[0]
        quantized = replace(quantized, codebook=book, scale=np.asarray(kept, np.float32))
    return replace(quantized, codes=layer.unstacked(codes).astype(quantized.codes.dtype))


def _shift_bias(
    model: ir.Model, layer: Layer, quantized: qdq.QuantizedWeight, mean: tuple[Array, Array]
) -> None:
    """Put what a layer's outputs lack on average into its bias, by the means of its rows [G, K] and of their lack."""
    row, lack = mean
    change = layer.stacked(layer.origin.array) - layer.stacked(quantized.dequantize()).astype(
        np.float64
    )
    bias = qdq.bias(layer.source)
    shift = lack + np.einsum("gko,gk->go", change, row)
    qdq.set_bias(model, layer.node, (0 if bias is None else bias) + shift.reshape(-1))

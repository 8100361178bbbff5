"""GPTQ: codes chosen anew, one input at a time, each making up for the rounding of those before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import along_axis
from qpipe.quant.codebook import Codebook
from qpipe.quant.graph import is_plain
from qpipe.quant.inference import inferences, session
from qpipe.samples import Samples
from qpipe.types import Array, Progress

BLOCK = 128  # inputs after which what is left of the weights is brought up to date


@dataclass
class Moments:
    """What a layer's inputs were, by group of channels: a sum [G, K], products summed [G, K, K], and how many."""

    total: Array
    products: Array
    count: int = 0

    def add(self, rows: Array) -> None:
        """Take in inputs [G, N, K]."""
        self.total += rows.sum(axis=1, dtype=np.float64)
        self.products += np.matmul(rows.transpose(0, 2, 1), rows)
        self.count += rows.shape[1]

    @property
    def mean(self) -> Array:
        return self.total / self.count

    @property
    def covariance(self) -> Array:
        result: Array = self.products / self.count - np.einsum("gi,gj->gij", self.mean, self.mean)
        return result


def gptq(
    model: ir.Model,
    float_model: ir.Model,
    calibration_samples: Samples,
    progress: Progress,
    *,
    samples: int = 64,
    positions: int = 64,
    damping: float = 0.01,
) -> ir.Model:
    """Choose the codes of quantized weights anew, so that each layer's output changes least; any codebook, any bits.

    Takes seconds to minutes, and memory for the square of the largest layer's inputs: `samples` inferences, of which
    `positions` places of each feature map are kept. Scales stay as they are; biases take up what is left on average.
    Put it after a stage that quantizes weights. `damping` is a part of the mean variance, against overfitting.
    Method: Frantar et al. 2022 (arXiv 2210.17323), on the inputs' covariance, by float inputs.
    """
    found = qdq.origins(model, float_model, "quantize gptq")
    pairs = {origin: weight for weight, origin in found if weight.kind != "matmul" and all(map(is_plain, origin.nodes))}
    if not pairs:
        raise StageError(
            "quantize gptq: no quantized weight is one it can round anew; it takes those of Conv and of Gemm without "
            "alpha, beta, transA or a computed bias"
        )
    moments = _observe(float_model, list(pairs), calibration_samples, samples, positions, progress)
    for done, (origin, weight) in enumerate(pairs.items()):
        progress(done, len(pairs), "layers")
        if origin in moments and weight.quantized is not None:
            _reround(model, origin, weight, weight.quantized, moments[origin], damping)
    return model


def _observe(
    model: ir.Model, weights: list[qdq.Weight], data: Samples, count: int, positions: int, progress: Progress
) -> Mapping[qdq.Weight, Moments]:
    sources = {weight: weight.node.inputs[0] for weight in weights}
    fed = {value.name for value in model.graph.inputs}
    names = {value.name for value in sources.values() if value is not None and value.name}
    running = session(model, sorted(names - fed))
    moments: dict[qdq.Weight, Moments] = {}
    for index, arrays in enumerate(inferences(running, data, count)):
        arrays |= data.feeds(index, sorted(names & fed)) if names & fed else {}
        for weight, value in sources.items():
            rows = None if value is None else _rows(weight, arrays[value.name or ""], positions)
            if rows is not None:
                groups, _, size = rows.shape
                empty = Moments(np.zeros((groups, size)), np.zeros((groups, size, size), np.float32))
                moments.setdefault(weight, empty).add(rows)
        progress(index + 1, min(count, len(data)), "samples")
    return moments


def _rows(weight: qdq.Weight, x: Array, positions: int) -> Array | None:
    """What a layer's weights multiply, [G, N, K], at evenly spread positions; None where padding is implied."""
    if weight.kind == "gemm":
        return x[np.newaxis]
    node, (_, size, *kernel) = weight.node, weight.array.shape
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    axes = len(kernel)
    pads = node.attributes.get_ints("pads", [0] * 2 * axes)
    strides, dilations = (node.attributes.get_ints(name, [1] * axes) for name in ("strides", "dilations"))
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + axes)))
    steps = [1, 1, *strides, *dilations]
    windows = windows[tuple(slice(None, None, step) for step in steps)]
    places = np.stack(np.unravel_index(_spread(windows.shape[2 : 2 + axes], positions), windows.shape[2 : 2 + axes]))
    picked = windows[(slice(None), slice(None), *places)]  # [batch, C, N, *kernel]
    groups = x.shape[1] // size
    picked = picked.reshape(len(x), groups, size, places.shape[1], -1)
    return np.ascontiguousarray(picked.transpose(1, 0, 3, 2, 4).reshape(groups, len(x) * places.shape[1], -1))


def _spread(shape: tuple[int, ...], positions: int) -> Array:
    count = int(np.prod(shape))
    return np.unique(np.linspace(0, count - 1, min(positions, count)).round().astype(np.int64))


def _reround(
    model: ir.Model,
    origin: qdq.Weight,
    weight: qdq.Weight,
    quantized: qdq.QuantizedWeight,
    moments: Moments,
    damping: float,
) -> None:
    def matrix(array: Array) -> Array:  # [G, outputs of a group, K]
        whole = np.broadcast_to(array, quantized.codes.shape)
        return np.moveaxis(whole, weight.channel_axis, 0).reshape(len(moments.total), -1, moments.total.shape[1])

    parameters = (along_axis(p, quantized.codes.ndim, quantized.axis) for p in (quantized.scale, quantized.zero_point))
    target, scales, zero_points = matrix(origin.array), *(matrix(parameter) for parameter in parameters)
    codes = np.stack([
        _round(quantized.codebook, *each, damping)
        for each in zip(target, scales, zero_points, moments.covariance, strict=True)
    ])  # fmt: skip
    first = np.moveaxis(quantized.codes, weight.channel_axis, 0).shape
    chosen = replace(quantized, codes=np.moveaxis(codes.reshape(first), 0, weight.channel_axis).copy())
    shift = np.einsum("gok,gk->go", matrix(chosen.dequantize()) - target, moments.mean).ravel()
    qdq.quantize_weight(model, weight, chosen)
    for node, source in zip(weight.nodes, origin.nodes, strict=True):
        bias = qdq.bias(source)
        qdq.set_bias(model, node, (0 if bias is None else bias) - shift)


def _round(book: Codebook, target: Array, scale: Array, zero_point: Array, covariance: Array, damping: float) -> Array:
    """Codes [O, K]; the inputs that vary most are rounded first, the others make up for them."""
    order = np.argsort(-np.diag(covariance), kind="stable")
    variance = covariance[np.ix_(order, order)].astype(np.float64)
    floor = damping * float(np.mean(np.diag(variance))) or 1.0
    upper = np.linalg.cholesky(np.linalg.inv(variance + floor * np.eye(len(order)))).T
    left, codes = target[:, order].astype(np.float64), np.zeros(target.shape, np.int8)
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = np.zeros((len(left), stop - start))
        for j in range(start, stop):
            column = order[j]
            code = qdq.encode(book, left[:, j], scale[:, column], zero_point[:, column], axis=0)
            restored = (code.astype(np.float64) - zero_point[:, column]) * scale[:, column]
            errors[:, j - start] = (left[:, j] - restored) / upper[j, j]
            left[:, j + 1 : stop] -= np.outer(errors[:, j - start], upper[j, j + 1 : stop])
            codes[:, column] = code
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes

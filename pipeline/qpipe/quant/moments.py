"""What a layer multiplies by its weights, its moments, and the change of weights that these ask for.

Rows are stacks of groups, [G, N, K]: at N places of its output, the K inputs that an output channel of a group sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qpipe.types import Array

PRECISION = 1e-6
PHASE = 0.6180339887498949  # of the golden ratio: samples look at different places, evenly spread
RIDGES = (
    np.inf,
    *(10.0 ** (k / 2) for k in range(6, -7, -1)),
)  # parts of the mean variance; infinite: no change


class Moments:
    """Sums over rows [G, N, K], over what the layer's outputs lack at the same places [G, N, O], and of their products:
    rows times rows, and rows times lacks; for each of G groups."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.count = 0
        self.row = np.zeros((groups, inputs))
        self.lack = np.zeros((groups, outputs))
        self.products = np.zeros((groups, inputs, inputs), np.float32)
        self.lacks = np.zeros((groups, inputs, outputs), np.float32)

    def add(self, rows: Array, lack: Array) -> None:
        """Take in more of them."""
        self.count += rows.shape[1]
        self.row += rows.sum(axis=1)
        self.lack += lack.sum(axis=1)
        turned = rows.transpose(0, 2, 1)
        self.products += turned @ rows
        self.lacks += turned @ lack

    @property
    def mean(self) -> tuple[Array, Array]:
        """Of rows [G, K] and of what outputs lack [G, O]."""
        return self.row / self.count, self.lack / self.count

    def __add__(self, other: Moments) -> Moments:
        groups, inputs, outputs = self.lacks.shape
        both = Moments(groups, inputs, outputs)
        both.count = self.count + other.count
        both.row = self.row + other.row
        both.lack = self.lack + other.lack
        both.products = self.products + other.products
        both.lacks = self.lacks + other.lacks
        return both

    def second(self, centred: bool) -> tuple[Array, Array]:
        """Mean products of rows with rows [G, K, K] and with lacks [G, K, O]; where `centred`, around their means.

        Positive definite: the diagonal has what sums in float32 are not sure of besides.
        """
        hessian = self.products.astype(np.float64) / self.count
        lack = self.lacks.astype(np.float64) / self.count
        floor = PRECISION * mean_variance(hessian) * np.eye(hessian.shape[-1])
        if centred:
            row, missing = self.mean
            hessian -= row[:, :, np.newaxis] * row[:, np.newaxis, :]
            lack -= row[:, :, np.newaxis] * missing[:, np.newaxis, :]
        return hessian + floor, lack


def mean_variance(hessian: Array) -> Array:
    """The mean of the diagonal, [G, 1, 1]; 1 where that is nothing."""
    mean = np.trace(hessian, axis1=1, axis2=2) / hessian.shape[-1]
    return np.where(mean > 0, mean, 1.0)[:, np.newaxis, np.newaxis]


def correction(fit: Moments, check: Moments, centred: bool) -> Array:
    """The change of weights [G, K, O] that makes up best for what outputs lack: ridge regression on all of it, with
    the ridge that leaves least on `check` where `fit` alone is fitted to; zeros where none betters that."""
    ridge = _ridge(fit, check, centred)
    hessian, lack = (fit + check).second(centred)
    if np.isinf(ridge):
        return np.zeros_like(lack)
    change: Array = np.linalg.solve(
        hessian + ridge * mean_variance(hessian) * np.eye(hessian.shape[-1]), lack
    )
    return change


def _ridge(fit: Moments, check: Moments, centred: bool) -> float:
    """The best on `check` of the ridges, parts of the mean variance.

    With H = U diag(v) U^T and L what rows and lacks have in common, a ridge r changes weights by U diag(1 / (v + r))
    U^T L. What that leaves is quadratic in the vector 1 / (v + r): one decomposition serves all ridges.
    """
    (hessian, lack) = fit.second(centred)
    (checked, still) = check.second(centred)
    values, vectors = (
        part.astype(np.float64) for part in np.linalg.eigh(hessian.astype(np.float32))
    )
    turned = vectors.transpose(0, 2, 1)
    values = values.clip(0)
    unit = mean_variance(hessian)[:, :, 0]
    common = turned @ lack
    square = (common @ common.transpose(0, 2, 1)) * (turned @ checked @ vectors)
    linear = np.sum(common * (turned @ still), axis=-1)

    def left(ridge: float) -> float:
        inverse = 1 / (values + ridge * unit)
        return float(
            np.einsum("gi,gi->", inverse, (square @ inverse[..., np.newaxis])[..., 0] - 2 * linear)
        )

    best: float = min(RIDGES, key=left)
    return best


# ---- rows


def spread(count: int, places: int, sample: int) -> Array:
    """So many places out of `count`, evenly spread, others for the next sample."""
    if count <= places:
        return np.arange(count)
    return ((np.arange(places) + sample * PHASE % 1) * (count / places)).astype(np.int64)


def rows(layer: ir.Node, shape: Sequence[int], x: Array, places: int, sample: int) -> Array:
    """What a Conv, Gemm or MatMul with weights of this shape multiplies by them, [G, N, K], at some places."""
    if layer.op_type != "Conv":
        flat = x.reshape(1, -1, x.shape[-1])
        return flat[:, spread(flat.shape[1], places, sample)]
    where, inside = _where(layer, x.shape[2:], shape[2:], places, sample)
    picked = x[0].reshape(x.shape[1], -1)[:, where.reshape(-1)]  # [C, N * kernel]
    if not inside.all():
        picked[:, ~inside.reshape(-1)] = 0
    groups = x.shape[1] // shape[1]
    count = len(where)
    turned = picked.reshape(groups, shape[1], count, -1).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(turned).reshape(groups, count, -1)


def _where(
    layer: ir.Node, sizes: Sequence[int], kernel: Sequence[int], places: int, sample: int
) -> tuple[Array, Array]:
    """What some outputs of a convolution see of its feature maps laid flat, [N, kernel], and which of it is no padding;
    so nothing else of the maps is touched."""
    strides, dilations = (
        layer.attributes.get_ints(name, [1] * len(sizes)) for name in ("strides", "dilations")
    )
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(layer, sizes, spans, strides)
    each = zip(sizes, pads, spans, strides, strict=True)
    output = [(size + sum(pad) - span) // step + 1 for size, pad, span, step in each]
    chosen = spread(int(np.prod(output)), places, sample)
    if max(kernel) == 1 and output == list(sizes) and not any(map(any, pads)):
        return chosen[:, np.newaxis], np.ones(
            (len(chosen), 1), np.bool_
        )  # each output sees its own place
    index = np.unravel_index(chosen, output)
    flat = np.zeros((len(index[0]), 1), np.int64)
    inside = np.ones((len(index[0]), 1), np.bool_)
    for axis, size in enumerate(sizes):
        steps = np.arange(kernel[axis]) * dilations[axis] - pads[axis][0]
        at = (index[axis] * strides[axis])[:, np.newaxis, np.newaxis] + steps  # [N, 1, k]
        flat = (flat[..., np.newaxis] * size + at.clip(0, size - 1)).reshape(len(at), -1)
        inside = (inside[..., np.newaxis] & (at >= 0) & (at < size)).reshape(len(at), -1)
    return flat, inside


def _pads(
    layer: ir.Node, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    automatic = layer.attributes.get_string("auto_pad", "NOTSET")
    axes = len(sizes)
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        each = zip(sizes, spans, strides, strict=True)
        totals = [max((-(-size // step) - 1) * step + span - size, 0) for size, span, step in each]
        pairs = [(total // 2, total - total // 2) for total in totals]
        return pairs if automatic == "SAME_UPPER" else [pair[::-1] for pair in pairs]
    pads = (
        layer.attributes.get_ints("pads", [0] * 2 * axes)
        if automatic == "NOTSET"
        else [0] * 2 * axes
    )
    return list(zip(pads[:axes], pads[axes:], strict=True))

"""Moments of what a layer multiplies by its weights, and weight corrections computed from them.

Rows are stacks of groups, [G, N, K]: at N places of a layer's output, the K inputs that an output
channel of a group sees. Residuals [G, N, O] are what the layer's O outputs of a group lack at the
same places, to be those of float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qpipe.types import Array

# relative precision of sums in float32
PRECISION = 1e-6
# of the golden ratio: samples look at different places, evenly spread
PHASE = 0.6180339887498949
# candidates, as factors of the mean variance; infinity means no correction
RIDGES = (np.inf, *(10.0 ** (k / 2) for k in range(6, -7, -1)))


class Moments:
    """Sums over rows [G, N, K], over residuals [G, N, O] and over their products, for G groups."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.count = 0
        self.row_sum = np.zeros((groups, inputs))
        self.residual_sum = np.zeros((groups, outputs))
        self.row_products = np.zeros((groups, inputs, inputs), np.float32)
        self.residual_products = np.zeros((groups, inputs, outputs), np.float32)

    def add(self, rows: Array, residuals: Array) -> None:
        """Add the rows [G, N, K] and residuals [G, N, O] of one more sample."""
        self.count += rows.shape[1]
        self.row_sum += rows.sum(axis=1)
        self.residual_sum += residuals.sum(axis=1)
        transposed = rows.transpose(0, 2, 1)
        self.row_products += transposed @ rows
        self.residual_products += transposed @ residuals

    @property
    def mean(self) -> tuple[Array, Array]:
        """The mean row [G, K] and the mean residual [G, O]."""
        return self.row_sum / self.count, self.residual_sum / self.count

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of samples."""
        groups, inputs, outputs = self.residual_products.shape
        total = Moments(groups, inputs, outputs)
        total.count = self.count + other.count
        total.row_sum = self.row_sum + other.row_sum
        total.residual_sum = self.residual_sum + other.residual_sum
        total.row_products = self.row_products + other.row_products
        total.residual_products = self.residual_products + other.residual_products
        return total

    def second(self, centred: bool) -> tuple[Array, Array]:
        """Return the mean products of rows with rows [G, K, K], and with residuals [G, K, O].

        With `centred` they are around the means. The first is positive definite: its diagonal has
        added what sums in float32 leave uncertain.
        """
        hessian = self.row_products.astype(np.float64) / self.count
        cross = self.residual_products.astype(np.float64) / self.count
        uncertainty = PRECISION * mean_variance(hessian) * np.eye(hessian.shape[-1])
        if centred:
            mean_row, mean_residual = self.mean
            hessian -= mean_row[:, :, np.newaxis] * mean_row[:, np.newaxis, :]
            cross -= mean_row[:, :, np.newaxis] * mean_residual[:, np.newaxis, :]
        return hessian + uncertainty, cross


def mean_variance(hessian: Array) -> Array:
    """Return the mean of the diagonal of each group, [G, 1, 1]; 1 where it is not positive."""
    mean = np.trace(hessian, axis1=1, axis2=2) / hessian.shape[-1]
    return np.where(mean > 0, mean, 1.0)[:, np.newaxis, np.newaxis]


def weight_correction(*, fit: Moments, check: Moments, centred: bool) -> Array:
    """Return the change of weights [G, K, O] that makes up for the residuals: ridge regression.

    It is fitted to all moments, with the ridge that leaves least on `check` where `fit` alone is
    fitted to; zeros where no ridge is better than no change.
    """
    ridge = _best_ridge(fit=fit, check=check, centred=centred)
    hessian, cross = (fit + check).second(centred)
    if np.isinf(ridge):
        return np.zeros_like(cross)
    damping = ridge * mean_variance(hessian) * np.eye(hessian.shape[-1])
    change: Array = np.linalg.solve(hessian + damping, cross)
    return change


def _best_ridge(*, fit: Moments, check: Moments, centred: bool) -> float:
    """Return the one of RIDGES that, fitted to `fit`, leaves least on `check`.

    With H = U diag(v) U^T and L the products of rows and residuals, a ridge r changes weights by U
    diag(1 / (v + r)) U^T L. What that leaves on `check` is quadratic in the vector 1 / (v + r): one
    decomposition serves all ridges.
    """
    fit_hessian, fit_cross = fit.second(centred)
    check_hessian, check_cross = check.second(centred)
    # float32 is precise enough to compare ridges
    decomposition = np.linalg.eigh(fit_hessian.astype(np.float32))
    eigenvalues = decomposition.eigenvalues.astype(np.float64).clip(0)
    eigenvectors = decomposition.eigenvectors.astype(np.float64)
    transposed = eigenvectors.transpose(0, 2, 1)
    unit = mean_variance(fit_hessian)[:, :, 0]
    projected = transposed @ fit_cross
    curvature = transposed @ check_hessian @ eigenvectors
    quadratic = (projected @ projected.transpose(0, 2, 1)) * curvature
    linear = np.sum(projected * (transposed @ check_cross), axis=-1)

    def loss(ridge: float) -> float:
        inverse = 1 / (eigenvalues + ridge * unit)
        gradient = (quadratic @ inverse[..., np.newaxis])[..., 0] - 2 * linear
        return float(np.einsum("gi,gi->", inverse, gradient))

    best: float = min(RIDGES, key=loss)
    return best


# ---- rows


def spread(count: int, *, places: int, sample: int) -> Array:
    """Return at most `places` indices out of `count`, evenly spread, other ones for each sample."""
    if count <= places:
        return np.arange(count)
    phase = sample * PHASE % 1
    return ((np.arange(places) + phase) * (count / places)).astype(np.int64)


def input_rows(
    layer: ir.Node, weight_shape: Sequence[int], x: Array, *, places: int, sample: int
) -> Array:
    """Return what a layer multiplies by its weights, [G, N, K], at some places of its output.

    Layers are Conv, Gemm and MatMul. `x` is its input for one sample: [1, C, ...] of a Conv,
    [..., K] of the others. `places` and `sample` as in `spread`.
    """
    if layer.op_type != "Conv":
        matrix = x.reshape(1, -1, x.shape[-1])
        return matrix[:, spread(matrix.shape[1], places=places, sample=sample)]
    channels = x.shape[1]
    geometry = _convolution(layer, sizes=x.shape[2:], kernel=weight_shape[2:])
    positions = spread(int(np.prod(geometry.output_sizes)), places=places, sample=sample)
    indices, is_inside = _receptive_fields(geometry, positions)
    values = x[0].reshape(channels, -1)[:, indices.reshape(-1)]  # [C, N * kernel]
    if not is_inside.all():
        values[:, ~is_inside.reshape(-1)] = 0
    group_channels = weight_shape[1]
    groups = channels // group_channels
    count = len(indices)
    stack = values.reshape(groups, group_channels, count, -1).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(stack).reshape(groups, count, -1)


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a convolution."""

    size: int
    kernel: int
    stride: int
    dilation: int
    pads: tuple[int, int]  # before and after

    @property
    def output_size(self) -> int:
        span = (self.kernel - 1) * self.dilation + 1
        return (self.size + sum(self.pads) - span) // self.stride + 1

    @property
    def is_pointwise(self) -> bool:
        """Whether each output sees its own place only."""
        return self.kernel == 1 and self.output_size == self.size and not any(self.pads)


@dataclass(frozen=True)
class _Convolution:
    """The spatial axes of a convolution."""

    axes: Sequence[_Axis]

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return tuple(axis.output_size for axis in self.axes)


def _convolution(layer: ir.Node, *, sizes: Sequence[int], kernel: Sequence[int]) -> _Convolution:
    """Return the axes of a Conv for an input and a weight of these spatial shapes.

    Source: the ONNX operator spec of Conv, attributes auto_pad, dilations, pads and strides.
    """
    count = len(sizes)
    strides = layer.attributes.get_ints("strides", [1] * count)
    dilations = layer.attributes.get_ints("dilations", [1] * count)
    pads = layer.attributes.get_ints("pads", [0] * 2 * count)
    auto_pad = layer.attributes.get_string("auto_pad", "NOTSET")
    axes = []
    for index in range(count):
        axis = _Axis(sizes[index], kernel[index], strides[index], dilations[index], (0, 0))
        if auto_pad == "NOTSET":
            axis = replace(axis, pads=(pads[index], pads[index + count]))
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            axis = replace(axis, pads=_same_pads(axis, auto_pad))
        axes.append(axis)
    return _Convolution(axes)


def _same_pads(axis: _Axis, auto_pad: str) -> tuple[int, int]:
    """Return the padding that makes the output ceil(size / stride) long."""
    outputs = -(-axis.size // axis.stride)
    span = (axis.kernel - 1) * axis.dilation + 1
    total = max((outputs - 1) * axis.stride + span - axis.size, 0)
    smaller = total // 2
    larger = total - smaller
    return (smaller, larger) if auto_pad == "SAME_UPPER" else (larger, smaller)


def _receptive_fields(convolution: _Convolution, positions: Array) -> tuple[Array, Array]:
    """Return the indices that some outputs of a convolution see, and which are not padding.

    `positions` [N] are those of the outputs, the indices [N, kernel] those of the inputs, each in
    feature maps laid flat. The rest of the maps need not be touched.
    """
    count = len(positions)
    if all(axis.is_pointwise for axis in convolution.axes):
        return positions[:, np.newaxis], np.ones((count, 1), np.bool_)
    coordinates = np.unravel_index(positions, convolution.output_sizes)
    indices = np.zeros((count, 1), np.int64)
    is_inside = np.ones((count, 1), np.bool_)
    for axis, coordinate in zip(convolution.axes, coordinates, strict=True):
        offsets = np.arange(axis.kernel) * axis.dilation - axis.pads[0]
        starts = coordinate * axis.stride
        seen = starts[:, np.newaxis, np.newaxis] + offsets  # [N, 1, kernel of this axis]
        inside_axis = (seen >= 0) & (seen < axis.size)
        seen = seen.clip(0, axis.size - 1)
        indices = (indices[..., np.newaxis] * axis.size + seen).reshape(count, -1)
        is_inside = (is_inside[..., np.newaxis] & inside_axis).reshape(count, -1)
    return indices, is_inside

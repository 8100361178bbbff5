"""Layers: convolutions, products of matrices, pooling, normalization."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from qpipe.quant.in_torch.operator_table import Operation, Tensor, torch_operator

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@torch_operator("Conv")
def conv(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve over one to three axes."""
    axes = x.ndim - 2
    strides = operation.integers("strides") or [1] * axes
    dilations = operation.integers("dilations") or [1] * axes
    before, after = padding(operation, x.shape[2:], weight.shape[2:], strides, dilations)
    if before != after:
        x = functional.pad(x, _pad_list(before, after))
        before = [0] * axes
    return CONVOLUTIONS[axes](
        x, weight, bias, strides, before, dilations, operation.integer("group", 1)
    )


@torch_operator("ConvTranspose")
def conv_transpose(
    operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Transposed convolution over one to three axes."""
    axes = x.ndim - 2
    strides = operation.integers("strides") or [1] * axes
    dilations = operation.integers("dilations") or [1] * axes
    output_padding = operation.integers("output_padding") or [0] * axes
    result = TRANSPOSED[axes](
        x, weight, bias, strides, 0, 0, operation.integer("group", 1), dilations
    )
    if operation.integers("output_shape") or operation.text("auto_pad").startswith("SAME"):
        raise NotImplementedError("ConvTranspose with an output shape or automatic padding")
    pads = operation.integers("pads") or [0] * 2 * axes
    ends = [extra - pad for extra, pad in zip(output_padding, pads[axes:], strict=True)]
    return functional.pad(result, _pad_list([-pad for pad in pads[:axes]], ends))


def padding(
    operation: Operation,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each axis, as `pads` or `auto_pad` say."""
    axes = len(kernel)
    automatic = operation.text("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        pads = operation.integers("pads") if automatic == "NOTSET" else None
        pads = pads or [0] * 2 * axes
        return pads[:axes], pads[axes:]
    before = []
    after = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        covered = (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1
        total = max(covered - size, 0)
        small = total // 2
        large = total - small
        before.append(small if automatic == "SAME_UPPER" else large)
        after.append(large if automatic == "SAME_UPPER" else small)
    return before, after


def _pad_list(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return padding as torch takes it: the last axis first, before and after in turn."""
    pads: list[int] = []
    for start, end in zip(reversed(before), reversed(after), strict=True):
        pads += [start, end]
    return pads


# ---- products of matrices


@torch_operator("MatMul")
def matmul(_operation: Operation, x: Tensor, y: Tensor) -> Tensor:
    """Multiply matrices; leading axes broadcast."""
    return torch.matmul(x, y)


@torch_operator("Gemm")
def gemm(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply matrices that may be transposed and scaled, and add a third."""
    left = x.t() if operation.integer("transA") else x
    right = weight.t() if operation.integer("transB") else weight
    alpha = operation.number("alpha", 1.0)
    product = left @ right
    if alpha != 1.0:
        product = product * alpha
    if bias is None:
        return product
    beta = operation.number("beta", 1.0)
    return product + (bias if beta == 1.0 else bias * beta)


# ---- pooling


@torch_operator("MaxPool")
def max_pool(operation: Operation, x: Tensor) -> Tensor:
    """Take the largest value of each window."""
    kernel = operation.integers("kernel_shape") or []
    axes = len(kernel)
    strides = operation.integers("strides") or [1] * axes
    dilations = operation.integers("dilations") or [1] * axes
    before, after = padding(operation, x.shape[2:], kernel, strides, dilations)
    if any([*before, *after]):
        if not x.is_floating_point():
            raise NotImplementedError("MaxPool of integers with padding")
        x = functional.pad(x, _pad_list(before, after), value=-torch.inf)
    ceil = bool(operation.integer("ceil_mode"))
    return MAX_POOLS[axes](x, kernel, strides, 0, dilations, ceil)


@torch_operator("AveragePool")
def average_pool(operation: Operation, x: Tensor) -> Tensor:
    """Take the mean of each window; padding counts where `count_include_pad` says so."""
    kernel = operation.integers("kernel_shape") or []
    axes = len(kernel)
    strides = operation.integers("strides") or [1] * axes
    if max(operation.integers("dilations") or [1]) > 1 or operation.integer("ceil_mode"):
        raise NotImplementedError("AveragePool with dilations or ceil_mode")
    before, after = padding(operation, x.shape[2:], kernel, strides, [1] * axes)
    if not any([*before, *after]):
        return AVERAGE_POOLS[axes](x, kernel, strides)
    pads = _pad_list(before, after)
    sums = AVERAGE_POOLS[axes](functional.pad(x, pads), kernel, strides)
    if operation.integer("count_include_pad"):
        return sums
    inside = functional.pad(torch.ones_like(x[:1, :1]), pads)
    return sums / AVERAGE_POOLS[axes](inside, kernel, strides)


@torch_operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(operation: Operation, x: Tensor) -> Tensor:
    """Reduce all axes behind the channels."""
    axes = list(range(2, x.ndim))
    if operation.node.op_type == "GlobalMaxPool":
        return x.amax(axes, keepdim=True)
    return x.mean(axes, keepdim=True)


# ---- normalization


@torch_operator("BatchNormalization")
def batch_normalization(
    operation: Operation, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """Normalize by stored statistics."""
    if operation.integer("training_mode"):
        raise NotImplementedError("BatchNormalization in training mode")
    epsilon = operation.number("epsilon", 1e-5)
    return functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


@torch_operator("LayerNormalization")
def layer_normalization(
    operation: Operation, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Normalize over the axes from `axis` on."""
    axis = operation.integer("axis", -1) % x.ndim
    normalized = functional.layer_norm(
        x, list(x.shape[axis:]), eps=operation.number("epsilon", 1e-5)
    )
    scaled = normalized * scale
    return scaled if bias is None else scaled + bias


@torch_operator("InstanceNormalization")
def instance_normalization(operation: Operation, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalize each channel of each sample."""
    epsilon = operation.number("epsilon", 1e-5)
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)

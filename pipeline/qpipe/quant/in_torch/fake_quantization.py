"""Rounding to the values that integers can take, with gradients that pass through it.

The straight-through estimator (Bengio et al. 2013, arXiv 1308.3432): the gradient of rounding is
that of the identity, and zero where values saturate. That of a scale is the one of LSQ (Esser et
al. 2020, arXiv 1902.08153).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qpipe.quant.in_torch.operator_table import Operation, Tensor, torch_operator

# of a QuantizeLinear without zero point
DEFAULT_RANGE = (0, 255)


class _FakeQuantize(torch.autograd.Function):
    """Quantize and dequantize with one scale; steps are codes less the zero point."""

    @staticmethod
    def forward(context: Any, x: Tensor, scale: Tensor, lowest: float, highest: float) -> Tensor:
        result = x.div(scale).round_().clamp_(lowest, highest).mul_(scale)
        context.save_for_backward(x, result, scale)
        context.limits = (lowest * scale.item(), highest * scale.item())
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, result, scale = context.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, x, *context.limits)
        scale_gradient = None
        if context.needs_input_grad[1]:
            # inside the range it is what rounding changes, outside it is the end of the range
            of_result = _sum_of_products(gradient, result)
            of_inside = _sum_of_products(inside, x)
            scale_gradient = (of_result - of_inside) / scale
        return inside, scale_gradient, None, None


def _sum_of_products(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of x * y, in one pass over memory where both have the same layout."""
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return torch.dot(x.permute(order).reshape(-1), y.permute(order).reshape(-1))


def fake_quantize(x: Tensor, scale: Tensor, lowest: float, highest: float) -> Tensor:
    """Return `x` rounded to multiples of a scale, from `lowest` of them to `highest`."""
    return _FakeQuantize.apply(x, scale, lowest, highest)


class _Straight(torch.autograd.Function):
    """A result in place of its input; the gradient passes as if it were the input."""

    @staticmethod
    def forward(_context: Any, _x: Tensor, result: Tensor) -> Tensor:
        return result.clone()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Any, ...]:
        return gradient, None


def straight_through(x: Tensor, result: Tensor) -> Tensor:
    """Return `result` with the gradient of `x`."""
    return _Straight.apply(x, result)


# ---- the operators themselves, where nothing of them is learned


@torch_operator("QuantizeLinear")
def quantize_linear(
    operation: Operation, x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    """Return codes, as floats."""
    low, high = _integer_range(operation, zero_point)
    offsets = 0.0 if zero_point is None else _along_axis(operation, x, zero_point.to(x.dtype))
    steps = x / _along_axis(operation, x, scale)
    low_step = low - offsets
    high_step = high - offsets
    rounded = torch.clamp(steps.round() + offsets, low, high)
    inside = torch.clamp(steps, torch.as_tensor(low_step), torch.as_tensor(high_step)) + offsets
    return inside + (rounded - inside).detach()


@torch_operator("DequantizeLinear")
def dequantize_linear(
    operation: Operation, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    """Return the floats that codes stand for."""
    steps = codes.to(scale.dtype)
    if zero_point is not None:
        steps = steps - _along_axis(operation, steps, zero_point.to(scale.dtype))
    return steps * _along_axis(operation, steps, scale)


def _along_axis(operation: Operation, x: Tensor, parameter: Tensor) -> Tensor:
    """Return a parameter shaped to broadcast: per-tensor, along an axis, or by blocks of it."""
    axis = operation.integer("axis", 1)
    block = operation.integer("block_size")
    if parameter.numel() == 1:
        return parameter.reshape(())
    if block:
        repeated = parameter.repeat_interleave(block, axis)
        return repeated.narrow(axis, 0, x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _integer_range(operation: Operation, zero_point: Tensor | None) -> Sequence[int]:
    """Return the lowest and the highest code, as the type of the zero point says."""
    value = operation.node.inputs[2] if zero_point is not None else operation.node.outputs[0]
    if value is None or value.dtype is None or value.dtype.is_floating_point():
        return DEFAULT_RANGE
    if value.dtype.bitwidth >= 8:
        limits = np.iinfo(value.dtype.numpy())
        return int(limits.min), int(limits.max)
    size = 2**value.dtype.bitwidth
    return (-size // 2, size // 2 - 1) if value.dtype.is_signed() else (0, size - 1)

"""Operators that compute each element by itself, or reduce axes."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from qpipe.quant.in_torch.operator_table import OPERATORS, Operation, Tensor, torch_operator

UNARY = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Erf": torch.erf,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Mish": functional.mish,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
BINARY = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Equal": torch.eq,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}


def _ignoring_operation(function: Any) -> Any:
    def apply(_operation: Operation, *inputs: Tensor) -> Tensor:
        return function(*inputs)

    return apply


for _name, _function in (UNARY | BINARY).items():
    OPERATORS["", _name] = _ignoring_operation(_function)


@torch_operator("Identity")
def identity(_operation: Operation, x: Tensor) -> Tensor:
    """Return the input."""
    return x


@torch_operator("Dropout")
def dropout(
    _operation: Operation, x: Tensor, _ratio: Tensor | None = None, training: Tensor | None = None
) -> Tensor:
    """Return the input, as in inference."""
    if training is not None and training.item():
        raise NotImplementedError("Dropout in training mode")
    return x


@torch_operator("Div")
def div(_operation: Operation, x: Tensor, y: Tensor) -> Tensor:
    """Divide; integers toward zero."""
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


@torch_operator("Pow")
def power(_operation: Operation, x: Tensor, exponent: Tensor) -> Tensor:
    """Raise to a power; the result has the type of the base."""
    return torch.pow(x, exponent).to(x.dtype)


@torch_operator("Min", "Max", "Sum", "Mean")
def combine(operation: Operation, *inputs: Tensor) -> Tensor:
    """Combine any number of tensors element by element."""
    result = inputs[0]
    function = {"Min": torch.minimum, "Max": torch.maximum}.get(operation.node.op_type, torch.add)
    for other in inputs[1:]:
        result = function(result, other)
    return result / len(inputs) if operation.node.op_type == "Mean" else result


@torch_operator("Where")
def where(_operation: Operation, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose element by element."""
    return torch.where(condition, x, y)


@torch_operator("Clip")
def clip(
    operation: Operation, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    """Clamp between two limits, each of which may be left out."""
    if operation.opset < 11:
        limits = operation.node.attributes
        return x.clamp(limits.get_float("min"), limits.get_float("max"))
    low_number = None if low is None else low.item()
    high_number = None if high is None else high.item()
    if low_number is None and high_number is None:
        return x
    return x.clamp(low_number, high_number)


@torch_operator("LeakyRelu")
def leaky_relu(operation: Operation, x: Tensor) -> Tensor:
    """Scale what is negative."""
    return functional.leaky_relu(x, operation.number("alpha", 0.01))


@torch_operator("PRelu")
def prelu(_operation: Operation, x: Tensor, slope: Tensor) -> Tensor:
    """Scale what is negative by a learned slope, which broadcasts."""
    return torch.where(x < 0, x * slope, x)


@torch_operator("Elu")
def elu(operation: Operation, x: Tensor) -> Tensor:
    """Exponential linear unit."""
    return functional.elu(x, operation.number("alpha", 1.0))


@torch_operator("HardSigmoid")
def hard_sigmoid(operation: Operation, x: Tensor) -> Tensor:
    """Clip a line between 0 and 1."""
    return (x * operation.number("alpha", 0.2) + operation.number("beta", 0.5)).clamp(0, 1)


@torch_operator("HardSwish")
def hard_swish(_operation: Operation, x: Tensor) -> Tensor:
    """Multiply by the hard sigmoid of slope 1/6."""
    return x * (x * (1 / 6) + 0.5).clamp(0, 1)


@torch_operator("Gelu")
def gelu(operation: Operation, x: Tensor) -> Tensor:
    """Gaussian error linear unit, exact or by tanh."""
    return functional.gelu(x, approximate=operation.text("approximate", "none"))


@torch_operator("Softmax", "LogSoftmax")
def softmax(operation: Operation, x: Tensor) -> Tensor:
    """Normalize exponentials along an axis; before opset 13, along all from that axis on."""
    function = torch.softmax if operation.node.op_type == "Softmax" else torch.log_softmax
    if operation.opset >= 13:
        return function(x, operation.integer("axis", -1))
    return function(x.flatten(operation.integer("axis", 1)), -1).reshape(x.shape)


@torch_operator("Cast")
def cast(operation: Operation, x: Tensor) -> Tensor:
    """Convert the type of the elements."""
    return x.to(torch_type(operation.integer("to")))


@torch_operator("CastLike")
def cast_like(_operation: Operation, x: Tensor, other: Tensor) -> Tensor:
    """Convert to the type of another tensor."""
    return x.to(other.dtype)


def torch_type(data_type: int) -> Any:
    """Return torch's type for a number of ONNX's TensorProto.DataType."""
    import onnx_ir as ir

    array = ir.DataType(data_type).numpy()
    return getattr(torch, {"bool": "bool"}.get(array.name, array.name))


# ---- reductions


@torch_operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd")
def reduce(operation: Operation, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Reduce axes, by default all; they are an attribute or, in newer opsets, an input."""
    axis_numbers = operation.integers("axes") if axes is None else axes.tolist()
    if not axis_numbers:
        if operation.integer("noop_with_empty_axes"):
            return x
        axis_numbers = list(range(x.ndim))
    keeps = bool(operation.integer("keepdims", 1))
    name = operation.node.op_type
    if name == "ReduceMean":
        return x.mean(axis_numbers, keepdim=keeps)
    if name == "ReduceSum":
        return x.sum(axis_numbers, keepdim=keeps)
    if name == "ReduceL2":
        return x.square().sum(axis_numbers, keepdim=keeps).sqrt()
    if name == "ReduceProd":
        return _product(x, axis_numbers, keeps)
    return (x.amax if name == "ReduceMax" else x.amin)(axis_numbers, keepdim=keeps)


def _product(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keeps)
    return x


@torch_operator("ArgMax", "ArgMin")
def arg_extreme(operation: Operation, x: Tensor) -> Tensor:
    """Return the index of the extreme along an axis."""
    if operation.integer("select_last_index"):
        raise NotImplementedError(f"{operation.node.op_type} of the last index")
    function = torch.argmax if operation.node.op_type == "ArgMax" else torch.argmin
    return function(x, operation.integer("axis"), keepdim=bool(operation.integer("keepdims", 1)))

"""Hard swish and hard sigmoid as exporters write them.

Hard swish is x * clip(x + 3, 0, 6) / 6, or x * HardSigmoid(x); hard sigmoid clip(x + 3, 0, 6) / 6,
or clip(0.2 x + 0.5, 0, 1), or with other numbers.

Howard et al. 2019 (MobileNetV3, arXiv 1905.02244); HardSwish in the ONNX operator specification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from qpipe.quant.graph import constant, only_reader
from qpipe_plugins.models.operands import split_constant

SLOPE = 1 / 6
TOLERANCE = 1e-5  # relative, of constants that exporters round


@dataclass(frozen=True)
class Product:
    """A product of tensors and one constant factor."""

    factor: float
    values: list[ir.Value]


@dataclass(frozen=True)
class HardSigmoid:
    """What a HardSigmoid computes: clip(slope * value + offset, 0, 1)."""

    value: ir.Value
    slope: float
    offset: float


def hard_sigmoid(node: ir.Node) -> HardSigmoid | None:
    """Return the hard sigmoid that a node is the last operator of; None for all other nodes."""
    if node.op_type not in ("Clip", "Mul", "Div"):
        return None
    product = _product(node.outputs[0])
    clip = product.values[0].producer()
    if len(product.values) != 1 or clip is None or clip.op_type != "Clip":
        return None
    bounds = _clip_bounds(clip)
    is_unit = len(bounds) == 2 and bounds[0] == 0
    if not is_unit or not math.isclose(bounds[1] * product.factor, 1, rel_tol=TOLERANCE):
        return None
    addition = clip.inputs[0].producer() if clip.inputs[0] is not None else None
    if addition is None or addition.op_type != "Add" or only_reader(addition.outputs[0]) is None:
        return None
    pair = split_constant(addition)
    if pair is None or pair.array.size != 1:
        return None
    inner = _inner_product(pair.value)
    if len(inner.values) != 1:
        inner = Product(1.0, [pair.value])
    offset = float(pair.array.reshape(())) * product.factor
    return HardSigmoid(inner.values[0], inner.factor * product.factor, offset)


def hard_swish_input(node: ir.Node) -> ir.Value | None:
    """Return x where a node computes hard swish of x; None for all other nodes.

    The factors may be multiplied in any order.
    """
    if node.op_type not in ("Mul", "Div"):
        return None
    product = _product(node.outputs[0])
    if len(product.values) != 2:
        return None
    first, second = product.values
    for value, gate in ((first, second), (second, first)):
        if value is not gate and _is_gate(gate, value, product.factor):
            return value
    return None


def _product(value: ir.Value) -> Product:
    """Return a tensor as the product that it is, through nested Mul and Div."""
    opaque = Product(1.0, [value])
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div"):
        return opaque
    is_division = node.op_type == "Div"
    pair = split_constant(node)
    if pair is None:
        return opaque if is_division else _product_of_inputs(node)
    is_reciprocal = is_division and pair.value is not node.inputs[0]
    if pair.array.size != 1 or is_reciprocal:
        return opaque
    inner = _inner_product(pair.value)
    number = float(pair.array.reshape(()))
    if is_division and number:
        return Product(inner.factor / number, inner.values)
    return Product(inner.factor * number, inner.values)


def _product_of_inputs(node: ir.Node) -> Product:
    products = [_inner_product(value) for value in node.inputs if value is not None]
    values: list[ir.Value] = []
    for product in products:
        values += product.values
    return Product(math.prod(product.factor for product in products), values)


def _inner_product(value: ir.Value) -> Product:
    """Return a tensor as the product that it is, unless something else reads it too."""
    if only_reader(value) is None:
        return Product(1.0, [value])
    return _product(value)


def _is_gate(gate: ir.Value, value: ir.Value, factor: float) -> bool:
    """Return whether a tensor, times a factor, is the hard sigmoid of another one."""
    node = gate.producer()
    if node is None:
        return False
    if node.op_type == "HardSigmoid":
        slope = node.attributes.get_float("alpha", 0.2)
        offset = node.attributes.get_float("beta", 0.5)
        is_hard_sigmoid = math.isclose(slope, SLOPE, rel_tol=TOLERANCE) and offset == 0.5
        return node.inputs[0] is value and math.isclose(factor, 1) and is_hard_sigmoid
    if node.op_type == "Clip" and _clip_bounds(node) == [0, 6]:
        return math.isclose(factor, SLOPE, rel_tol=TOLERANCE) and _adds_three(node, value)
    return False


def _adds_three(clip: ir.Node, value: ir.Value) -> bool:
    """Return whether a Clip reads the tensor plus 3."""
    addition = clip.inputs[0].producer() if clip.inputs[0] is not None else None
    if addition is None or addition.op_type != "Add":
        return False
    pair = split_constant(addition)
    if pair is None or pair.value is not value or pair.array.size != 1:
        return False
    return float(pair.array.item()) == 3


def _clip_bounds(clip: ir.Node) -> list[float]:
    """Return those bounds that are constant."""
    arrays = [constant(value) for value in clip.inputs[1:]]
    return [float(array.reshape(())) for array in arrays if array is not None and array.size == 1]

"""Layers, and the chains of tensors between them that may share one factor per channel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import constant, is_plain, replace_constant
from qpipe.types import Array

# a positive factor per channel goes through these; Clip(0, b) too, as far as no value crosses b
HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
# these treat each channel by itself
CHANNELWISE = HOMOGENEOUS | {
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "Mish",
    "Softplus",
    "Softsign",
    "Erf",
    "Clip",
    "Add",
    "Mul",
    "Div",
    "Sub",
}


class Layer:
    """A convolution or matrix product as an array [groups, outputs, inputs, kernel], with its bias."""

    def __init__(self, node: ir.Node, weight: Array) -> None:
        self.node = node
        self._kernel = weight.shape[2:]
        self._dtype = weight.dtype
        self._transposed = node.op_type == "Gemm" and not bool(node.attributes.get_int("transB", 0))
        weight = weight.T if self._transposed else weight
        groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
        self.weight = weight.astype(np.float64).reshape(
            groups, len(weight) // groups, weight.shape[1], -1
        )
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        self.bias = (
            None
            if bias is None
            else np.broadcast_to(bias.reshape(-1), len(weight)).astype(np.float64)
        )

    @property
    def is_depthwise(self) -> bool:
        """Each channel for itself: it is a channel of the input and of the output at once."""
        return len(self.weight) > 1 and self.weight.shape[1:3] == (1, 1)

    def output_ranges(self) -> Array:
        """The largest magnitude of the weights of each output channel."""
        ranges: Array = np.abs(self.weight).max(axis=(2, 3)).reshape(-1)
        return ranges

    def input_ranges(self) -> Array:
        """The largest magnitude of the weights of each input channel."""
        ranges: Array = np.abs(self.weight).max(axis=(1, 3)).reshape(-1)
        return ranges

    def scale_outputs(self, factors: Array) -> None:
        self.weight = self.weight * factors.reshape(len(self.weight), -1, 1, 1)
        self.bias = None if self.bias is None else self.bias * factors

    def scale_inputs(self, factors: Array) -> None:
        self.weight = self.weight * factors.reshape(len(self.weight), 1, -1, 1)

    def pick_outputs(self, channels: Array, factors: Array) -> None:
        """Of its one group, these output channels in this order, each times a factor."""
        self.weight = self.weight.take(channels, 1)
        self.bias = None if self.bias is None else self.bias[channels]
        self.scale_outputs(factors)

    def pick_inputs(self, channels: Array, factors: Array) -> None:
        """Of its one group, these input channels in this order, the weights of each times a factor."""
        self.weight = self.weight.take(channels, 2)
        self.scale_inputs(factors)

    def pick_channels(self, channels: Array, factors: Array, outputs: Array) -> None:
        """Of a depthwise layer, these channels in this order, weights times a factor, biases times that of outputs."""
        self.weight = self.weight.take(channels, 0) * factors.reshape(-1, 1, 1, 1)
        self.bias = None if self.bias is None else self.bias[channels] * outputs

    def store(self) -> None:
        """Write weight and bias back to the network."""
        groups, outputs, inputs, _ = self.weight.shape
        weight = self.weight.reshape(groups * outputs, inputs, *self._kernel)
        if groups > 1:
            self.node.attributes["group"] = ir.AttrInt64("group", groups)
        replace_constant(
            self.node, 1, (weight.T if self._transposed else weight).astype(self._dtype)
        )
        if self.bias is not None:
            replace_constant(self.node, 2, self.bias.astype(self._dtype))


@dataclass(eq=False)
class Chain:
    """Tensors that share one factor per channel, the layers that give them and those that take them."""

    producers: list[Layer] = field(default_factory=list)
    consumers: list[Layer] = field(default_factory=list)
    tensors: list[ir.Value] = field(default_factory=list)
    passing: list[ir.Node] = field(default_factory=list)  # what lies between the layers
    clips: dict[str, float] = field(default_factory=dict)  # input of a Clip(0, bound) -> bound
    fixed: bool = False  # something else sees these tensors too
    scales: bool = True  # a positive factor per channel goes through all that is in it
    least: Array | float = 0.0  # the factors of each channel that its Clips allow
    most: Array | float = np.inf


def chains(graph: ir.Graph, through: frozenset[str] = HOMOGENEOUS) -> list[Chain]:
    """The chains of a graph whose channels nothing else depends on, each between layers.

    They go through these operators (HOMOGENEOUS or CHANNELWISE), through sums and through what flattens.
    """
    owner: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        parent = owner.setdefault(value, value)
        return value if parent is value else root(parent)

    layers = {node: layer for node in graph if (layer := _layer(node)) is not None}
    passing = {
        node: tied
        for node in graph
        if node not in layers and (tied := _tied(node, through)) is not None
    }
    for tied in passing.values():
        for value in tied[1:]:
            owner[root(value)] = root(tied[0])
    found: dict[ir.Value, Chain] = {}

    def chain(value: ir.Value) -> Chain:
        return found.setdefault(root(value), Chain())

    for value in graph.inputs:
        chain(value).fixed = True
    for node in graph:
        if node in layers:
            chain(node.outputs[0]).producers.append(layers[node])
            chain(_first(node)).consumers.append(layers[node])
        elif node not in passing:
            for used in (*node.inputs, *node.outputs):
                if used is not None:
                    chain(used).fixed = True
        if node in passing:
            chain(node.outputs[0]).passing.append(node)
            chain(node.outputs[0]).scales &= _tied(node, HOMOGENEOUS) is not None
        if node in passing and node.op_type == "Clip":
            chain(node.outputs[0]).clips[_first(node).name or ""] = _bound(node) or 0.0
    for value in graph.outputs:
        chain(value).fixed = True
    for value in list(owner):
        chain(value).tensors.append(value)
        chain(value).fixed |= any(
            reader.graph is not graph for reader in value.consumers()
        )  # a branch or loop
    return [one for one in found.values() if one.producers and one.consumers and not one.fixed]


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _layer(node: ir.Node) -> Layer | None:
    weight = constant(node.inputs[1]) if node.op_type in ("Conv", "Gemm") else None
    if weight is None or weight.dtype != np.float32:
        return None
    return Layer(node, weight) if is_plain(node) else None


def _tied(node: ir.Node, through: frozenset[str]) -> list[ir.Value] | None:
    """The tensors around a node that must share their factors; None where factors do not go through it."""
    given = [value for value in node.inputs if value is not None and constant(value) is None]
    tensors = [value for value in (*node.inputs[:1], node.outputs[0]) if value is not None]
    if node.op_type == "Add" and len(given) == 2 and _same_shape(given):
        return [*given, node.outputs[0]]
    if node.op_type in ("Add", "Mul", "Sub", "Div"):
        alike = _same_channels(given) if len(given) == 2 else _is_scalar(node.inputs)
        return [*given, node.outputs[0]] if alike and node.op_type in through else None
    if node.op_type in through or (node.op_type == "Clip" and _bound(node)):
        return tensors
    if node.op_type in ("Flatten", "Reshape", "Squeeze") and _keeps_channels(*tensors):
        return tensors
    return None


def _same_shape(values: Iterable[ir.Value]) -> bool:
    shapes = [value.shape for value in values]
    return all(shape is not None and shape == shapes[0] for shape in shapes)


def _same_channels(values: Iterable[ir.Value]) -> bool:
    """Channels and rank are alike; other axes may be stretched, as by the gate of a squeeze and excitation."""
    shapes = [() if value.shape is None else tuple(value.shape) for value in values]
    return all(
        len(shape) > 1 and len(shape) == len(shapes[0]) and shape[1] == shapes[0][1]
        for shape in shapes
    )


def _is_scalar(values: Iterable[ir.Value | None]) -> bool:
    return all(array.size == 1 for value in values if (array := constant(value)) is not None)


def _keeps_channels(before: ir.Value, after: ir.Value) -> bool:
    """From [1, C, 1, ...] to [1, C]."""
    if before.shape is None or after.shape is None or len(after.shape) < 2:
        return False
    sizes = list(before.shape)
    then = list(after.shape)
    return sizes[1] == then[1] and all(
        size == 1 for size in sizes[:1] + sizes[2:] + then[:1] + then[2:]
    )


def _bound(node: ir.Node) -> float | None:
    """The upper bound of a Clip from 0."""
    low, high = (constant(value) for value in (*node.inputs[1:3], None, None)[:2])
    if low is None or high is None or float(low.reshape(-1)[0]) != 0:
        return None
    return float(high.reshape(-1)[0])

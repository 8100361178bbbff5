"""Layers, and the chains of tensors between them that may share one factor per channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import constant, is_affine, optional_input, replace_constant
from qpipe.types import Array

# operators that a positive factor per channel passes through; so it does through Clip(0, b), as
# long as no value crosses b
HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
ARITHMETIC = frozenset({"Add", "Mul", "Div", "Sub"})
# operators that treat each channel by itself
CHANNELWISE = (
    HOMOGENEOUS
    | ARITHMETIC
    | {
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
    }
)
RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze"})


class Layer:
    """A convolution or matrix product, as an array [groups, outputs, inputs, kernel] and a bias."""

    def __init__(self, node: ir.Node, weight: Array) -> None:
        self.node = node
        self._kernel_shape = weight.shape[2:]
        self._dtype = weight.dtype
        self._is_transposed = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
        if self._is_transposed:
            weight = weight.T
        outputs, inputs = weight.shape[:2]
        groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
        by_group = weight.astype(np.float64).reshape(groups, outputs // groups, inputs, -1)
        self.weight: Array = by_group
        self.bias: Array | None = None
        bias = constant(optional_input(node, 2))
        if bias is not None:
            self.bias = np.broadcast_to(bias.reshape(-1), outputs).astype(np.float64)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel of the input is one of the output at the same time."""
        return len(self.weight) > 1 and self.weight.shape[1:3] == (1, 1)

    def output_ranges(self) -> Array:
        """Return the largest magnitude of the weights of each output channel, [outputs]."""
        ranges: Array = np.abs(self.weight).max(axis=(2, 3)).reshape(-1)
        return ranges

    def input_ranges(self) -> Array:
        """Return the largest magnitude of the weights of each input channel, [inputs]."""
        ranges: Array = np.abs(self.weight).max(axis=(1, 3)).reshape(-1)
        return ranges

    def scale_outputs(self, factors: Array) -> None:
        """Multiply each output channel by its factor, [outputs]."""
        self.weight = self.weight * factors.reshape(len(self.weight), -1, 1, 1)
        if self.bias is not None:
            self.bias = self.bias * factors

    def scale_inputs(self, factors: Array) -> None:
        """Multiply the weights of each input channel by its factor, [inputs]."""
        self.weight = self.weight * factors.reshape(len(self.weight), 1, -1, 1)

    def pick_outputs(self, channels: Array, factors: Array) -> None:
        """Take these output channels of the one group in this order, each times a factor."""
        self.weight = self.weight.take(channels, 1)
        if self.bias is not None:
            self.bias = self.bias[channels]
        self.scale_outputs(factors)

    def pick_inputs(self, channels: Array, factors: Array) -> None:
        """Take these input channels of the one group in this order, each times a factor."""
        self.weight = self.weight.take(channels, 2)
        self.scale_inputs(factors)

    def pick_channels(self, channels: Array, *, factors: Array, output_factors: Array) -> None:
        """Take these channels of a depthwise layer in this order.

        Weights are multiplied by `factors`, biases by `output_factors`.
        """
        self.weight = self.weight.take(channels, 0) * factors.reshape(-1, 1, 1, 1)
        if self.bias is not None:
            self.bias = self.bias[channels] * output_factors

    def store(self) -> None:
        """Write weight and bias back to the network."""
        groups, outputs, inputs, _ = self.weight.shape
        weight = self.weight.reshape(groups * outputs, inputs, *self._kernel_shape)
        if self._is_transposed:
            weight = weight.T
        if groups > 1:
            self.node.attributes["group"] = ir.AttrInt64("group", groups)
        replace_constant(self.node, 1, weight.astype(self._dtype))
        if self.bias is not None:
            replace_constant(self.node, 2, self.bias.astype(self._dtype))


@dataclass(eq=False)
class Chain:
    """Tensors that share one factor per channel, and the layers that write and read them."""

    producers: list[Layer] = field(default_factory=list)
    consumers: list[Layer] = field(default_factory=list)
    tensors: list[ir.Value] = field(default_factory=list)
    passing: list[ir.Node] = field(default_factory=list)  # the nodes between the layers
    clips: dict[str, float] = field(default_factory=dict)  # input of a Clip(0, bound) -> bound
    fixed: bool = False  # something else reads or writes these tensors too
    scales: bool = True  # a positive factor per channel passes through all nodes
    least: Array | float = 0.0  # limits of each channel's factor that the Clips allow
    most: Array | float = np.inf
    # of each tensor that needs a scale: the largest magnitude in each channel, [C]
    magnitudes: list[Array] = field(default_factory=list)

    @property
    def layers(self) -> list[Layer]:
        """Producers and consumers."""
        return [*self.producers, *self.consumers]


class _ChainsByTensor:
    """Chains by any of their tensors; joined tensors share one (a union-find structure)."""

    def __init__(self) -> None:
        self._parents: dict[ir.Value, ir.Value] = {}
        self._chains: dict[ir.Value, Chain] = {}

    def join(self, first: ir.Value, second: ir.Value) -> None:
        """Let two tensors, and all that are joined to them, share a chain."""
        first_root = self._root(first)
        self._parents[self._root(second)] = first_root

    def chain(self, value: ir.Value) -> Chain:
        return self._chains.setdefault(self._root(value), Chain())

    def tensors(self) -> list[ir.Value]:
        return list(self._parents)

    def chains(self) -> list[Chain]:
        return list(self._chains.values())

    def _root(self, value: ir.Value) -> ir.Value:
        parent = self._parents.setdefault(value, value)
        while parent is not value:
            value = parent
            parent = self._parents[value]
        return value


def find_chains(graph: ir.Graph, through: frozenset[str] = HOMOGENEOUS) -> list[Chain]:
    """Return the chains between layers whose channels nothing else depends on.

    They pass through the operators `through` (HOMOGENEOUS or CHANNELWISE), through sums, and
    through reshapes to [1, C].
    """
    layers: dict[ir.Node, Layer] = {}
    tied_tensors: dict[ir.Node, list[ir.Value]] = {}
    for node in graph:
        layer = _read_layer(node)
        tied = _tied_tensors(node, through)
        if layer is not None:
            layers[node] = layer
        elif tied is not None:
            tied_tensors[node] = tied
    by_tensor = _ChainsByTensor()
    for first, *others in tied_tensors.values():
        for value in others:
            by_tensor.join(first, value)
    for node in graph:
        if node in layers:
            by_tensor.chain(node.outputs[0]).producers.append(layers[node])
            by_tensor.chain(_first_input(node)).consumers.append(layers[node])
        elif node in tied_tensors:
            _add_passing(by_tensor.chain(node.outputs[0]), node)
        else:
            _fix_chains(by_tensor, [*node.inputs, *node.outputs])
    _fix_chains(by_tensor, [*graph.inputs, *graph.outputs])
    for value in by_tensor.tensors():
        chain = by_tensor.chain(value)
        chain.tensors.append(value)
        if any(reader.graph is not graph for reader in value.consumers()):
            chain.fixed = True
    chains = by_tensor.chains()
    return [chain for chain in chains if chain.producers and chain.consumers and not chain.fixed]


def _fix_chains(by_tensor: _ChainsByTensor, values: Iterable[ir.Value | None]) -> None:
    """Mark the chains of these tensors as read or written by something else."""
    for value in values:
        if value is not None:
            by_tensor.chain(value).fixed = True


def _add_passing(chain: Chain, node: ir.Node) -> None:
    chain.passing.append(node)
    if _tied_tensors(node, HOMOGENEOUS) is None:
        chain.scales = False
    if node.op_type == "Clip":
        chain.clips[_first_input(node).name or ""] = _upper_bound(node) or 0.0


def _first_input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _read_layer(node: ir.Node) -> Layer | None:
    if node.op_type not in ("Conv", "Gemm") or not is_affine(node):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32:
        return None
    return Layer(node, weight)


# ---- what a factor per channel passes through


def _tied_tensors(node: ir.Node, through: frozenset[str]) -> list[ir.Value] | None:
    """Return the tensors around a node that must share their factors.

    None where factors do not pass through it.
    """
    computed = [value for value in node.inputs if value is not None and constant(value) is None]
    if node.op_type in ARITHMETIC:
        is_tied = _ties_operands(node, computed, through)
        return [*computed, node.outputs[0]] if is_tied else None
    main_tensors = [value for value in (*node.inputs[:1], node.outputs[0]) if value is not None]
    if node.op_type in through or (node.op_type == "Clip" and _upper_bound(node)):
        return main_tensors
    if node.op_type in RESHAPING and _keeps_channels(*main_tensors):
        return main_tensors
    return None


def _ties_operands(node: ir.Node, computed: Sequence[ir.Value], through: frozenset[str]) -> bool:
    """Return whether the operands of an arithmetic node have the same channels as its output."""
    is_binary = len(computed) == 2
    if node.op_type == "Add" and is_binary and _have_same_shape(computed):
        return True
    if node.op_type not in through:
        return False
    return _have_same_channels(computed) if is_binary else _has_scalar_constants(node)


def _have_same_shape(values: Iterable[ir.Value]) -> bool:
    shapes = [value.shape for value in values]
    return all(shape is not None and shape == shapes[0] for shape in shapes)


def _have_same_channels(values: Iterable[ir.Value]) -> bool:
    """Return whether channels and rank are equal.

    Other axes may be broadcast, as by the gate of a squeeze and excitation.
    """
    shapes = [() if value.shape is None else tuple(value.shape) for value in values]
    first = shapes[0]
    if len(first) < 2:
        return False
    return all(len(shape) == len(first) and shape[1] == first[1] for shape in shapes)


def _has_scalar_constants(node: ir.Node) -> bool:
    arrays = [constant(value) for value in node.inputs]
    return all(array.size == 1 for array in arrays if array is not None)


def _keeps_channels(before: ir.Value, after: ir.Value) -> bool:
    """Return whether a reshape goes from [1, C, 1, ...] to [1, C], or the like."""
    if before.shape is None or after.shape is None or len(after.shape) < 2:
        return False
    sizes_before = list(before.shape)
    sizes_after = list(after.shape)
    others = [*sizes_before[:1], *sizes_before[2:], *sizes_after[:1], *sizes_after[2:]]
    return sizes_before[1] == sizes_after[1] and all(size == 1 for size in others)


def _upper_bound(node: ir.Node) -> float | None:
    """Return the upper bound of a Clip from 0; None for other bounds."""
    low = constant(optional_input(node, 1))
    high = constant(optional_input(node, 2))
    if low is None or high is None or float(low.reshape(-1)[0]) != 0:
        return None
    return float(high.reshape(-1)[0])

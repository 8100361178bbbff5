"""Scales of activations in training: one for each group of pairs that must have the same one.

Pairs share a scale where they share its constant, and where an operator between them only moves
values. A scale stays fixed where codes come from a constant or from the network's inputs, and where
the target takes powers of two. It never grows beyond where a Clip that its pair absorbs would cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch

from qpipe.quant.activations import unmoved
from qpipe.quant.code_bounds import bounded_codes, code_limits, quantizer_of
from qpipe.quant.graph import add_initializer, constant, optional_input
from qpipe.quant.in_torch.fake_quantization import fake_quantize
from qpipe.quant.in_torch.operator_table import Tensor
from qpipe.quant.qdq import scale_and_zero_point_of
from qpipe.types import Array, Target

LARGEST_FACTOR = 4.0  # by which a scale may change


@dataclass(eq=False)
class Pair:
    """A QuantizeLinear with a constant scale, and the DequantizeLinear nodes that undo it."""

    quantizer: ir.Node
    dequantizers: list[ir.Node]
    scale: float
    zero_point: int
    lowest_step: int
    highest_step: int

    @property
    def source(self) -> ir.Value:
        """The tensor that the pair rounds."""
        value = self.quantizer.inputs[0]
        assert value is not None
        return value

    def absorbed_source(self) -> tuple[ir.Value, float]:
        """Return the tensor before the Relu or Clip that the pair absorbs, else its own source.

        With it comes the largest scale at which the pair still absorbs it; infinity where any does.
        """
        node = self.source.producer()
        if node is None or node.op_type not in ("Relu", "Clip"):
            return self.source, math.inf
        low = 0.0
        high = math.inf
        if node.op_type == "Clip":
            low = _number(optional_input(node, 1), -math.inf)
            high = _number(optional_input(node, 2), math.inf)
        largest = math.inf
        if self.lowest_step < 0:
            largest = low / self.lowest_step
        elif low > 0:
            return self.source, math.inf
        largest = min(largest, _largest_scale(high, self.highest_step))
        if not self.scale <= largest:
            return self.source, math.inf
        value = node.inputs[0]
        assert value is not None
        return value, largest


def _number(value: ir.Value | None, default: float) -> float:
    """Return a constant number; NaN where it is computed, `default` where it is left out."""
    if value is None:
        return default
    array = constant(value)
    return math.nan if array is None else float(array.reshape(()))


def _largest_scale(high: float, steps: int) -> float:
    """Return the largest float32 whose multiple by `steps` is not above `high`, in float32."""
    if not math.isfinite(high) or steps <= 0:
        return math.inf if high > 0 else math.nan
    scale = np.float32(high / steps)
    if scale * np.float32(steps) > np.float32(high):
        scale = np.nextafter(scale, np.float32(0), dtype=np.float32)
    return float(scale)


def find_pairs(model: ir.Model) -> list[Pair]:
    """Return the pairs of a network whose QuantizeLinear has one constant scale."""
    pairs = []
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or node.inputs[0] is None:
            continue
        scale, zero_point = scale_and_zero_point_of(node)
        if scale is None or scale.size != 1 or zero_point is None:
            continue
        offset = int(zero_point.reshape(()))
        dequantizers = [
            reader
            for reader in bounded_codes(node).consumers()
            if reader.op_type == "DequantizeLinear" and _has_parameters(reader, scale, zero_point)
        ]
        low, high = code_limits(node, zero_point.dtype)
        pairs.append(
            Pair(node, dequantizers, float(scale.reshape(())), offset, low - offset, high - offset)
        )
    return pairs


def _has_parameters(node: ir.Node, scale: Array, zero_point: Array) -> bool:
    other_scale, other_zero_point = scale_and_zero_point_of(node)
    if other_scale is None or other_zero_point is None:
        return False
    return bool(np.all(other_scale == scale) and np.all(other_zero_point == zero_point))


@dataclass(eq=False)
class LearnedRange:
    """The scale of a group of pairs: `initial_scale` times exp(`log_factor`), below a largest."""

    pairs: list[Pair]
    initial_scale: Tensor
    log_factor: Tensor
    largest: float = math.inf
    nodes: list[ir.Node] = field(default_factory=list)

    @property
    def scale(self) -> Tensor:
        """The scale, as a tensor without axes."""
        scale = self.initial_scale * self.log_factor.exp()
        return scale if math.isinf(self.largest) else scale.clamp(max=self.largest)

    def number(self) -> np.float32:
        """Return the scale as inference will have it."""
        return np.float32(self.scale.item())

    def keep_within_limits(self) -> None:
        """Bring the scale back to where it may be."""
        highest = math.log(LARGEST_FACTOR)
        if not math.isinf(self.largest):
            highest = min(highest, math.log(self.largest / self.initial_scale.item()))
        self.log_factor.data.clamp_(-math.log(LARGEST_FACTOR), highest)

    def round(self, pair: Pair, x: Tensor) -> Tensor:
        """Return what a pair makes of a tensor."""
        return fake_quantize(x, self.scale, pair.lowest_step, pair.highest_step)

    def write(self, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        """Give the scale to nodes of a network: those of the pairs, or of a copy."""
        old_value = nodes[0].inputs[1]
        old_array = constant(old_value)
        assert old_value is not None
        assert old_array is not None
        array = np.full(old_array.shape, self.number(), old_array.dtype)
        if np.array_equal(array, old_array):
            return
        value = add_initializer(model.graph, f"{old_value.name}", array)
        for node in nodes:
            node.replace_input_with(1, value)


def learned_ranges(pairs: Sequence[Pair], target: Target, device: str) -> list[LearnedRange]:
    """Return the scales of pairs, in groups that share one."""
    groups = _Groups(pairs)
    ranges = []
    for members in groups.members():
        is_fixed = target.power_of_two_scales or any(map(groups.is_fixed, members))
        initial = torch.tensor(members[0].scale, dtype=torch.float32, device=device)
        largest = min(pair.absorbed_source()[1] for pair in members)
        factor = torch.zeros((), device=device).requires_grad_(not is_fixed)
        nodes = [node for pair in members for node in (pair.quantizer, *pair.dequantizers)]
        ranges.append(LearnedRange(members, initial, factor, largest, nodes))
    return ranges


class _Groups:
    """Which pairs share a scale."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = list(pairs)
        self._leader = {pair: pair for pair in pairs}
        self._fixed: set[Pair] = set()
        by_scale: dict[ir.Value, Pair] = {}
        by_quantizer = {pair.quantizer: pair for pair in pairs}
        for pair in pairs:
            for node in (pair.quantizer, *pair.dequantizers):
                value = node.inputs[1]
                assert value is not None
                self._join(pair, by_scale.setdefault(value, pair))
            self._join_moved(pair, by_quantizer)
            codes = bounded_codes(pair.quantizer)
            if len(codes.consumers()) != len(pair.dequantizers) or codes.is_graph_output():
                self._fixed.add(pair)

    def is_fixed(self, pair: Pair) -> bool:
        """Return whether something that is not learned has the scale of the pair."""
        return pair in self._fixed

    def members(self) -> list[list[Pair]]:
        """Return the groups."""
        groups: dict[Pair, list[Pair]] = {}
        for pair in self._pairs:
            groups.setdefault(self._find(pair), []).append(pair)
        return list(groups.values())

    def _join_moved(self, pair: Pair, by_quantizer: dict[ir.Node, Pair]) -> None:
        """Join a pair with the one whose values are moved to it, where both have one scale."""
        node = unmoved(pair.source).producer()
        if node is None or node.op_type != "DequantizeLinear":
            return
        scale, zero_point = scale_and_zero_point_of(node)
        if scale is None or scale.size != 1 or float(scale.reshape(())) != pair.scale:
            return
        if zero_point is not None and int(zero_point.reshape(())) != pair.zero_point:
            return
        quantizer = quantizer_of(node)
        source = None if quantizer is None else by_quantizer.get(quantizer)
        if source is None:
            self._fixed.add(pair)
        else:
            self._join(pair, source)

    def _find(self, pair: Pair) -> Pair:
        while self._leader[pair] is not pair:
            pair = self._leader[pair]
        return pair

    def _join(self, pair: Pair, other: Pair) -> None:
        leader = self._find(pair)
        other_leader = self._find(other)
        if leader is not other_leader:
            self._leader[leader] = other_leader

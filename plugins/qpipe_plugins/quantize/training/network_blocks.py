"""Blocks of a network in training: parts between which few tensors pass, all of them rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.graph import constant_tensor, values_read
from qpipe.quant.in_torch.torch_network import TorchNetwork
from qpipe_plugins.quantize.training.distillation import Counterpart
from qpipe_plugins.quantize.training.learned_ranges import LearnedRange
from qpipe_plugins.quantize.training.student import Student

MOST_PASSING = 3  # tensors between two blocks


@dataclass(frozen=True, eq=False)
class Block:
    """A part of the network: what it reads, what it gives, and the weights in it."""

    sources: tuple[Counterpart, ...]
    results: tuple[Counterpart, ...]
    weights: tuple[qdq.Weight, ...]
    ranges: tuple[LearnedRange, ...]  # whose pairs it rounds its own tensors by, and no other block


def find_blocks(student: Student, teacher: TorchNetwork, layers: int) -> list[Block]:
    """Return the blocks of a network in order, each with at least so many layers, if it can.

    Between blocks pass only tensors that a pair rounds and that the teacher has as well, so that
    each block can be computed from them in both networks.
    """
    graph = student.model.graph
    nodes = list(graph)
    counterparts = _counterparts(student, teacher)
    weight_of = {node: weight for weight in student.weights for node in weight.nodes}
    last_reader = _last_readers(nodes)
    blocks: list[Block] = []
    passing = tuple(counterparts[value] for value in graph.inputs if value in counterparts)
    live = [value for value in graph.inputs if value in last_reader]
    weights: dict[qdq.Weight, None] = {}
    results: list[Counterpart] = []
    first = 0
    for position, node in enumerate(nodes):
        if node in weight_of:
            weights[weight_of[node]] = None
        live += [value for value in node.outputs if last_reader.get(value, -1) > position]
        live = [value for value in live if last_reader[value] > position]
        results += [
            counterparts[value]
            for value in node.outputs
            if value.is_graph_output() and value in counterparts
        ]
        is_end = position == len(nodes) - 1
        is_cut = len(weights) >= layers and _can_pass(live, counterparts)
        if not weights or not (is_end or is_cut):
            continue
        new = [counterparts[value] for value in live if counterparts[value] not in passing]
        if new or results:
            ranges = _ranges_within(student, set(nodes[first : position + 1]))
            blocks.append(Block(passing, (*new, *results), tuple(weights), ranges))
            first = position + 1
        passing = tuple(counterparts[value] for value in live)
        weights = {}
        results = []
    return blocks


def _ranges_within(student: Student, nodes: set[ir.Node]) -> tuple[LearnedRange, ...]:
    return tuple(learned for learned in student.ranges if nodes.issuperset(learned.nodes))


def _counterparts(student: Student, teacher: TorchNetwork) -> dict[ir.Value, Counterpart]:
    """Return the tensors that may pass between blocks, and the outputs, with the teacher's."""
    by_name = {value.name: value for node in teacher.model.graph for value in node.outputs}
    inputs = {value.name: value for value in teacher.model.graph.inputs}
    counterparts = {
        value: Counterpart(inputs[value.name], value)
        for value in student.model.graph.inputs
        if value.name in inputs
    }
    for learned in student.ranges:
        for pair in learned.pairs:
            reference = by_name.get(pair.source.name, inputs.get(pair.source.name))
            for node in pair.dequantizers:
                if reference is not None:
                    counterparts[node.outputs[0]] = Counterpart(reference, node.outputs[0])
    outputs = zip(student.model.graph.outputs, teacher.model.graph.outputs, strict=True)
    for value, reference in outputs:
        if reference.dtype is not None and reference.dtype.is_floating_point():
            counterparts[value] = Counterpart(reference, value)
    return counterparts


def _last_readers(nodes: Sequence[ir.Node]) -> dict[ir.Value, int]:
    """Return for each computed tensor and input the position of the last node that reads it."""
    last_reader: dict[ir.Value, int] = {}
    for position, node in enumerate(nodes):
        for value in values_read(node):
            if constant_tensor(value) is None and not _is_weight(value):
                last_reader[value] = position
    return last_reader


def _is_weight(value: ir.Value) -> bool:
    """Return whether a tensor is dequantized from constant codes."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return False
    return constant_tensor(node.inputs[0]) is not None


def _can_pass(live: Sequence[ir.Value], counterparts: dict[ir.Value, Counterpart]) -> bool:
    return 0 < len(live) <= MOST_PASSING and all(value in counterparts for value in live)

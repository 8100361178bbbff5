"""The parts of a quantized network whose rounding can be measured alone, and what keeps one float.

A part is a weight with its layers, or another node that reads rounded tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.coverage import integer_nodes
from qpipe.quant.graph import is_affine
from qpipe.quant.integer_operators import is_dequantized, moves_values
from qpipe.quant.sensitivity import Probe, Substitution, layer_name
from qpipe.types import Array


@dataclass(frozen=True, eq=False)
class Part:
    """A weight with its nodes, or a node without one, and the substitutions that round it."""

    node: ir.Node
    weight: qdq.Weight | None
    origin: qdq.Weight | None  # the float weight it came from
    weights: Substitution
    activations: Substitution

    @property
    def both(self) -> Substitution:
        """The substitution that rounds weights and activations."""
        return union([self.weights, self.activations])

    @property
    def name(self) -> str:
        """The name of the node, or of its output where it has none."""
        return self.node.name or layer_name(self.node)


def origins(model: ir.Model, float_model: ir.Model) -> dict[str, qdq.Weight]:
    """Return the float weight of each quantized weight, by the name of the latter.

    It is the recorded one; where another quantizer records nothing, that of the node of the same
    name, if shapes agree.
    """
    float_weights = qdq.weights(float_model)
    by_name = {weight.name: weight for weight in float_weights}
    by_node = {weight.node.name: weight for weight in float_weights if weight.node.name}
    pairs: dict[str, qdq.Weight] = {}
    for weight in qdq.weights(model):
        origin = by_name.get(weight.name) or by_node.get(weight.node.name or "")
        if origin and weight.is_quantized and _has_same_form(weight, origin):
            pairs[weight.name] = origin
    return pairs


def _has_same_form(weight: qdq.Weight, origin: qdq.Weight) -> bool:
    has_same_shape = origin.array.shape == weight.array.shape
    return has_same_shape and len(origin.nodes) == len(weight.nodes)


def read_parts(
    model: ir.Model, float_origins: Mapping[str, qdq.Weight], probe: Probe
) -> list[Part]:
    """Return the weights with a float origin, then the other layers that read rounded tensors."""
    remaining = dict.fromkeys(probe.rounded_layers)
    parts: list[Part] = []
    for weight in qdq.weights(model):
        origin = float_origins.get(weight.name)
        if origin is None:
            continue
        names = [layer_name(node) for node in weight.nodes]
        rounded = [name for name in names if name in remaining]
        for name in rounded:
            del remaining[name]
        parts.append(_weight_part(weight, origin, rounded))
    nodes = {layer_name(node): node for node in model.graph}
    outputs = {value.name or "": value.producer() for value in model.graph.outputs}
    for name in remaining:
        node = nodes.get(name) or outputs.get(name)
        if node is not None:
            activations = Substitution(rounded=[name])
            parts.append(Part(node, None, None, Substitution(), activations))
    return parts


def _weight_part(weight: qdq.Weight, origin: qdq.Weight, rounded: Sequence[str]) -> Part:
    biases: dict[str, Array] = {}
    for node, float_node in zip(weight.nodes, origin.nodes, strict=True):
        if is_affine(float_node):
            biases[layer_name(node)] = _bias_or_zeros(weight, node)
    return Part(
        node=weight.node,
        weight=weight,
        origin=origin,
        weights=Substitution({weight.name: weight.array}, biases),
        activations=Substitution(rounded=rounded),
    )


def _bias_or_zeros(weight: qdq.Weight, node: ir.Node) -> Array:
    zeros = np.zeros(weight.array.shape[weight.channel_axis], np.float32)
    bias = qdq.bias(node)
    return zeros if bias is None else zeros + bias


def union(substitutions: Sequence[Substitution]) -> Substitution:
    """Return the substitution that makes all of these."""
    weights: dict[str, Array] = {}
    biases: dict[str, Array] = {}
    rounded: list[str] = []
    for substitution in substitutions:
        weights |= substitution.weights
        biases |= substitution.biases
        rounded += substitution.rounded
    return Substitution(weights, biases, rounded)


def difference(everything: Substitution, part: Substitution) -> Substitution:
    """Return the substitution that leaves out a part of another one."""
    weights = {
        name: array for name, array in everything.weights.items() if name not in part.weights
    }
    biases = {name: array for name, array in everything.biases.items() if name not in part.biases}
    rounded = [name for name in everything.rounded if name not in part.rounded]
    return Substitution(weights, biases, rounded)


# ---- the worst


def find_damaging(
    probe: Probe, parts: Sequence[Part], limit: float, most: int
) -> list[tuple[Part, float]]:
    """Return the parts that alone cost the outputs more than a limit, worst first, with the cost.

    Parts are measured in groups, and a group in halves only where it costs more than the limit: a
    few bad parts among many take few measurements. It ends after `most` of them.
    """
    damaging: list[tuple[Part, float]] = []
    groups = [list(parts)] if parts else []
    for _ in range(most):
        if not groups:
            break
        group = groups.pop(0)
        damage = probe.damage(union([part.both for part in group]))
        if damage <= limit:
            continue
        if len(group) == 1:
            damaging.append((group[0], damage))
        else:
            middle = len(group) // 2
            groups += [group[:middle], group[middle:]]
    return sorted(damaging, key=lambda pair: -pair[1])


# ---- what keeps a part float


def nodes_to_keep_float(model: ir.Model, part: Part) -> list[str]:
    """Return the names of the nodes that must stay float so that a part is not rounded any more.

    They are its own where it runs on integers. A float node, such as a Log, or an output of the
    network reads rounded tensors because other nodes write or read them as integers: then it is
    these.
    """
    integers = integer_nodes(model)
    nodes = part.weight.nodes if part.weight is not None else [part.node]
    if not any(node in integers for node in nodes):
        nodes = _integer_neighbours(part.node, integers)
    return [node.name or layer_name(node) for node in nodes]


def _integer_neighbours(node: ir.Node, integers: set[ir.Node]) -> list[ir.Node]:
    """Return the integer nodes that write or read the rounded tensors that a float node reads."""
    tensors = [value for value in node.inputs if value is not None and is_dequantized(value)]
    if node.op_type == "DequantizeLinear":  # of an output of the network
        tensors = [node.outputs[0]]
    neighbours: dict[ir.Node, None] = {}
    for value in tensors:
        neighbours.update((reader, None) for reader in value.consumers() if reader in integers)
        for writer in _writers(value):
            if writer in integers:
                neighbours[writer] = None
    return list(neighbours)


def _writers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that a rounded tensor came through, back to the first that computes it."""
    node = value.producer()
    while node is not None:
        yield node
        is_passing = moves_values(node) or node.op_type in (*qdq.QDQ_OPERATORS, "Relu", "Clip")
        source = node.inputs[0] if node.inputs and is_passing else None
        node = source.producer() if source is not None else None

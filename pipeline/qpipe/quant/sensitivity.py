"""Sensitivity: what quantizing a part of a network costs its outputs.

It is measured by substituting weights and switching on roundings one by one. A copy of the network
has each weight and bias as an input, and a switch wherever a layer reads rounded activations. One
session serves all substitutions; whatever a substitution does not name is float.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.code_bounds import quantizer_of
from qpipe.quant.graph import add_initializer, is_affine, set_input
from qpipe.quant.inference import infer, open_session, tensors_of_numbers
from qpipe.quant.integer_operators import moves_values
from qpipe.quant.network_inputs import input_shapes
from qpipe.samples.store import Samples
from qpipe.types import Array

BOUND_DB = 200.0


@dataclass(frozen=True, eq=False)
class Substitution:
    """Weights and biases that replace the float ones, and the layers whose inputs are rounded.

    Weights go by name, biases by layer. A layer goes by the name of its output, see `layer_name`.
    """

    weights: Mapping[str, Array] = field(default_factory=dict)
    biases: Mapping[str, Array] = field(default_factory=dict)
    rounded: Collection[str] = ()


class Probe:
    """A network on some samples, and what substitutions cost its outputs.

    `origins` are the float weights, by name, that replace the network's own (which may be float
    already), with the biases of their layers in the float network.
    """

    def __init__(
        self,
        model: ir.Model,
        origins: Mapping[str, qdq.Weight],
        samples: Samples,
        indices: Sequence[int],
        *,
        threads: int = 1,
    ) -> None:
        copy = ir.from_proto(ir.to_proto(model))
        shapes = input_shapes(copy)
        self._switches = _insert_switches(copy)
        self._weight_inputs, self._bias_inputs = _make_inputs(copy, origins)
        self._session = open_session(copy, threads=threads)
        self._feeds = [samples.feeds(index, shapes) for index in indices]
        self._float_outputs = list(self.outputs())

    @property
    def rounded_layers(self) -> list[str]:
        """The layers that read rounded activations, and the network's outputs that are rounded."""
        return list(self._switches)

    def outputs(self, substitution: Substitution | None = None) -> Iterator[dict[str, Array]]:
        """Yield the network's outputs for each sample; without a substitution those of float.

        Biases of layers that add none, or a computed one, are ignored.
        """
        substituted = self._inputs_of(substitution or Substitution())
        for feeds in self._feeds:
            yield infer(self._session, {**feeds, **substituted})

    def _inputs_of(self, substitution: Substitution) -> dict[str, Array]:
        inputs: dict[str, Array] = {}
        for layer, switch in self._switches.items():
            inputs[switch] = np.array(layer in substitution.rounded)
        for name, weight in substitution.weights.items():
            inputs[self._weight_inputs[name]] = np.asarray(weight, np.float32)
        for layer, bias in substitution.biases.items():
            if layer in self._bias_inputs:
                inputs[self._bias_inputs[layer]] = np.asarray(bias, np.float32)
        return inputs

    def damage(self, substitution: Substitution) -> float:
        """Return the noise over the signal of the outputs: 0.01 is 20 dB. See `relative_noise`."""
        return relative_noise(self._float_outputs, self.outputs(substitution))


def relative_noise(
    reference: Sequence[Mapping[str, Array]], outputs: Iterable[Mapping[str, Array]]
) -> float:
    """Return the power of the difference over that of the reference.

    Power is summed over all samples; the result is the mean over outputs. Outputs whose reference
    has no power do not count; where none has, it is 0. It is infinite where an output is not
    finite. An output of another shape than its reference is all noise.
    """
    signal: dict[str, float] = dict.fromkeys(tensors_of_numbers(reference[0]), 0.0)
    noise = dict(signal)
    for reference_arrays, arrays in zip(reference, outputs, strict=True):
        for name, array in tensors_of_numbers(reference_arrays).items():
            exact = array.astype(np.float64)
            signal[name] += float(np.sum(exact**2))
            output = arrays[name] if arrays[name].shape == exact.shape else 0.0
            noise[name] += float(np.sum((output - exact) ** 2))
    ratios = [noise[name] / power for name, power in signal.items() if power > 0]
    if not ratios:
        return 0.0
    mean = sum(ratios) / len(ratios)
    return mean if math.isfinite(mean) else math.inf


def decibels(damage: float) -> float:
    """Return a damage as a signal to noise ratio in dB, between -200 and 200."""
    if damage <= 0:
        return BOUND_DB
    return max(-BOUND_DB, min(BOUND_DB, -10 * math.log10(damage)))


def layer_name(node: ir.Node) -> str:
    """Return the name of a layer, which is that of its output.

    Names of nodes may be missing, or not unique.
    """
    return node.outputs[0].name or ""


# ---- weights and biases as inputs


def _make_inputs(
    model: ir.Model, origins: Mapping[str, qdq.Weight]
) -> tuple[dict[str, str], dict[str, str]]:
    """Replace weights and biases by inputs whose defaults are the float ones.

    Return the names of these inputs, by weight and by layer.
    """
    weight_inputs = {}
    bias_inputs = {}
    for weight in qdq.weights(model):
        origin = origins.get(weight.name)
        if origin is None:
            continue
        value = _optional_graph_input(
            model, f"{weight.name}_substituted", np.asarray(origin.array, np.float32)
        )
        weight_inputs[weight.name] = value.name or ""
        channels = weight.array.shape[weight.channel_axis]
        for node, float_node in zip(weight.nodes, origin.nodes, strict=True):
            node.replace_input_with(1, value)
            if node.op_type != "MatMul" and is_affine(float_node):
                name = layer_name(node)
                bias_inputs[name] = _make_bias_input(model, node, float_node, channels)
    return weight_inputs, bias_inputs


def _make_bias_input(model: ir.Model, node: ir.Node, float_node: ir.Node, channels: int) -> str:
    """Replace the bias of a layer, or add one where it has none; return the name of the input."""
    values = np.zeros(channels, np.float32)
    float_bias = qdq.bias(float_node)
    if float_bias is not None:
        values = values + float_bias
    value = _optional_graph_input(model, f"{layer_name(node)}_substituted", values)
    set_input(node, 2, value)
    return value.name or ""


def _optional_graph_input(model: ir.Model, name: str, array: Array) -> ir.Value:
    """Add an input whose default is an array."""
    value = add_initializer(model.graph, name, array)
    model.graph.inputs.append(value)
    return value


# ---- switches


def _insert_switches(model: ir.Model) -> dict[str, str]:
    """Put a switch before each reader of rounded activations; return their names by layer."""
    switches: dict[str, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type in qdq.QDQ_OPERATORS:
            continue
        is_rounded_later = _is_rounded_later(node)
        for index, value in enumerate(node.inputs):
            exact = _before_rounding(value)
            if value is None or exact is None:
                continue
            if is_rounded_later:
                node.replace_input_with(index, exact)
                continue
            layer = layer_name(node)
            choice = _insert_choice(model, switches, layer, value, exact)
            choice.name = f"{layer}_{index}_chosen"
            node.replace_input_with(index, choice)
    for index, value in enumerate(model.graph.outputs):
        exact = _before_rounding(value)
        if exact is None:
            continue
        name = value.name or ""
        value.name = f"{name}_rounded"
        choice = _insert_choice(model, switches, name, value, exact)
        choice.name = name
        model.graph.outputs[index] = choice
    return {layer: switch.name or "" for layer, switch in switches.items()}


def _is_rounded_later(node: ir.Node) -> bool:
    """Return whether a node only moves values, which are then rounded to the same values again."""
    if not moves_values(node) or node.outputs[0].is_graph_output():
        return False
    return all(reader.op_type == "QuantizeLinear" for reader in node.outputs[0].consumers())


def _before_rounding(value: ir.Value | None) -> ir.Value | None:
    """Return the tensor that a pair of QuantizeLinear, DequantizeLinear made this one of.

    None for all others.
    """
    dequantize_node = value.producer() if value is not None else None
    if dequantize_node is None or dequantize_node.op_type != "DequantizeLinear":
        return None
    quantize_node = quantizer_of(dequantize_node)
    return None if quantize_node is None else quantize_node.inputs[0]


def _insert_choice(
    model: ir.Model,
    switches: dict[str, ir.Value],
    layer: str,
    rounded: ir.Value,
    exact: ir.Value,
) -> ir.Value:
    """Return the rounded tensor where the layer's switch is on, the exact one where it is off."""
    if layer not in switches:
        switches[layer] = _optional_graph_input(model, f"{layer}_switch", np.array(False))
    node = ir.node("Where", [switches[layer], rounded, exact])
    choice = node.outputs[0]
    choice.shape = exact.shape
    choice.type = exact.type
    producer = rounded.producer()
    assert producer is not None
    model.graph.insert_after(producer, node)
    return choice

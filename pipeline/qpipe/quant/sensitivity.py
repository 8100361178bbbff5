"""How far a network's outputs move when some of it is quantized: weights exchanged, roundings switched, one by one.

A copy of the network has each weight and bias as an input, and a switch wherever a layer reads rounded activations. One
session serves all that is tried; what is not said is float.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.graph import is_plain
from qpipe.quant.inference import session
from qpipe.quant.integer_operators import PAIR, is_moving
from qpipe.samples.store import Samples
from qpipe.types import Array

BOUND_DB = 200.0


@dataclass(frozen=True, eq=False)
class Exchange:
    """Weights by name and biases by layer in the place of the float ones, and the layers whose inputs are rounded; a
    layer goes by the name of its output."""

    weights: Mapping[str, Array] = field(default_factory=dict)
    biases: Mapping[str, Array] = field(default_factory=dict)
    rounded: Collection[str] = ()


class Probe:
    """A network on some samples, and what its outputs lose by an exchange.

    `origins` are the float weights, by name, in the place of the network's own (which may be float already), with the
    biases of their layers in the float network.
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
        fed = [value.name or "" for value in copy.graph.inputs]
        self._switches = _open_roundings(copy)
        self._weights, self._biases = _open_layers(copy, origins)
        self._session = session(copy, threads=threads)
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._feeds = [samples.feeds(index, fed) for index in indices]
        self._reference = list(self.outputs())

    @property
    def roundings(self) -> list[str]:
        """The layers that read rounded activations; the network's outputs among them where they are rounded last."""
        return list(self._switches)

    def outputs(self, exchange: Exchange | None = None) -> Iterator[dict[str, Array]]:
        """The network's outputs for each sample; without an exchange those of float. Biases of layers that add none, or
        one that is computed, are left alone."""
        given: dict[str, Array] = {name: np.array(False) for name in self._switches.values()}
        if exchange is not None:
            given |= {
                self._weights[name]: np.asarray(w, np.float32)
                for name, w in exchange.weights.items()
            }
            biases = {self._biases.get(layer): bias for layer, bias in exchange.biases.items()}
            given |= {
                name: np.asarray(bias, np.float32)
                for name, bias in biases.items()
                if name is not None
            }
            given |= {self._switches[layer]: np.array(True) for layer in exchange.rounded}
        for feeds in self._feeds:
            yield dict(zip(self._outputs, self._session.run(None, {**feeds, **given}), strict=True))

    def damage(self, exchange: Exchange) -> float:
        """Noise over signal of the outputs, the mean of all that are numbers with a signal: 0.01 is 20 dB."""
        return relative_noise(self._reference, self.outputs(exchange))


def relative_noise(
    reference: Sequence[Mapping[str, Array]], outputs: Iterator[Mapping[str, Array]]
) -> float:
    """Power of the difference over that of the reference, over all samples, the mean over outputs; 0 where the
    reference has no power at all, infinite where an output is no number."""
    signal: dict[str, float] = dict.fromkeys(reference[0], 0.0)
    noise = dict(signal)
    for exact, found in zip(reference, outputs, strict=True):
        for name, array in exact.items():
            wanted = array.astype(np.float64)
            signal[name] += float(np.sum(wanted**2))
            noise[name] += float(np.sum((found[name] - wanted) ** 2))
    parts = [noise[name] / power for name, power in signal.items() if power > 0]
    mean = sum(parts) / len(parts) if parts else 0.0
    return mean if math.isfinite(mean) else math.inf


def decibels(damage: float) -> float:
    """The signal to noise ratio that a damage stands for, within 200 dB either way."""
    if damage <= 0:
        return BOUND_DB
    return max(-BOUND_DB, min(BOUND_DB, -10 * math.log10(damage)))


# ---- what can be exchanged


def layer_name(node: ir.Node) -> str:
    """What a layer is called here: node names may be missing, and given twice."""
    return node.outputs[0].name or ""


def _open_layers(
    model: ir.Model, origins: Mapping[str, qdq.Weight]
) -> tuple[dict[str, str], dict[str, str]]:
    """Put float weights and biases where the network's own are, as inputs that need not be fed; the names of these."""
    weights = {}
    biases = {}
    for weight in qdq.weights(model):
        origin = origins.get(weight.name)
        if origin is None:
            continue
        value = _input(model, f"{weight.name}_exchanged", np.asarray(origin.array, np.float32))
        weights[weight.name] = value.name or ""
        for node, source in zip(weight.nodes, origin.nodes, strict=True):
            node.replace_input_with(1, value)
            if node.op_type != "MatMul" and is_plain(source):
                own = qdq.bias(source)
                channels = np.zeros(weight.array.shape[weight.channel_axis], np.float32)
                bias = _input(
                    model, f"{layer_name(node)}_exchanged", channels + (0 if own is None else own)
                )
                node.resize_inputs(max(3, len(node.inputs)))
                node.replace_input_with(2, bias)
                biases[layer_name(node)] = bias.name or ""
    return weights, biases


def _open_roundings(model: ir.Model) -> dict[str, str]:
    """Put a switch before each reader of rounded activations; the names of the switches by layer."""
    switches: dict[str, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type in PAIR:
            continue
        passes_on = is_moving(node) and all(
            r.op_type == "QuantizeLinear" for r in node.outputs[0].consumers()
        )
        for index, value in enumerate(node.inputs):
            exact = _unrounded(value)
            if exact is None:
                continue
            if (
                passes_on and not node.outputs[0].is_graph_output()
            ):  # they are rounded behind it, to the same values
                node.replace_input_with(index, exact)
                continue
            switch = switches.setdefault(
                layer_name(node), _switch(model, layer_name(node), switches)
            )
            node.replace_input_with(
                index, _choice(model, switch, value, exact, f"{layer_name(node)}_{index}")
            )
    for index, value in enumerate(model.graph.outputs):
        exact = _unrounded(value)
        if exact is not None:
            name = value.name or ""
            value.name = f"{name}_rounded"
            switch = switches.setdefault(name, _switch(model, name, switches))
            model.graph.outputs[index] = chosen = _choice(model, switch, value, exact, name)
            chosen.name = name
    return {layer: switch.name or "" for layer, switch in switches.items()}


def _unrounded(value: ir.Value | None) -> ir.Value | None:
    """What the QuantizeLinear before a tensor's DequantizeLinear got; None for all other tensors."""
    restored = value.producer() if value is not None else None
    if restored is None or restored.op_type != "DequantizeLinear" or restored.inputs[0] is None:
        return None
    rounded = restored.inputs[0].producer()
    return (
        rounded.inputs[0] if rounded is not None and rounded.op_type == "QuantizeLinear" else None
    )


def _switch(model: ir.Model, layer: str, known: Mapping[str, ir.Value]) -> ir.Value:
    return known[layer] if layer in known else _input(model, f"{layer}_switch", np.array(False))


def _choice(
    model: ir.Model, switch: ir.Value, rounded: ir.Value | None, exact: ir.Value, name: str
) -> ir.Value:
    """The rounded tensor where the switch is on, the exact one where it is off."""
    node = ir.node("Where", [switch, rounded, exact], name=f"{name}_choice")
    chosen = node.outputs[0]
    chosen.name = f"{name}_chosen"
    chosen.shape = exact.shape
    chosen.type = exact.type
    reader = rounded.producer() if rounded is not None else None
    assert reader is not None
    model.graph.insert_after(reader, node)
    return chosen


def _input(model: ir.Model, name: str, array: Array) -> ir.Value:
    """A constant that may be another at each inference."""
    value = qdq.initializer(model, name, array)
    value.dtype = ir.DataType.from_numpy(array.dtype)
    value.shape = ir.Shape(array.shape)
    model.graph.inputs.append(value)
    return value

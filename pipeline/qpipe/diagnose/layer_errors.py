"""What each layer's rounding costs the network's outputs, of its weights and of what it reads, and what may help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.diagnose.range_fit import Reading, readings, spread
from qpipe.quant import qdq
from qpipe.quant.graph import is_plain
from qpipe.quant.sensitivity import Exchange, Probe, decibels, layer_name
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress

WIDE = 8.0  # times the range of the median channel: one channel leaves the others three bits fewer
CLIPPED = 0.001  # share of values; fewer are outliers that a range may well leave out


@dataclass(frozen=True)
class LayerLoss:
    """A layer, and the signal to noise ratio of the network's outputs, in dB, with only it rounded (`only`), all but it
    (`without`), and of it only the weights or only what it reads; None where it has none of these."""

    layer: str
    operator: str
    only: float
    without: float
    weights: float | None
    activations: float | None
    weight: str | None = None
    bits: int | None = None
    channels: float | None = (
        None  # range of the largest channel of the weights over that of the median
    )
    reads: str | None = None  # what it reads that clips most
    clipped: float | None = None  # share of that tensor's values beyond its range
    remedy: str = ""


@dataclass(frozen=True)
class Losses:
    """All layers, worst first, and the outputs' dB with all weights, all activations, or both rounded."""

    weights: float
    activations: float
    both: float
    layers: Sequence[LayerLoss]


@dataclass(frozen=True, eq=False)
class Part:
    """A weight with its nodes, or a node without one, and what is exchanged for it."""

    node: ir.Node
    weight: qdq.Weight | None
    origin: qdq.Weight | None  # the float weight it came from
    weights: Exchange
    activations: Exchange


def losses(
    model: ir.Model,
    float_model: ir.Model,
    samples: Samples,
    indices: Sequence[int],
    progress: Progress,
) -> Losses:
    """Measure each layer of a quantized network, on some of the samples, against the float network it was made of."""
    found = origins(model, float_model)
    probe = Probe(model, found, samples, indices)
    parts = _parts(model, found, probe)
    read = readings(model, float_model, samples, indices)
    all_weights = _together([p.weights for p in parts])
    all_activations = _together([p.activations for p in parts])
    everything = _together([all_weights, all_activations])
    layers = []
    for done, part in enumerate(parts):
        progress(done, len(parts), "layers")
        layers.append(_loss(part, everything, probe, read))
    layers.sort(key=lambda layer: layer.only)
    weights, activations, both = (
        decibels(probe.damage(e)) for e in (all_weights, all_activations, everything)
    )
    return Losses(weights, activations, both, layers)


def origins(model: ir.Model, float_model: ir.Model) -> dict[str, qdq.Weight]:
    """The float weight of each quantized one, by the name of the latter: recorded, or of the node of the same name with
    a weight of the same shape, where another quantizer records nothing."""
    own = qdq.weights(float_model)
    named = {weight.name: weight for weight in own}
    placed = {weight.node.name: weight for weight in own if weight.node.name}
    found = {}
    for weight in qdq.weights(model):
        origin = named.get(weight.name) or placed.get(weight.node.name or "")
        if origin and weight.is_quantized and _stands_for(weight, origin):
            found[weight.name] = origin
    return found


def _stands_for(weight: qdq.Weight, origin: qdq.Weight) -> bool:
    return origin.array.shape == weight.array.shape and len(origin.nodes) == len(weight.nodes)


def _parts(model: ir.Model, found: Mapping[str, qdq.Weight], probe: Probe) -> list[Part]:
    left = dict.fromkeys(probe.roundings)
    parts = []
    for weight in qdq.weights(model):
        names = [layer_name(node) for node in weight.nodes]
        if weight.name in found:
            sources = zip(weight.nodes, found[weight.name].nodes, strict=True)
            biases = {
                layer_name(node): _bias(weight, node)
                for node, source in sources
                if is_plain(source)
            }
            rounded = [name for name in names if name in left]
            weights = Exchange({weight.name: weight.array}, biases)
            parts.append(
                Part(weight.node, weight, found[weight.name], weights, Exchange(rounded=rounded))
            )
            left = {name: None for name in left if name not in names}
    nodes = {layer_name(node): node for node in model.graph}
    outputs = {value.name or "": value.producer() for value in model.graph.outputs}
    for name in left:
        node = nodes.get(name) or outputs.get(name)
        if node is not None:
            parts.append(Part(node, None, None, Exchange(), Exchange(rounded=[name])))
    return parts


def _bias(weight: qdq.Weight, node: ir.Node) -> Array:
    own = qdq.bias(node)
    return np.zeros(weight.array.shape[weight.channel_axis], np.float32) + (
        0 if own is None else own
    )


def _together(exchanges: Sequence[Exchange]) -> Exchange:
    return Exchange(
        {name: array for each in exchanges for name, array in each.weights.items()},
        {name: array for each in exchanges for name, array in each.biases.items()},
        [name for each in exchanges for name in each.rounded],
    )


def _without(everything: Exchange, part: Exchange) -> Exchange:
    return Exchange(
        {name: array for name, array in everything.weights.items() if name not in part.weights},
        {name: array for name, array in everything.biases.items() if name not in part.biases},
        [name for name in everything.rounded if name not in part.rounded],
    )


def _loss(
    part: Part, everything: Exchange, probe: Probe, read: Mapping[str, Sequence[Reading]]
) -> LayerLoss:
    both = _together([part.weights, part.activations])
    only, without = (decibels(probe.damage(each)) for each in (both, _without(everything, both)))
    weights = decibels(probe.damage(part.weights)) if part.weights.weights else None
    activations = decibels(probe.damage(part.activations)) if part.activations.rounded else None
    own = [reading for name in part.activations.rounded for reading in read.get(name, ())]
    worst = max(own, key=lambda reading: reading.clipped, default=None)
    quantized = part.weight.quantized if part.weight else None
    return LayerLoss(
        part.node.name or layer_name(part.node),
        part.node.op_type,
        only,
        without,
        weights,
        activations,
        part.weight.name if part.weight else None,
        quantized.codebook.bits if quantized else None,
        _spread(part.origin) if part.origin else None,
        worst.tensor if worst else None,
        worst.clipped if worst else None,
        remedy(part, weights, activations, worst),
    )


def _spread(weight: qdq.Weight) -> float:
    channels = np.abs(np.moveaxis(weight.array, weight.channel_axis, 0)).reshape(
        weight.array.shape[weight.channel_axis], -1
    )
    return spread(channels.max(axis=1))


def remedy(
    part: Part, weights: float | None, activations: float | None, read: Reading | None
) -> str:
    """What to try first for a layer, in words."""
    if (
        part.weight is not None
        and part.origin is not None
        and (activations is None or (weights or 0) <= activations)
    ):
        return _of_weights(part.weight, part.origin)
    if read is None:
        return "keep it float: exclude it"
    if read.clipped > CLIPPED:
        return f"the range of '{read.tensor}' clips {100 * read.clipped:.2g} %: use activations: minmax"
    if read.channels > WIDE:
        return f"channels of '{read.tensor}' differ {read.channels:.0f}x: equalize, or activations: mse"
    return f"'{read.tensor}' is rounded coarsely: use activations: mse or percentile, or exclude the layer"


def _of_weights(weight: qdq.Weight, origin: qdq.Weight) -> str:
    differ = _spread(origin)
    quantized = weight.quantized
    assert quantized is not None
    bits = quantized.codebook.bits
    if quantized.axis is None and differ > WIDE:
        return f"channels differ {differ:.0f}x: use granularity channel, or equalize before it"
    if bits < 7 and weight.kind == "depthwise":
        return f"{bits}-bit depthwise: give it 8 bits (mixed; of logarithmic, bits_depthwise: 8), or compensate"
    if bits < 7:
        return f"{bits} bits are few for it: give it more (mixed), or compensate"
    return "round it better: compensate behind what quantizes it; or keep it float: exclude it"

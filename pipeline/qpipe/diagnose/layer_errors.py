"""What each layer's rounding costs the network's outputs, and what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qpipe.diagnose.range_fit import RangeFit, channel_spread, range_fits
from qpipe.diagnose.remedies import Remedies
from qpipe.quant import qdq
from qpipe.quant.layer_parts import Part, difference, origins, read_parts, union
from qpipe.quant.sensitivity import Probe, Substitution, decibels, layer_name
from qpipe.recipe.stage_call import Call
from qpipe.samples.store import Samples
from qpipe.types import Progress

# dB of the outputs: with more, rounding better is what helps
BEARABLE = 30.0
# where so few of the layers have this share of what all lose, they carry the loss
FEW_LAYERS = 0.25
MOST_OF_LOSS = 0.8


@dataclass(frozen=True)
class LayerLoss:
    """The SQNR of the network's outputs, in dB, by what is rounded of one layer.

    `only`: this layer alone; `without`: all layers but this; `weights` and `activations`: only that
    of this layer, None where it has none.
    """

    layer: str
    operator: str
    only: float
    without: float
    weights: float | None
    activations: float | None
    weight: str | None = None
    bits: int | None = None
    # range of the largest channel of the weights over that of the median channel
    channels: float | None = None
    reads: str | None = None  # the tensor it reads that clips most
    clipped: float | None = None  # share of that tensor's values beyond its range
    remedy: str = ""


@dataclass(frozen=True)
class Losses:
    """All layers, worst first, and the SQNR in dB with all weights, activations or both rounded."""

    weights: float
    activations: float
    both: float
    layers: Sequence[LayerLoss]


def losses(
    model: ir.Model,
    float_model: ir.Model,
    samples: Samples,
    indices: Sequence[int],
    progress: Progress,
    chain: Sequence[Call] = (),
) -> Losses:
    """Measure each layer of a quantized network against its float network, on some samples.

    `chain` are the stages that quantized it.
    """
    remedies = Remedies(chain)
    float_origins = origins(model, float_model)
    probe = Probe(model, float_origins, samples, indices)
    parts = read_parts(model, float_origins, probe)
    fits = range_fits(model, float_model, samples, indices)
    all_weights = union([part.weights for part in parts])
    all_activations = union([part.activations for part in parts])
    everything = union([all_weights, all_activations])
    measured: list[MeasuredLayer] = []
    for done, part in enumerate(parts):
        progress(done, len(parts), "layers")
        measured.append(_measure(part, everything, probe, fits))
    measured.sort(key=lambda layer: layer.loss.only)
    both = decibels(probe.damage(everything))
    carrying = _carrying(measured) if both < BEARABLE else 0
    layers = [
        replace(layer.loss, remedy=_remedy(remedies, layer, carries_loss=number < carrying))
        for number, layer in enumerate(measured)
    ]
    return Losses(
        weights=decibels(probe.damage(all_weights)),
        activations=decibels(probe.damage(all_activations)),
        both=both,
        layers=layers,
    )


def _carrying(measured: Sequence[MeasuredLayer]) -> int:
    """Return how many of the worst layers carry the loss; 0 where these are not few."""
    damages = [10 ** (-layer.loss.only / 10) for layer in measured]
    total = sum(damages)
    shares = np.cumsum(damages) / total if total > 0 else np.ones(len(damages))
    count = int(np.searchsorted(shares, MOST_OF_LOSS)) + 1
    return count if count <= FEW_LAYERS * len(measured) else 0


# ---- one layer


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer's loss, what it was measured of, and the range of what it reads that clips most."""

    loss: LayerLoss
    part: Part
    worst_fit: RangeFit | None


def _measure(
    part: Part,
    everything: Substitution,
    probe: Probe,
    fits: Mapping[str, Sequence[RangeFit]],
) -> MeasuredLayer:
    weights_db: float | None = None
    activations_db: float | None = None
    if part.weights.weights:
        weights_db = decibels(probe.damage(part.weights))
    if part.activations.rounded:
        activations_db = decibels(probe.damage(part.activations))
    layer_fits = [fit for name in part.activations.rounded for fit in fits.get(name, ())]
    worst_fit = max(layer_fits, key=lambda fit: fit.clipped, default=None)
    quantized = part.weight.quantized if part.weight else None
    loss = LayerLoss(
        layer=part.node.name or layer_name(part.node),
        operator=part.node.op_type,
        only=decibels(probe.damage(part.both)),
        without=decibels(probe.damage(difference(everything, part.both))),
        weights=weights_db,
        activations=activations_db,
        weight=part.weight.name if part.weight else None,
        bits=quantized.codebook.bits if quantized else None,
        channels=_weight_spread(part.origin) if part.origin else None,
        reads=worst_fit.tensor if worst_fit else None,
        clipped=worst_fit.clipped if worst_fit else None,
    )
    return MeasuredLayer(loss, part, worst_fit)


def _weight_spread(weight: qdq.Weight) -> float:
    channels = np.moveaxis(weight.array, weight.channel_axis, 0)
    magnitudes = np.abs(channels.reshape(len(channels), -1)).max(axis=1)
    return channel_spread(magnitudes)


def _remedy(remedies: Remedies, layer: MeasuredLayer, *, carries_loss: bool) -> str:
    """Return what to try first for a layer, in words."""
    weights_db = layer.loss.weights
    activations_db = layer.loss.activations
    weight = layer.part.weight
    origin = layer.part.origin
    weights_are_worse = activations_db is None or (weights_db or 0) <= activations_db
    if weight is not None and origin is not None and weights_are_worse:
        return remedies.for_weight(weight, _weight_spread(origin), carries_loss=carries_loss)
    return remedies.for_activations(layer.worst_fit, carries_loss=carries_loss)

"""Layers that stay float so that a quantized network keeps to a floor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from glob import escape

import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.layer_parts import nodes_to_keep_float, origins, read_parts
from qpipe.quant.sensitivity import Probe, decibels
from qpipe.samples.store import Samples
from qpipe.types import Progress
from qpipe_plugins.quantize.output_noise import OutputNoise

# quantizes the network but for nodes of these names
Quantize = Callable[[Collection[str]], ir.Model]

log = logging.getLogger(__name__)


class UnreachableFloorError(StageError):
    """Nothing but float reaches the floor."""


def reach_floor(
    quantize: Quantize,
    float_model: ir.Model,
    samples: Samples,
    indices: Sequence[int],
    *,
    floor: float,
    progress: Progress,
    where: str,
) -> ir.Model:
    """Return the quantized network with as few of its worst layers float as `floor` dB take.

    Layers are ordered by what rounding their weights and activations alone costs the outputs; how
    many of them it takes is measured on the network as a whole. Log which they are. Raise
    UnreachableFloorError, which begins with `where`, where it takes all of them.
    """
    noise = OutputNoise(samples, indices, float_model, threads=1)
    limit = 10 ** (-floor / 10)
    best = quantize(())
    if noise.of(best) > limit:
        ranked = _rank(best, float_model, samples, indices, progress)
        best = _with_float_layers(quantize, ranked, noise, limit)
    if not any(weight.is_quantized for weight in qdq.weights(best)):
        raise UnreachableFloorError(
            f"{where}: outputs reach {floor:g} dB only with all layers float; give a lower sqnr"
        )
    return best


def _with_float_layers(
    quantize: Quantize, ranked: Sequence[Sequence[str]], noise: OutputNoise, limit: float
) -> ir.Model:
    """Return the network with the fewest of the ranked nodes float that keep to the limit."""
    too_few = 0
    enough = len(ranked) + 1
    count = 1
    while too_few + 1 < enough:
        count = min(count, len(ranked))
        model = quantize(_names(ranked[:count]))
        model_noise = noise.of(model)
        if model_noise <= limit or count == len(ranked):
            best = model
            best_noise = model_noise
            enough = count
        else:
            too_few = count
        count = _next_count(too_few, enough, len(ranked))
    kept = sorted(_names(ranked[:enough]))
    log.warning(
        "%d more nodes stay float, for %.1f dB with activations: %s",
        len(kept),
        decibels(best_noise),
        ", ".join(kept),
    )
    return best


def _next_count(too_few: int, enough: int, total: int) -> int:
    """Return the next number to try: twice as many until they are enough, then half-way."""
    if enough > total:
        return 2 * too_few
    return (too_few + enough) // 2


def _names(ranked: Sequence[Sequence[str]]) -> set[str]:
    """Return the names of nodes as patterns that match nothing else."""
    return {escape(name) for names in ranked for name in names}


def _rank(
    model: ir.Model,
    float_model: ir.Model,
    samples: Samples,
    indices: Sequence[int],
    progress: Progress,
) -> list[list[str]]:
    """Return for each part of the network, worst first, the nodes that keep it float."""
    float_origins = origins(model, float_model)
    probe = Probe(model, float_origins, samples, indices)
    parts = read_parts(model, float_origins, probe)
    damages: list[float] = []
    for index, part in enumerate(parts):
        progress(index, len(parts), "layers with activations")
        damages.append(probe.damage(part.both))
    order = sorted(range(len(parts)), key=lambda index: -damages[index])
    return [nodes_to_keep_float(model, parts[index]) for index in order]

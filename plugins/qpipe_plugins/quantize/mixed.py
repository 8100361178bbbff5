"""Mixed precision: bits for each layer, by what its errors cost the network's outputs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import onnx_ir as ir
from pydantic import Field

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.activations import ActivationRange
from qpipe.quant.codebook import Codebook, apot, pot, uniform
from qpipe.quant.knapsack import minimize_cost, minimize_damage
from qpipe.quant.sensitivity import Probe, decibels
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Percent
from qpipe.types import ANY_TARGET, Progress, Target
from qpipe_plugins.quantize.activations import quantize_activations_of_weights
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.float_layers import reach_floor
from qpipe_plugins.quantize.held_out import spread_indices
from qpipe_plugins.quantize.layer_damages import FLOAT_BITS, DamageJournal, measure_damages
from qpipe_plugins.quantize.paired_layers import copy_weight

DEFAULT_SIZE = 0.6
POT_BITS = range(2, 5)
APOT_BITS = range(3, 6)
WHERE = "quantize mixed"

Bits = Literal[2, 3, 4, 5, 6, 7, 8, 32]
Levels = Literal["uniform", "pot", "apot"]
Granularity = Literal["tensor", "channel"]

log = logging.getLogger(__name__)


def mixed(
    model: ir.Model,
    float_model: ir.Model,
    statistics: Statistics,
    calibration_samples: Samples,
    workdir: Path,
    progress: Progress,
    target: Target = ANY_TARGET,
    *,
    bits: Annotated[tuple[Bits, ...], Field(min_length=1)] = (4, 5, 6, 8),
    size: Annotated[float, Field(gt=0, le=4)] | None = None,
    sqnr: Annotated[float, Field(ge=-100, le=100)] | None = None,
    layers: Count | None = None,
    levels: Levels = "uniform",
    granularity: Granularity = "channel",
    samples: Count = 16,
    activation_range: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Choose the bits of each layer by what its errors cost the outputs; 8-bit activations.

    `bits` are the numbers to choose from; 32 leaves a layer float. The choice has the least damage
    in all at one of: `size`, a part of what these weights take at 8 bits (0.6 by default);
    `layers`, the number of layers that get more than the fewest bits ({bits: [8, 32], layers: 3}
    keeps the three float that cost most); or the least size at `sqnr`, in dB, of the outputs. Where
    32 is one of the bits, `sqnr` is a floor for activations too: {bits: [8, 32], sqnr: 30} keeps
    those layers float that would ruin the outputs, by their weights or by what they read and write.
    Weights are rounded to nearest and biases corrected; put compensate behind it, which does
    better than this stage assumes. `levels` pot and apot are those of logarithmic, where they have
    so many bits; more bits are uniform. Shapes stay. Costs an inference of `samples` for each
    layer and number of bits: a minute or two for a MobileNet; a run that was killed continues
    where it was.
    Method: damages of layers add up (Dong et al. 2020, HAWQ-V2, arXiv 1911.03852), here measured,
    not estimated; the choice is exact, a knapsack by dynamic programming.
    """
    if sum(goal is not None for goal in (size, sqnr, layers)) > 1:
        raise StageError(f"{WHERE}: size, sqnr and layers exclude each other; give one of them")
    qdq.check_exclude(model, exclude, WHERE)
    weights = qdq.float_weights(model, exclude)
    names = [weight.name for weight in weights]
    counts = [weight.array.size for weight in weights]
    bit_widths = sorted(set(bits))
    quantized: dict[int, dict[str, qdq.Weight]] = {}
    for width in bit_widths:
        if width != FLOAT_BITS:
            network = ir.from_proto(ir.to_proto(float_model))
            _quantize_to_nearest(
                network,
                names,
                codebook=_codebook(levels, width),
                granularity=granularity,
                target=target,
            )
            network = correct_bias(network, float_model, statistics)
            quantized[width] = {weight.name: weight for weight in qdq.weights(network)}
    damages = measure_damages(
        names,
        bit_widths,
        quantized,
        probe=_probe(float_model, names, calibration_samples, samples),
        journal=DamageJournal(workdir / "damages.jsonl"),
        progress=progress,
    )
    choice = _choose(bit_widths, counts, damages, size=size, sqnr=sqnr, layers=layers)
    _log_choice(weights, bit_widths, choice, damages)
    chosen = {
        name: quantized[bit_widths[option]][name]
        for name, option in zip(names, choice, strict=True)
        if bit_widths[option] != FLOAT_BITS
    }

    def quantize(float_nodes: Collection[str]) -> ir.Model:
        network = ir.from_proto(ir.to_proto(model))
        for weight in qdq.float_weights(network, [*exclude, *float_nodes]):
            if weight.name in chosen:
                copy_weight(network, weight, chosen[weight.name])
        quantize_activations_of_weights(
            network,
            statistics,
            target,
            calibration_samples,
            activation_range=activation_range,
            percentile=percentile,
            exclude=[*exclude, *float_nodes],
        )
        return network

    if sqnr is None or FLOAT_BITS not in bit_widths:
        return quantize(())
    indices = spread_indices(calibration_samples, samples)
    return reach_floor(
        quantize,
        float_model,
        calibration_samples,
        indices,
        floor=sqnr,
        progress=progress,
        where=WHERE,
    )


def _probe(
    float_model: ir.Model, names: Sequence[str], calibration_samples: Samples, samples: int
) -> Probe:
    """Return a probe of the float network on samples that are evenly spread."""
    float_weights = {weight.name: weight for weight in qdq.weights(float_model)}
    indices = spread_indices(calibration_samples, samples)
    return Probe(
        float_model, {name: float_weights[name] for name in names}, calibration_samples, indices
    )


# ---- all weights at one number of bits


def _codebook(levels: Levels, bits: int) -> Codebook:
    """Return the codebook of the levels where it has so many bits, else the uniform one."""
    if levels == "pot" and bits in POT_BITS:
        return pot(bits)
    if levels == "apot" and bits in APOT_BITS:
        return apot(bits)
    return uniform(bits)


def _quantize_to_nearest(
    model: ir.Model,
    names: Sequence[str],
    *,
    codebook: Codebook,
    granularity: Granularity,
    target: Target,
) -> None:
    """Round the named weights to nearest; with fewer bits than usual, scales clip."""
    method: Literal["minmax", "mse"] = "mse"
    if codebook.bits >= qdq.FULL_BITS:
        method = "minmax"
    for weight in qdq.weights(model):
        if weight.name in names:
            axis = weight.channel_axis if granularity == "channel" else None
            quantized = qdq.to_codebook(weight, codebook, axis=axis, method=method, target=target)
            qdq.quantize_weight(model, weight, quantized)


# ---- the choice


def _choose(
    bit_widths: Sequence[int],
    counts: Sequence[int],
    damages: Sequence[Sequence[float]],
    *,
    size: float | None,
    sqnr: float | None,
    layers: int | None,
) -> list[int]:
    """Return for each layer the index of its bit width."""
    if layers is not None:
        is_wider = [int(width > bit_widths[0]) for width in bit_widths]
        return minimize_damage([is_wider] * len(counts), damages, layers)
    costs = [[width * count for width in bit_widths] for count in counts]
    if sqnr is not None:
        return minimize_cost(costs, damages, 10 ** (-sqnr / 10))
    return minimize_damage(costs, damages, (size or DEFAULT_SIZE) * 8 * sum(counts))


def _log_choice(
    weights: Sequence[qdq.Weight],
    bit_widths: Sequence[int],
    choice: Sequence[int],
    damages: Sequence[Sequence[float]],
) -> None:
    """Log the mean bits, the damage in all, and the choice of each layer."""
    total_damage = 0.0
    total_bits = 0
    total_count = 0
    for weight, option, layer_damages in zip(weights, choice, damages, strict=True):
        total_damage += layer_damages[option]
        total_bits += bit_widths[option] * weight.array.size
        total_count += weight.array.size
    log.warning(
        "%.2f bits per weight; %.1f dB expected with these alone, rounded to nearest",
        total_bits / max(total_count, 1),
        decibels(total_damage),
    )
    for weight, option, layer_damages in zip(weights, choice, damages, strict=True):
        options = [
            f"{width}: {decibels(damage):.1f} dB"
            for width, damage in zip(bit_widths, layer_damages, strict=True)
        ]
        log.warning("%s: %d bits (%s)", weight.name, bit_widths[option], ", ".join(options))

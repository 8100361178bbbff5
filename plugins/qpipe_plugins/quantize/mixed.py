"""Mixed precision: each layer gets the bits that its errors, as the network's outputs feel them, ask for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import onnx_ir as ir
from pydantic import Field

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.activations import ActivationRange, quantize_activations
from qpipe.quant.codebook import Codebook, additive_powers_of_two, powers_of_two, uniform
from qpipe.quant.knapsack import cheapest, least_damage
from qpipe.quant.sensitivity import Exchange, Probe, decibels, layer_name
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count, Percent
from qpipe.types import ANY_TARGET, Progress, Target
from qpipe_plugins.quantize.correct_bias import correct_bias

FLOAT = 32  # of a layer that is not quantized
USUAL_SIZE = 0.6

Bits = Literal[2, 3, 4, 5, 6, 7, 8, 32]
Levels = Literal["uniform", "power_of_two", "additive"]
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
    activations: ActivationRange = "minmax",
    percentile: Percent = 99.99,
    exclude: tuple[str, ...] = (),
) -> ir.Model:
    """Bits layer by layer, by what each layer's errors alone cost the network's outputs; 8-bit activations.

    `bits` are those to choose from; 32 leaves a layer float. They are chosen for the least damage in all at one of:
    `size`, a part of what these weights take at 8 bits (0.6 unless told otherwise); `layers`, so many get more than the
    fewest bits ({bits: [8, 32], layers: 3} keeps the three float that cost most); or for the least size at `sqnr`, in
    dB, of the outputs. Weights are rounded to nearest, biases corrected; put compensate behind it, which does better
    than this stage counts on. Costs an inference of `samples` for each layer and number of bits: a minute or two for a
    MobileNet; a run that was killed goes on where it was.
    Method: damages of layers add up (Dong et al. 2020, HAWQ-V2, arXiv 1911.03852), here measured, not estimated; the
    choice is exact, a knapsack by dynamic programming.
    """
    if sum(goal is not None for goal in (size, sqnr, layers)) > 1:
        raise StageError("quantize mixed: several of size, sqnr and layers; give one of them")
    qdq.check_exclude(model, exclude, "quantize mixed")
    weights = qdq.float_weights(model, exclude)
    fine = qdq.weight_bits(target)
    options = sorted({FLOAT if each == FLOAT else min(each, fine) for each in bits})
    networks = {}
    for option in options:
        if option != FLOAT:
            made = ir.from_proto(ir.to_proto(float_model))
            _to_nearest(
                made, weights, _codebook(levels, option), granularity, option >= fine, target
            )
            networks[option] = correct_bias(made, float_model, statistics)
    count = min(samples, len(calibration_samples))
    indices = [at * len(calibration_samples) // count for at in range(count)]
    own = {weight.name: weight for weight in qdq.weights(float_model)}
    probe = Probe(float_model, {w.name: own[w.name] for w in weights}, calibration_samples, indices)
    journal = Journal(workdir / "damages.jsonl")
    damages = _damages(
        [weight.name for weight in weights], options, networks, probe, journal, progress
    )
    chosen = _chosen(
        options, [weight.array.size for weight in weights], damages, size, sqnr, layers
    )
    _tell(weights, options, chosen, damages)
    for weight, option in zip(weights, chosen, strict=True):
        if options[option] != FLOAT:
            _take_over(model, weight, networks[options[option]])
    if activations != "none":
        quantize_activations(
            model,
            statistics,
            method=activations,
            percentile=percentile,
            exclude=exclude,
            target=target,
        )
    return model


# ---- all weights at one number of bits


def _codebook(levels: Levels, bits: int) -> Codebook:
    """That of the levels, where it can tell so many bits apart, uniform beyond."""
    if levels == "power_of_two" and bits <= 4:
        return powers_of_two(bits)
    return (
        additive_powers_of_two(bits) if levels == "additive" and 3 <= bits <= 5 else uniform(bits)
    )


def _to_nearest(
    model: ir.Model,
    chosen: Sequence[qdq.Weight],
    book: Codebook,
    granularity: Granularity,
    fine: bool,
    target: Target,
) -> None:
    names = {weight.name for weight in chosen}
    for weight in qdq.weights(model):
        if weight.name in names:
            axis = weight.channel_axis if granularity == "channel" else None
            codes = qdq.to_codebook(
                weight, book, axis=axis, method="minmax" if fine else "mse", target=target
            )
            qdq.quantize_weight(model, weight, codes)


def _take_over(model: ir.Model, weight: qdq.Weight, source: ir.Model) -> None:
    """Codes and biases as they are in another network."""
    other = next(each for each in qdq.weights(source) if each.name == weight.name)
    if other.quantized is not None:
        qdq.quantize_weight(model, weight, other.quantized)
    for node, one in zip(weight.nodes, other.nodes, strict=True):
        bias = qdq.bias(one)
        if bias is not None:
            qdq.set_bias(model, node, bias)


# ---- what each layer costs


class Journal:
    """Damages as they are measured, a line each, on disk at once; a line that was cut is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, int], float] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            with suppress(ValueError):
                name, bits, damage = json.loads(line)
                self._known[name, bits] = damage

    def damage(self, name: str, bits: int, measure: Callable[[], float]) -> float:
        """What is known of it, or is measured now."""
        if (name, bits) not in self._known:
            self._known[name, bits] = measure()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, bits, self._known[name, bits]]) + "\n")
        return self._known[name, bits]


def _damages(
    names: Sequence[str],
    options: Sequence[int],
    networks: Mapping[int, ir.Model],
    probe: Probe,
    journal: Journal,
    progress: Progress,
) -> list[list[float]]:
    """What each layer alone costs the outputs with each option; more bits never cost more."""
    exchanges = {option: _exchanges(network) for option, network in networks.items()}
    found = []
    for done, name in enumerate(names):
        progress(done, len(names), "layers measured")
        own = [
            0.0
            if option == FLOAT
            else journal.damage(name, option, partial(probe.damage, exchanges[option][name]))
            for option in options
        ]
        found.append([min(own[: at + 1]) for at in range(len(own))])
    return found


def _exchanges(network: ir.Model) -> dict[str, Exchange]:
    """For each weight, the exchange of it, and of the biases of its layers, alone."""
    return {
        weight.name: Exchange(
            {weight.name: weight.array},
            {
                layer_name(node): bias
                for node in weight.nodes
                if (bias := qdq.bias(node)) is not None
            },
        )
        for weight in qdq.weights(network)
    }


# ---- the choice


def _chosen(
    options: Sequence[int],
    sizes: Sequence[int],
    damages: Sequence[Sequence[float]],
    size: float | None,
    sqnr: float | None,
    layers: int | None,
) -> list[int]:
    """The option of each layer."""
    costs = [[option * each for option in options] for each in sizes]
    if layers is not None:
        return least_damage(
            [[int(option > options[0]) for option in options]] * len(sizes), damages, layers
        )
    if sqnr is not None:
        return cheapest(costs, damages, 10 ** (-sqnr / 10))
    return least_damage(costs, damages, (size or USUAL_SIZE) * 8 * sum(sizes))


def _tell(
    weights: Sequence[qdq.Weight],
    options: Sequence[int],
    chosen: Sequence[int],
    damages: Sequence[Sequence[float]],
) -> None:
    total = sum(own[option] for own, option in zip(damages, chosen, strict=True))
    bits = sum(
        options[option] * weight.array.size for weight, option in zip(weights, chosen, strict=True)
    )
    mean = bits / max(sum(weight.array.size for weight in weights), 1)
    log.warning(
        "%.2f bits a weight; %.1f dB expected of these alone, rounded to nearest",
        mean,
        decibels(total),
    )
    for weight, option, own in zip(weights, chosen, damages, strict=True):
        each = ", ".join(
            f"{bits}: {decibels(damage):.1f} dB" for bits, damage in zip(options, own, strict=True)
        )
        log.warning("%s: %d bits (%s)", weight.name, options[option], each)

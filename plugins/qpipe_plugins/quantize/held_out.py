"""Samples that a fit leaves out, which then tell whether what it made of a network is better."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.sensitivity import decibels
from qpipe.samples.store import Samples
from qpipe_plugins.quantize.output_noise import OutputNoise
from qpipe_plugins.quantize.paired_layers import copy_weight

HOLD_OUT_EVERY = 10  # one sample in so many, as long as these are no more than MOST_HELD_OUT
HOLD_OUT_OFFSET = 5
MOST_HELD_OUT = 8
PARTS = 4  # of the network, each of which may keep its start

log = logging.getLogger(__name__)


def is_held_out(index: int, count: int) -> bool:
    """Return whether a fit to `count` samples leaves out the one at `index`."""
    step = max(HOLD_OUT_EVERY, -(-count // MOST_HELD_OUT))
    return count >= HOLD_OUT_EVERY and index % step == HOLD_OUT_OFFSET


def spread_indices(samples: Samples, count: int) -> list[int]:
    """Return the indices of at most `count` samples, evenly spread over all."""
    total = len(samples)
    chosen = min(count, total)
    return [number * total // chosen for number in range(chosen)]


def keep_what_helps(
    start: ir.Model, fitted: ir.Model, held_out: OutputNoise, stage: str
) -> ir.Model:
    """Return the fitted network where it is no further from float than its start.

    Elsewhere return the start with those parts of the fitted network that bring it closer, if any.
    Log what is kept. Costs one inference a sample for each network, and four more where the fit
    is worse.
    """
    start_noise = held_out.of(start)
    fitted_noise = held_out.of(fitted)
    log.warning(
        "%s: outputs at %.1f dB before, %.1f dB afterwards",
        stage,
        decibels(start_noise),
        decibels(fitted_noise),
    )
    if fitted_noise <= start_noise:
        return fitted
    names = _changed_weights(start, fitted)
    kept = list(names)
    best_noise = fitted_noise
    for part in parts(names):
        fewer = [name for name in kept if name not in part]
        noise = held_out.of(_combine(start, fitted, fewer))
        if noise < best_noise:
            kept = fewer
            best_noise = noise
    if best_noise >= start_noise:
        kept = []
        best_noise = start_noise
    log.warning(
        "%s: worse than the network that it was given, so %d of %d weights stay as they were: "
        "%.1f dB",
        stage,
        len(names) - len(kept),
        len(names),
        decibels(best_noise),
    )
    return _combine(start, fitted, kept)


def _changed_weights(start: ir.Model, fitted: ir.Model) -> list[str]:
    """Return the names of the quantized weights in both networks, in the order of the graph."""
    start_names = {weight.name for weight in qdq.weights(start)}
    return [
        weight.name
        for weight in qdq.weights(fitted)
        if weight.is_quantized and weight.name in start_names
    ]


def parts(names: Sequence[str]) -> Iterator[Collection[str]]:
    """Yield the names in at most PARTS successive parts."""
    size = -(-len(names) // PARTS)
    for first in range(0, len(names), size):
        yield set(names[first : first + size])


def _combine(start: ir.Model, fitted: ir.Model, names: Collection[str]) -> ir.Model:
    """Return a copy of the start in which the named weights are those of the fitted network."""
    model = ir.from_proto(ir.to_proto(start))
    sources = {weight.name: weight for weight in qdq.weights(fitted)}
    for weight in qdq.weights(model):
        if weight.name in names:
            copy_weight(model, weight, sources[weight.name])
    return model

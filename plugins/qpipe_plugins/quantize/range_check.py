"""Whether searched ranges of activations move the outputs further than the whole ranges would.

A search weighs every value of a tensor alike. Where the network picks the largest ones, as a
maximum over time does, what a clipped range loses is what counts.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qpipe.quant import ranges
from qpipe.quant.activations import insert_pairs
from qpipe.quant.sensitivity import decibels
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.types import Target
from qpipe_plugins.quantize.held_out import parts, spread_indices
from qpipe_plugins.quantize.output_noise import OutputNoise

SEARCHED_METHODS = ("mse", "entropy")
CHECKED_SAMPLES = 16
# of the noise of minmax: what less differs on a few samples is chance
MARGIN = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RangeOptions:
    """How the activations of a network are quantized."""

    method: ranges.Method
    bits: int
    percentile: float
    exclude: Sequence[str]


def unclipped_tensors(
    model: ir.Model,
    statistics: Statistics,
    target: Target,
    samples: Samples,
    options: RangeOptions,
) -> Collection[str]:
    """Return the tensors to quantize with minmax instead, where that is clearly better.

    The network has quantized weights; held against it, not against float, is what its activations
    add. Costs two inferences of a few samples, and four more where the searched ranges are worse.
    """
    indices = spread_indices(samples, CHECKED_SAMPLES)
    activation_noise = OutputNoise(samples, indices, model, threads=1)

    def noise_without_clipping(names: Collection[str]) -> float:
        network = ir.from_proto(ir.to_proto(model))
        insert_pairs(
            network,
            statistics,
            method=options.method,
            bits=options.bits,
            percentile=options.percentile,
            exclude=options.exclude,
            target=target,
            unclipped=names,
        )
        return activation_noise.of(network)

    names = list(statistics)
    searched_noise = noise_without_clipping(())
    whole_noise = noise_without_clipping(names)
    if not whole_noise * MARGIN < searched_noise:
        return ()
    unclipped: list[str] = []
    least_noise = searched_noise
    for part in parts(names):
        more = [*unclipped, *part]
        noise = noise_without_clipping(more)
        if noise < least_noise:
            unclipped = more
            least_noise = noise
    if whole_noise < least_noise:
        unclipped = names
        least_noise = whole_noise
    log.warning(
        "activation_range %s: outputs at %.1f dB, with minmax at %.1f dB: %d of %d tensors keep "
        "minmax: %.1f dB",
        options.method,
        decibels(searched_noise),
        decibels(whole_noise),
        len(unclipped),
        len(names),
        decibels(least_noise),
    )
    return unclipped

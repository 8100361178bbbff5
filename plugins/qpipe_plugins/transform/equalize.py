"""Cross-layer equalization: channels trade their scale with the next layer, and the network stays the same function."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import Array, Progress
from qpipe_plugins.transform.layer_chains import Chain, chains
from qpipe_plugins.transform.scaling_limits import limit


def equalize(
    model: ir.Model,
    calibration_samples: Samples,
    progress: Progress,
    *,
    samples: Count = 64,
    iterations: Count = 40,
    tolerance: float = 1e-5,
) -> ir.Model:
    """Even out the ranges of weight channels across layers, so that one scale per tensor serves them all.

    Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721), aware of ReLU6: a Clip's bound stays where it is
    while a channel's values move under it, so a channel moves only as far as this costs, on the samples, at most
    `tolerance` of the mean power of its tensor's channels; 0 keeps the function exact on them. High biases (section
    4.1.3 there) stay: a Clip bounds their channels no wider than its others, and what a layer pads with would change.
    Costs about three inferences per sample.
    """
    found = chains(model.graph)
    limit(model, found, calibration_samples, samples, tolerance, progress)
    for _ in range(iterations):
        if max((_rescale(chain) for chain in found), default=0.0) < 1e-3:
            break
    for layer in {
        id(layer): layer for chain in found for layer in (*chain.producers, *chain.consumers)
    }.values():
        layer.store()
    return model


def _rescale(chain: Chain) -> float:
    """Divide what the chain carries by the best factors, multiply it back behind; how far they were from 1."""
    before = _joint(layer.output_ranges() for layer in chain.producers)
    behind = _joint(layer.input_ranges() for layer in chain.consumers)
    alive = (before > 0) & (behind > 0)  # a dead channel has no best factor
    factors = np.ones(len(before))
    least = np.broadcast_to(chain.least, alive.shape)[alive]
    most = np.broadcast_to(chain.most, alive.shape)[alive]
    if alive.any():
        factors[alive] = _best(before[alive], behind[alive], least, most)
    chain.least = chain.least / factors
    chain.most = chain.most / factors
    for layer in chain.producers:
        layer.scale_outputs(1 / factors)
    for layer in chain.consumers:
        layer.scale_inputs(factors)
    return float(np.abs(np.log(factors)).max())


def _best(before: Array, behind: Array, least: Array, most: Array) -> Array:
    """Factors inside their limits that minimise the product of both layers' largest ranges.

    The paper's objective: the sum over channels of the logarithms of range over largest range. Let `first` be the
    largest range before the chain: a channel then needs a factor of at least before / first, and the product of both
    largest is max(first * max(behind * least), max(before * behind)): flat between two values of `first`.
    """
    if not (least > 0).any() and np.isinf(most).all():
        balanced: Array = np.sqrt(before / behind)
        return balanced
    low = float((before / most).max())
    high = float((before * behind).max() / max((behind * least).max(), 1e-30))
    first = low if low >= high else float(np.sqrt(max(low, high / 1e3) * high))
    needed = np.maximum(least, before / first)
    second = float((behind * needed).max())
    factors: Array = np.sqrt(before / first * second / behind).clip(
        needed, np.minimum(most, second / behind)
    )
    return factors


def _joint(ranges: Iterator[Array]) -> Array:
    """The largest of several layers' ranges by channel, each relative to its layer's largest."""
    joint: Array = np.max([r / max(float(r.max()), 1e-30) for r in ranges], axis=0)
    return joint

"""Cross-layer equalization: layers exchange the scales of channels; the function stays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qpipe.samples.store import Samples
from qpipe.stages.bounds import Count
from qpipe.types import Array, Progress
from qpipe_plugins.transform.layer_chains import Chain, find_chains
from qpipe_plugins.transform.scaling_limits import limit_factors, measure_magnitudes

CONVERGED = 1e-3  # largest logarithm of a factor in the last iteration
TINY = 1e-30  # instead of a division by zero
# where nothing bounds the range before the chain from below, it is at least this part of the bound
# from above
WIDEST_SEARCH = 1e3


def equalize(
    model: ir.Model,
    calibration_samples: Samples,
    progress: Progress,
    *,
    samples: Count = 64,
    iterations: Count = 40,
    tolerance: float = 1e-5,
) -> ir.Model:
    """Equalize the ranges of weight channels across layers, so that one scale per tensor fits all.

    Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721), aware of ReLU6: the bound of a
    Clip stays where it is while the values of a channel move under it, so a channel is scaled only
    as far as this costs, on the samples, at most `tolerance` of the mean power of its tensor's
    channels; 0 keeps the function exact on them. Where no Clip bounds them, the activations, which
    have one scale per tensor, count as the weights before them do: a channel of tiny weights and a
    large bias keeps its size. High biases (section 4.1.3 there) stay: what a layer pads with would
    change. Shapes stay. Costs about four inferences per sample.
    """
    chains = find_chains(model.graph)
    limit_factors(
        model, chains, calibration_samples, count=samples, tolerance=tolerance, progress=progress
    )
    measure_magnitudes(model, chains, calibration_samples, count=samples, progress=progress)
    for _ in range(iterations):
        change = max((_rescale(chain) for chain in chains), default=0.0)
        if change < CONVERGED:
            break
    layers = dict.fromkeys(layer for chain in chains for layer in chain.layers)
    for layer in layers:
        layer.store()
    return model


def _rescale(chain: Chain) -> float:
    """Divide what the chain carries by the best factors and multiply it back behind the chain.

    Return the largest logarithm of a factor: how far the ranges were from equal.
    """
    before = _joint_ranges(
        [*(layer.output_ranges() for layer in chain.producers), *chain.magnitudes]
    )
    behind = _joint_ranges(layer.input_ranges() for layer in chain.consumers)
    is_alive = (before > 0) & (behind > 0)  # a dead channel has no best factor
    factors = np.ones(len(before))
    if is_alive.any():
        least = np.broadcast_to(chain.least, is_alive.shape)
        most = np.broadcast_to(chain.most, is_alive.shape)
        factors[is_alive] = _best_factors(
            before[is_alive], behind[is_alive], least=least[is_alive], most=most[is_alive]
        )
    chain.least = chain.least / factors
    chain.most = chain.most / factors
    chain.magnitudes = [magnitudes / factors for magnitudes in chain.magnitudes]
    for layer in chain.producers:
        layer.scale_outputs(1 / factors)
    for layer in chain.consumers:
        layer.scale_inputs(factors)
    return float(np.abs(np.log(factors)).max())


def _best_factors(before: Array, behind: Array, *, least: Array, most: Array) -> Array:
    """Return the factors [C], within their limits, that minimize the product of the largest range
    before the chain and the largest one behind it.

    This is the objective of the paper: the sum over channels of the logarithms of range over
    largest range. Let `largest_before` be the largest range before the chain: a channel then needs
    a factor of at least before / largest_before, and the product of both largest ranges is
    max(largest_before * max(behind * least), max(before * behind)): flat between two values of
    `largest_before`.
    """
    has_no_limits = not (least > 0).any() and np.isinf(most).all()
    if has_no_limits:
        balanced: Array = np.sqrt(before / behind)
        return balanced
    low = float((before / most).max())
    high = float((before * behind).max() / max((behind * least).max(), TINY))
    largest_before = low
    if low < high:
        largest_before = float(np.sqrt(max(low, high / WIDEST_SEARCH) * high))
    needed = np.maximum(least, before / largest_before)
    largest_behind = float((behind * needed).max())
    factors: Array = np.sqrt(before / largest_before * largest_behind / behind)
    allowed = np.minimum(most, largest_behind / behind)
    return factors.clip(needed, allowed)


def _joint_ranges(ranges: Iterable[Array]) -> Array:
    """Return the largest of several ranges by channel, each relative to the largest channel's in
    the same layer or tensor, [C].
    """
    relative = [by_channel / max(float(by_channel.max()), TINY) for by_channel in ranges]
    joint: Array = np.max(relative, axis=0)
    return joint

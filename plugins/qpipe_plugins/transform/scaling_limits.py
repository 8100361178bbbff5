"""What scaling channels between two layers must respect: the bounds of Clips, which stay where they
are, and the size of activations, which have one scale per tensor.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant.activations import clipped_output
from qpipe.quant.inference import inferences, open_session
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress
from qpipe_plugins.transform.layer_chains import Chain

BINS_PER_BOUND = 128  # histogram bins from 0 up to a Clip's bound
MAX_BOUNDS = 8  # the bins reach to so many times the bound
LAST_BIN = BINS_PER_BOUND * MAX_BOUNDS


def limit_factors(
    model: ir.Model,
    chains: list[Chain],
    samples: Samples,
    *,
    count: int,
    tolerance: float,
    progress: Progress,
) -> None:
    """Narrow the limits `least` and `most` of each channel's factor in each chain with a Clip.

    A factor within them costs, on the first `count` samples, at most `tolerance` of the mean power
    of the tensor's channels.
    """
    chains_by_tensor = {name: chain for chain in chains for name in chain.clips}
    if not chains_by_tensor:
        return
    histograms: dict[str, Array] = {}
    total = min(count, len(samples))
    session = open_session(model, list(chains_by_tensor))
    for index, arrays in enumerate(inferences(session, samples, total)):
        for name, chain in chains_by_tensor.items():
            histogram = _channel_histogram(arrays.pop(name) / chain.clips[name])
            if name in histograms:
                histogram = histograms[name] + histogram
            histograms[name] = histogram
        progress(index + 1, total, "samples")
    for name, chain in chains_by_tensor.items():
        least, most = _factor_limits(histograms[name], tolerance)
        chain.least = np.maximum(chain.least, least)
        chain.most = np.minimum(chain.most, most)


def measure_magnitudes(
    model: ir.Model, chains: list[Chain], samples: Samples, *, count: int, progress: Progress
) -> None:
    """Set the `magnitudes` of each chain without a Clip, over the first `count` samples.

    What a Relu follows has no range of its own, and so no magnitudes.
    """
    chains_by_tensor: dict[str, Chain] = {}
    for chain in chains:
        for value in chain.tensors:
            if not chain.clips and clipped_output(value) is None:
                chains_by_tensor[value.name or ""] = chain
    if not chains_by_tensor:
        return
    largest: dict[str, Array] = {}
    total = min(count, len(samples))
    session = open_session(model, list(chains_by_tensor))
    for index, arrays in enumerate(inferences(session, samples, total)):
        for name in chains_by_tensor:
            magnitudes = _channel_magnitudes(arrays.pop(name))
            largest[name] = np.maximum(largest.get(name, 0.0), magnitudes)
        progress(index + 1, total, "samples")
    for name, chain in chains_by_tensor.items():
        chain.magnitudes.append(largest[name])


def _channel_magnitudes(array: Array) -> Array:
    """Return the largest magnitude of each channel of a tensor [N, C, ...], [C]."""
    by_channel = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
    magnitudes: Array = np.abs(by_channel).max(axis=1).astype(np.float64)
    return magnitudes


def _channel_histogram(values: Array) -> Array:
    """Return counts [C, bins] of a [1, C, ...] tensor in units of its bound.

    The first bin has all values up to 0, the last one all beyond the others.
    """
    channels = values.shape[1]
    bin_count = LAST_BIN + 1
    scaled = np.ceil(values.reshape(channels, -1) * BINS_PER_BOUND)
    bins = scaled.clip(0, LAST_BIN).astype(np.int32)
    bins += np.arange(channels, dtype=np.int32)[:, np.newaxis] * bin_count
    counts = np.bincount(bins.reshape(-1), minlength=channels * bin_count)
    return counts.reshape(channels, bin_count)


def _factor_limits(counts: Array, tolerance: float) -> tuple[Array, Array]:
    """Return the least and the largest factor of each channel, [C].

    A smaller factor costs what the Clip then cuts of values below the bound; a larger one what
    then passes of values beyond it.
    """
    # upper ends of the bins, so that no cut is missed
    values = np.arange(counts.shape[1]) / BINS_PER_BOUND
    share = counts / counts.sum(axis=1, keepdims=True)
    clipped = np.minimum(values, 1)
    allowed = tolerance * float(np.mean(share @ clipped**2))
    smaller = np.arange(1, BINS_PER_BOUND + 1) / BINS_PER_BOUND
    larger = np.arange(BINS_PER_BOUND, LAST_BIN + 1) / BINS_PER_BOUND
    cut = share @ np.maximum(clipped[:, np.newaxis] - smaller, 0) ** 2
    passed = share @ np.maximum(np.minimum(values[:, np.newaxis], larger) - 1, 0) ** 2
    least = smaller[np.argmax(cut <= allowed, axis=1)]
    steps_from_last = np.argmax(passed[:, ::-1] <= allowed, axis=1)
    most = larger[passed.shape[1] - 1 - steps_from_last]
    return least, np.where(most == MAX_BOUNDS, np.inf, most)

"""How far the values between two layers may be scaled, where a Clip's bound stays where it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant.inference import inferences, session
from qpipe.samples.store import Samples
from qpipe.types import Array, Progress
from qpipe_plugins.transform.layer_chains import Chain

STEPS = 128  # bins up to a Clip's bound
REACH = 8  # bounds that the bins reach to


def limit(
    model: ir.Model,
    found: list[Chain],
    data: Samples,
    count: int,
    tolerance: float,
    progress: Progress,
) -> None:
    """Find how far each channel of each chain with a Clip may be scaled, its `least` and `most`.

    As far as that costs, on the samples, at most `tolerance` of the mean power of the tensor's channels.
    """
    names = {name: chain for chain in found for name in chain.clips}
    if not names:
        return
    counts: dict[str, Array] = {}
    total = min(count, len(data))
    for done, arrays in enumerate(inferences(session(model, list(names)), data, total)):
        for name in names:
            more = _by_channel(arrays.pop(name) / names[name].clips[name])
            counts[name] = counts[name] + more if name in counts else more
        progress(done + 1, total, "samples")
    for name, chain in names.items():
        least, most = _limits(counts[name], tolerance)
        chain.least = np.maximum(chain.least, least)
        chain.most = np.minimum(chain.most, most)


def _by_channel(values: Array) -> Array:
    """Counts [C, bins] of a [1, C, ...] tensor in units of its bound; the last bin has all beyond."""
    channels = values.shape[1]
    bins = np.ceil(values.reshape(channels, -1) * STEPS).clip(0, STEPS * REACH).astype(np.int32)
    bins += np.arange(channels, dtype=np.int32)[:, np.newaxis] * (STEPS * REACH + 1)
    return np.bincount(bins.reshape(-1), minlength=channels * (STEPS * REACH + 1)).reshape(
        channels, -1
    )


def _limits(counts: Array, tolerance: float) -> tuple[Array, Array]:
    """The least and the largest factor of each channel, by what cutting below the bound and passing above it costs."""
    values = np.arange(counts.shape[1]) / STEPS  # upper ends, so that nothing is cut unseen
    share = counts / counts.sum(axis=1, keepdims=True)
    inside = np.minimum(values, 1)
    allowed = tolerance * float(np.mean(share @ inside**2))
    below = np.arange(1, STEPS + 1) / STEPS
    above = np.arange(STEPS, STEPS * REACH + 1) / STEPS
    cut = share @ np.maximum(inside[:, np.newaxis] - below, 0) ** 2
    passed = share @ np.maximum(np.minimum(values[:, np.newaxis], above) - 1, 0) ** 2
    least = below[np.argmax(cut <= allowed, axis=1)]
    last = above[passed.shape[1] - 1 - np.argmax(passed[:, ::-1] <= allowed, axis=1)]
    return least, np.where(last == REACH, np.inf, last)

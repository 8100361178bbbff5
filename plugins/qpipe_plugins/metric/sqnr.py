"""Signal to quantization noise ratio of the outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

import qpipe
from qpipe.types import Array

BOUND_DB = 200.0  # double precision ends near 300 dB


def sqnr() -> qpipe.Metric:
    """Power of the float outputs over power of the difference, in dB over all samples, of the worst output.

    Stays within 200 dB either way: outputs that are the same bit for bit score 200, outputs that are no numbers -200.
    """
    return qpipe.Metric("sqnr_db", _powers, _worst, unit="dB", against="float_outputs")


def _powers(outputs: Mapping[str, Array], float_outputs: Mapping[str, Array]) -> Array:
    """Sums over one sample, [outputs, 2]: signal, noise."""
    missing = sorted(set(float_outputs) - set(outputs))
    if missing:
        raise qpipe.StageError(
            f"metric sqnr: output '{missing[0]}' of float is missing; there is {', '.join(outputs)}"
        )
    powers = [_power(name, outputs[name], reference) for name, reference in float_outputs.items()]
    return np.asarray(np.nan_to_num(powers, nan=np.inf, posinf=np.inf))


def _power(name: str, output: Array, reference: Array) -> tuple[float, float]:
    if np.shape(output) != np.shape(reference):
        reason = f"output '{name}' is {list(np.shape(output))}, that of float {list(np.shape(reference))}"
        raise qpipe.StageError(
            f"metric sqnr: {reason}; leave sqnr out by accuracy's option always: [agreement]"
        )
    ours = np.asarray(output, np.float64)
    signal = np.asarray(reference, np.float64)
    same = ours == signal  # so are infinities, such as those of masks, which have no power
    noise = np.subtract(ours, signal, out=np.zeros_like(signal), where=~same)
    signal = np.where(np.isinf(signal), 0, signal)
    return float(np.sum(signal * signal)), float(np.sum(noise * noise))


def _worst(contributions: Sequence[Array]) -> float:
    return min(
        _decibels(signal, noise) for signal, noise in np.sum(np.stack(contributions), axis=0)
    )


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return BOUND_DB
    if signal == 0 or not math.isfinite(noise):
        return -BOUND_DB
    return max(-BOUND_DB, min(BOUND_DB, 10 * math.log10(signal / noise)))

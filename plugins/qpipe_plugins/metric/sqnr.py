"""Signal to quantization noise ratio of the outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

import qpipe
from qpipe.types import Array

BOUND_DB = 200.0  # double precision ends near 300 dB


def sqnr() -> qpipe.Metric:
    """Power of the float outputs over power of the difference, in dB, of the worst output.

    Powers are summed over all samples. Values are within -200 and 200 dB: outputs equal to the last
    bit score 200, NaN outputs -200.
    """
    return qpipe.Metric("sqnr_db", _powers, _worst_output, unit="dB", against="float_outputs")


def _powers(outputs: Mapping[str, Array], float_outputs: Mapping[str, Array]) -> Array:
    """Return the sums of one sample, [outputs, 2]: signal, noise."""
    missing = sorted(set(float_outputs) - set(outputs))
    if missing:
        reason = f"output '{missing[0]}' of float is missing"
        raise qpipe.StageError(f"metric sqnr: {reason}; there is {', '.join(outputs)}")
    powers = [_power(name, outputs[name], reference) for name, reference in float_outputs.items()]
    return np.asarray(np.nan_to_num(powers, nan=np.inf, posinf=np.inf))


def _power(name: str, output: Array, reference: Array) -> tuple[float, float]:
    output_shape = list(np.shape(output))
    float_shape = list(np.shape(reference))
    if output_shape != float_shape:
        reason = f"output '{name}' is {output_shape}, that of float {float_shape}"
        fix = "leave sqnr out by accuracy's option always: [agreement]"
        raise qpipe.StageError(f"metric sqnr: {reason}; {fix}")
    values = np.asarray(output, np.float64)
    signal = np.asarray(reference, np.float64)
    # equal values include infinities, such as those of masks, which have no power
    equal = values == signal
    noise = np.subtract(values, signal, out=np.zeros_like(signal), where=~equal)
    signal = np.where(np.isinf(signal), 0, signal)
    return float(np.sum(signal * signal)), float(np.sum(noise * noise))


def _worst_output(contributions: Sequence[Array]) -> float:
    totals = np.sum(np.stack(contributions), axis=0)
    return min(_decibels(signal, noise) for signal, noise in totals)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return BOUND_DB
    if signal == 0 or not math.isfinite(noise):
        return -BOUND_DB
    ratio_db = 10 * math.log10(signal / noise)
    return max(-BOUND_DB, min(BOUND_DB, ratio_db))

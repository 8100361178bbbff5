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
    bit score 200, NaN outputs -200. Outputs whose shape is not that of float for some sample, such
    as what NonMaxSuppression selects, are left out and named.
    """
    return qpipe.Metric(
        "sqnr_db",
        _powers,
        _worst_output,
        unit="dB",
        against="float_outputs",
        not_compared=_changed_shapes,
    )


def _powers(outputs: Mapping[str, Array], float_outputs: Mapping[str, Array]) -> Array:
    """Return the sums of one sample, [outputs, 2]: signal, noise; NaN for another shape."""
    missing = sorted(set(float_outputs) - set(outputs))
    if missing:
        reason = f"output '{missing[0]}' of float is missing"
        raise qpipe.StageError(f"metric sqnr: {reason}; there is {', '.join(outputs)}")
    changed_shapes = _changed_shapes(outputs, float_outputs)
    if changed_shapes.keys() == float_outputs.keys():
        name, reason = next(iter(changed_shapes.items()))
        raise _nothing_to_compare(f"output '{name}' {reason}")
    powers = []
    for name, reference in float_outputs.items():
        power = (np.nan, np.nan)
        if name not in changed_shapes:
            power = _power(outputs[name], reference)
        powers.append(power)
    return np.asarray(powers)


def _changed_shapes(
    outputs: Mapping[str, Array], float_outputs: Mapping[str, Array]
) -> dict[str, str]:
    """Return the outputs whose shape is not that of float, and both shapes in words."""
    reasons: dict[str, str] = {}
    for name, reference in float_outputs.items():
        output_shape = list(np.shape(outputs[name]))
        float_shape = list(np.shape(reference))
        if output_shape != float_shape:
            reasons[name] = f"is {output_shape}, that of float {float_shape}"
    return reasons


def _nothing_to_compare(reason: str) -> qpipe.StageError:
    fix = "leave sqnr out by accuracy's option always: [agreement]"
    return qpipe.StageError(f"metric sqnr: {reason}; {fix}")


def _power(output: Array, reference: Array) -> tuple[float, float]:
    values = np.asarray(output, np.float64)
    signal = np.asarray(reference, np.float64)
    # equal values include infinities, such as those of masks, which have no power
    equal = values == signal
    noise = np.subtract(values, signal, out=np.zeros_like(signal), where=~equal)
    signal = np.where(np.isinf(signal), 0, signal)
    powers = np.array([np.sum(signal * signal), np.sum(noise * noise)])
    signal_power, noise_power = np.nan_to_num(powers, nan=np.inf, posinf=np.inf)
    return float(signal_power), float(noise_power)


def _worst_output(contributions: Sequence[Array]) -> float:
    totals = np.sum(np.stack(contributions), axis=0)
    ratios = [_decibels(signal, noise) for signal, noise in totals if not math.isnan(signal)]
    if not ratios:
        raise _nothing_to_compare("no output has the shape of float's for all samples")
    return min(ratios)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return BOUND_DB
    if signal == 0 or not math.isfinite(noise):
        return -BOUND_DB
    ratio_db = 10 * math.log10(signal / noise)
    return max(-BOUND_DB, min(BOUND_DB, ratio_db))

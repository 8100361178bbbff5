"""The metrics of one build from its timed rounds; disturbed rounds are stored but do not count."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import qpipe
from qpipe.compare.intervals import Interval, paired_ratio
from qpipe.compare.round_statistics import (
    ENOUGH_FOR_P99,
    FEWEST,
    WHEN_STOPPING,
    least,
    median,
    percentile,
)
from qpipe_plugins.measure.round_journal import interval

Rounds = Sequence[qpipe.Round]
Reasons = Sequence[str | None]  # for each round: why it does not count
Estimate = tuple[float, Interval | None]  # a value and its interval


def undisturbed(rounds: Rounds) -> Rounds:
    """Return the rounds that nothing disturbed; all where there is none (see `doubt`)."""
    return [timed for timed in rounds if not timed.invalid] or rounds


def doubt(reasons: Reasons) -> Mapping[str, str]:
    """Return, for the detail of a measurement, why it is in doubt; empty where a round counts."""
    if not all(reasons):
        return {}
    return {"doubt": f"all {len(reasons)} rounds were disturbed: {reasons[-1]}"}


def counted_values(rounds: Rounds) -> list[Sequence[float]]:
    """Return the values of the rounds that count, in ms."""
    return [timed.values_ms for timed in undisturbed(rounds)]


def is_precise(rounds: Rounds, precision: float) -> bool:
    """Return whether the median is known to `precision`, relative, by an interval.

    The interval allows for measuring that ends early.
    """
    values = counted_values(rounds)
    if len(values) < FEWEST:
        return False
    middle, bounds = median(values, WHEN_STOPPING)
    return bounds is not None and (bounds[1] - bounds[0]) / 2 <= precision * middle


def timing_measurements(
    rounds: Rounds,
    float_rounds: Rounds | None,
    *,
    stopped: str,
    precision: float,
    may_stop_early: bool,
) -> list[qpipe.Measurement]:
    """Return all measurements of a build; `float_rounds` are the same rounds of the float build.

    `stopped` names what ended the measuring, `may_stop_early` whether it could end before. Every
    measurement has raw values: all values for the median, for each other metric one value a round,
    so that it can be paired with that of another build.
    """
    values = [timed.values_ms for timed in rounds]
    counted = counted_values(rounds)
    batch = rounds[0].batch
    reasons = [timed.invalid for timed in rounds]
    middle = median(counted, WHEN_STOPPING if may_stop_early else 0.95)
    measurements = [
        _median_latency(rounds, middle, stopped=stopped, precision=precision),
        _by_round(
            "latency_p90_ms",
            percentile(counted, 0.90),
            [percentile([round_values], 0.90)[0] for round_values in values],
            reasons=reasons,
        ),
        _by_round("latency_min_ms", least(counted), list(map(min, values)), reasons=reasons),
        _by_round(
            "throughput",
            _throughput(batch, middle),
            [_samples_per_second(batch, statistics.median(one)) for one in values],
            reasons=reasons,
            unit="/s",
            better="max",
        ),
        _median_by_round("load_ms", rounds, [timed.load_ms for timed in rounds]),
        _median_by_round("first_ms", rounds, [timed.first_ms for timed in rounds]),
    ]
    if sum(map(len, counted)) >= ENOUGH_FOR_P99:
        tails = [percentile([round_values], 0.99)[0] for round_values in values]
        measurements.append(
            _by_round("latency_p99_ms", percentile(counted, 0.99), tails, reasons=reasons)
        )
    if float_rounds:
        measurements.append(_ratio(rounds, float_rounds))
    return measurements


def _median_latency(
    rounds: Rounds, middle: Estimate, *, stopped: str, precision: float
) -> qpipe.Measurement:
    value, bounds = middle
    low, high = bounds or (None, None)
    reasons = [timed.invalid for timed in rounds]
    return qpipe.Measurement(
        "latency_ms",
        value,
        "ms",
        low,
        high,
        len(undisturbed(rounds)),
        rounds=[list(timed.values_ms) for timed in rounds],
        conditions=[
            {"invalid": timed.invalid, "environment": timed.environment} for timed in rounds
        ],
        detail={**_detail(rounds, stopped=stopped, precision=precision), **doubt(reasons)},
    )


def _detail(rounds: Rounds, *, stopped: str, precision: float) -> Mapping[str, Any]:
    """Return what ended the measuring, and what is notable about its rounds."""
    detail: dict[str, Any] = {"stopped": stopped}
    if precision:
        detail["precise"] = is_precise(rounds, precision)
    value_count = sum(map(len, counted_values(rounds)))
    if value_count < ENOUGH_FOR_P99:
        reason = f"{value_count} values; from {ENOUGH_FOR_P99} on they bound it"
        detail["withheld"] = {"latency_p99_ms": reason}
    disturbed_count = sum(bool(timed.invalid) for timed in rounds)
    if disturbed_count:
        detail["invalid"] = disturbed_count
    unsteady_count = sum(timed.steady is False for timed in rounds)
    if unsteady_count:
        detail["never_steady"] = unsteady_count
    return detail


def _ratio(rounds: Rounds, float_rounds: Rounds) -> qpipe.Measurement:
    """Return the ratio to float, over the rounds that nothing disturbed in either build.

    Where there is none it is over all rounds, and in doubt.
    """
    medians = [statistics.median(timed.values_ms) for timed in rounds]
    float_medians = [statistics.median(timed.values_ms) for timed in float_rounds]
    reasons = [
        _pair_reason(timed, float_timed)
        for timed, float_timed in zip(rounds, float_rounds, strict=True)
    ]
    counted = [index for index, reason in enumerate(reasons) if not reason]
    indices = counted or range(len(reasons))
    ratio = paired_ratio(
        [medians[index] for index in indices], [float_medians[index] for index in indices]
    )
    ratios = [value / base for value, base in zip(medians, float_medians, strict=True)]
    return _by_round("latency_ratio", ratio, ratios, reasons=reasons, unit="")


def _pair_reason(timed: qpipe.Round, float_timed: qpipe.Round) -> str | None:
    """Return why a pair of rounds does not count."""
    if timed.invalid:
        return timed.invalid
    return f"float: {float_timed.invalid}" if float_timed.invalid else None


def _by_round(
    metric: str,
    estimate: Estimate,
    round_values: Sequence[float],
    *,
    reasons: Reasons,
    unit: str = "ms",
    better: Literal["max", "min"] = "min",
) -> qpipe.Measurement:
    """Return a metric with its interval, and its value of each round as raw values."""
    value, bounds = estimate
    low, high = bounds or (None, None)
    counted = sum(not reason for reason in reasons)
    return qpipe.Measurement(
        metric,
        value,
        unit,
        low,
        high,
        counted or len(reasons),
        better,
        rounds=[[round_value] for round_value in round_values],
        conditions=[{"invalid": reason} for reason in reasons],
        detail=doubt(reasons),
    )


def _median_by_round(
    metric: str, rounds: Rounds, round_values: Sequence[float]
) -> qpipe.Measurement:
    """Return the median of a value that each round has, over the rounds that count."""
    reasons = [timed.invalid for timed in rounds]
    pairs = zip(round_values, reasons, strict=True)
    counted = [value for value, reason in pairs if not reason] or round_values
    middle = statistics.median(counted)
    return _by_round(metric, (middle, interval(middle, counted)), round_values, reasons=reasons)


def _throughput(batch: int, latency: Estimate) -> Estimate:
    """Return samples a second, one inference after the other."""
    value, bounds = latency
    rate = _samples_per_second(batch, value)
    if bounds is None:
        return rate, None
    low, high = bounds
    return rate, (_samples_per_second(batch, high), _samples_per_second(batch, low))


def _samples_per_second(batch: int, latency_ms: float) -> float:
    return 1000 * batch / latency_ms

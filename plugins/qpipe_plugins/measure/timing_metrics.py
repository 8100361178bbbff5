"""The numbers of one build from its timed rounds; rounds that were disturbed are kept, and left out of the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
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
Reasons = Sequence[str | None]  # of each round: why it does not count


def kept(rounds: Rounds) -> Rounds:
    """The rounds that nothing disturbed; all where there is none: a number in doubt, which its detail says it is."""
    return [each for each in rounds if not each.invalid] or rounds


def doubt(reasons: Reasons) -> Mapping[str, str]:
    """For the detail of a number, why it is not to be believed; nothing where a round counts."""
    if not all(reasons):
        return {}
    return {"doubt": f"all {len(reasons)} rounds were disturbed: {reasons[-1]}"}


def valid(rounds: Rounds) -> list[Sequence[float]]:
    """The values of the rounds that count."""
    return [each.values_ms for each in kept(rounds)]


def is_precise(rounds: Rounds, precision: float) -> bool:
    """Whether the interval of the median, which allows for stopping early, is within this part of it."""
    believed = valid(rounds)
    if len(believed) < FEWEST:
        return False
    value, found = median(believed, WHEN_STOPPING)
    return found is not None and (found[1] - found[0]) / 2 <= precision * value


def measurements(
    rounds: Rounds, floats: Rounds | None, stopped: str, precision: float, looked: bool
) -> list[qpipe.Measurement]:
    """All numbers of a build; `floats` are the same rounds of float.

    `stopped` says what ended the measuring, `looked` whether it could have ended before. Every number has its rounds:
    that of the median all values, each other one number a round, so that it pairs up with that of another build.
    """
    believed = valid(rounds)
    own = kept(rounds)
    reasons = [each.invalid for each in rounds]
    middle, bounds = median(believed, WHEN_STOPPING if looked else 0.95)
    count = sum(map(len, believed))
    values = [each.values_ms for each in rounds]
    low, high = bounds or (None, None)
    tell = partial(_of_rounds, reasons=reasons)
    found = [
        qpipe.Measurement(
            "latency_ms",
            middle,
            "ms",
            low,
            high,
            len(believed),
            rounds=[list(each) for each in values],
            conditions=[
                {"invalid": each.invalid, "environment": each.environment} for each in rounds
            ],
            detail={**_detail(rounds, count, stopped, precision), **doubt(reasons)},
        ),
        tell(
            "latency_p90_ms",
            percentile(believed, 0.90),
            [percentile([each], 0.90)[0] for each in values],
        ),
        tell("latency_min_ms", least(believed), [min(each) for each in values]),
        tell(
            "throughput",
            _rate(own[0].batch, middle, bounds),
            [_rate(own[0].batch, statistics.median(each))[0] for each in values],
            unit="/s",
            better="max",
        ),
        tell(
            "load_ms", _median_of([each.load_ms for each in own]), [each.load_ms for each in rounds]
        ),
        tell(
            "first_ms",
            _median_of([each.first_ms for each in own]),
            [each.first_ms for each in rounds],
        ),
    ]
    if count >= ENOUGH_FOR_P99:
        by_round = [percentile([each], 0.99)[0] for each in values]
        found.append(tell("latency_p99_ms", percentile(believed, 0.99), by_round))
    return found + ([_ratio(rounds, floats)] if floats else [])


def _detail(rounds: Rounds, count: int, stopped: str, precision: float) -> Mapping[str, Any]:
    """What ended the measuring, and what one has to know of its rounds."""
    spoiled = sum(bool(each.invalid) for each in rounds)
    restless = sum(each.steady is False for each in rounds)
    withheld = f"{count} values; from {ENOUGH_FOR_P99} on they bound it"
    return {
        "stopped": stopped,
        **({"precise": is_precise(rounds, precision)} if precision else {}),
        **({"withheld": {"latency_p99_ms": withheld}} if count < ENOUGH_FOR_P99 else {}),
        **({"invalid": spoiled} if spoiled else {}),
        **({"never_steady": restless} if restless else {}),
    }


def _ratio(rounds: Rounds, floats: Rounds) -> qpipe.Measurement:
    """The ratio to float, of the rounds that nothing disturbed in either; of all, and in doubt, where there is none."""
    pairs = list(zip(rounds, floats, strict=True))
    medians = [
        (statistics.median(own.values_ms), statistics.median(base.values_ms)) for own, base in pairs
    ]
    reasons = [
        own.invalid or (f"float: {base.invalid}" if base.invalid else None) for own, base in pairs
    ]
    believed = [
        pair for pair, reason in zip(medians, reasons, strict=True) if not reason
    ] or medians
    ratio = paired_ratio([own for own, _ in believed], [base for _, base in believed])
    return _of_rounds(
        "latency_ratio", ratio, [own / base for own, base in medians], reasons=reasons, unit=""
    )


def _of_rounds(
    metric: str,
    found: tuple[float, Interval | None],
    by_round: Sequence[float],
    *,
    reasons: Reasons,
    unit: str = "ms",
    better: Literal["max", "min"] = "min",
) -> qpipe.Measurement:
    """A number with its interval, and the same number of each round."""
    low, high = found[1] or (None, None)
    return qpipe.Measurement(
        metric,
        found[0],
        unit,
        low,
        high,
        sum(not each for each in reasons) or len(reasons),
        better,
        rounds=[[each] for each in by_round],
        conditions=[{"invalid": each} for each in reasons],
        detail=doubt(reasons),
    )


def _rate(
    batch: int, middle: float, bounds: Interval | None = None
) -> tuple[float, Interval | None]:
    """Samples a second, one inference after the other."""
    return 1000 * batch / middle, (
        1000 * batch / bounds[1],
        1000 * batch / bounds[0],
    ) if bounds else None


def _median_of(values: Sequence[float]) -> tuple[float, Interval | None]:
    middle = statistics.median(values)
    return middle, interval(middle, values)

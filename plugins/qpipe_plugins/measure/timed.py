"""The numbers of one build from its timed rounds; rounds that were disturbed are kept, and left out of the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import qpipe
from qpipe.compare.rounds import ENOUGH_FOR_P99, WHEN_STOPPING, least, median, percentile
from qpipe.compare.statistics import Interval, paired_ratio
from qpipe_plugins.measure.rounds import interval

Rounds = Sequence[qpipe.Round]


def kept(rounds: Rounds) -> Rounds:
    """The rounds that nothing disturbed; all where there is none: a number in doubt, which its detail says it is."""
    return [each for each in rounds if not each.invalid] or rounds


def doubt(rounds: Rounds) -> Mapping[str, str]:
    """For the detail of a number, why it is not to be believed; nothing where a round counts."""
    if not all(each.invalid for each in rounds):
        return {}
    return {"doubt": f"all {len(rounds)} rounds were disturbed: {rounds[-1].invalid}"}


def valid(rounds: Rounds) -> list[Sequence[float]]:
    """The values of the rounds that count."""
    return [each.values_ms for each in kept(rounds)]


def is_precise(rounds: Rounds, precision: float) -> bool:
    """Whether the interval of the median, which allows for stopping early, is within this part of it."""
    believed = valid(rounds)
    if len(believed) < 2:
        return False
    value, found = median(believed, WHEN_STOPPING)
    return found is not None and (found[1] - found[0]) / 2 <= precision * value


def measurements(
    rounds: Rounds, floats: Rounds | None, stopped: str, precision: float, looked: bool
) -> list[qpipe.Measurement]:
    """All numbers of a build; `floats` are the same rounds of float.

    `stopped` says what ended the measuring, `looked` whether it could have ended before.
    """
    believed = valid(rounds)
    own = kept(rounds)
    middle, bounds = median(believed, WHEN_STOPPING if looked else 0.95)
    count = sum(map(len, believed))
    detail = _detail(rounds, count, "precision" if precision and is_precise(rounds, precision) else stopped)
    conditions = [{"invalid": each.invalid, "environment": each.environment} for each in rounds]
    low, high = bounds or (None, None)
    n = len(believed)
    found = [
        qpipe.Measurement(
            "latency_ms", middle, "ms", low, high, n, rounds=[list(each.values_ms) for each in rounds],
            conditions=conditions, detail=detail,
        ),
        _one("latency_p90_ms", percentile(believed, 0.90), n),
        _one("latency_min_ms", least(believed), n),
        _throughput(own[0].batch, middle, bounds, n),
        _one("load_ms", _median_of([each.load_ms for each in own]), n),
        _one("first_ms", _median_of([each.first_ms for each in own]), n),
    ]  # fmt: skip
    if count >= ENOUGH_FOR_P99:
        found.append(_one("latency_p99_ms", percentile(believed, 0.99), n))
    return found + (_ratio(rounds, floats) if floats else [])


def _detail(rounds: Rounds, count: int, stopped: str) -> Mapping[str, Any]:
    """What ended the measuring, and what one has to know of its rounds."""
    spoiled, restless = sum(bool(each.invalid) for each in rounds), sum(each.steady is False for each in rounds)
    withheld = f"{count} values; from {ENOUGH_FOR_P99} on they bound it"
    return {
        "stopped": stopped,
        **({"withheld": {"latency_p99_ms": withheld}} if count < ENOUGH_FOR_P99 else {}),
        **({"invalid": spoiled} if spoiled else {}),
        **doubt(rounds),
        **({"never_steady": restless} if restless else {}),
    }


def _ratio(rounds: Rounds, floats: Rounds) -> list[qpipe.Measurement]:
    """The ratio to float, of the rounds that nothing disturbed in either; of all where there is none."""
    both = list(zip(rounds, floats, strict=True))
    pairs = [(own, base) for own, base in both if not (own.invalid or base.invalid)] or both
    own, base = ([statistics.median(each.values_ms) for each in side] for side in zip(*pairs, strict=True))
    ratio, bounds = paired_ratio(own, base)
    return [_one("latency_ratio", (ratio, bounds), len(pairs), "")]


def _throughput(batch: int, middle: float, bounds: Interval | None, n: int) -> qpipe.Measurement:
    """Samples a second, one inference after the other."""
    low, high = (1000 * batch / bounds[1], 1000 * batch / bounds[0]) if bounds else (None, None)
    return qpipe.Measurement("throughput", 1000 * batch / middle, "/s", low, high, n, "max")


def _one(metric: str, found: tuple[float, Interval | None], n: int, unit: str = "ms") -> qpipe.Measurement:
    low, high = found[1] or (None, None)
    return qpipe.Measurement(metric, found[0], unit, low, high, n)


def _median_of(values: Sequence[float]) -> tuple[float, Interval | None]:
    middle = statistics.median(values)
    return middle, interval(middle, values)

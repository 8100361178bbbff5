"""Whether one measured number is really better than another: paired wherever both were measured alike."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from qpipe.compare import intervals
from qpipe.types import Measurement

Goal = Literal["min", "max"]
# a part of the value: what costs is seldom worth a per cent, what is right is worth half of one
MARGINS: Mapping[Goal, float] = {"min": 0.01, "max": 0.005}
SURE = 0.95


def difference(one: Measurement, other: Measurement) -> intervals.Interval:
    """The interval of one - other: paired over the same samples, resamples or interleaved rounds; else of two numbers
    that know nothing of each other."""
    pairs = _paired(one, other)
    if pairs:
        ones, others = pairs
        if one.raw == "resamples":
            return intervals.percentiles(
                np.subtract(ones, others).tolist(), one.value - other.value, one.n
            )
        return intervals.paired_difference(ones, others)[1] or intervals.ANYWHERE
    one_low, one_high = bounds(one)
    other_low, other_high = bounds(other)
    return one_low - other_high, one_high - other_low


def is_significant(one: Measurement, other: Measurement) -> bool:
    """Whether they differ by more than chance: the interval of the difference leaves out zero; of right and wrong on
    the same samples, by McNemar's test."""
    pairs = _paired(one, other)
    if (
        pairs
        and one.raw == "samples"
        and all(each in (0, 1) for series in pairs for each in series)
    ):
        return intervals.mcnemar(*pairs) < 1 - SURE
    low, high = difference(one, other)
    return low > 0 or high < 0


def is_better(
    one: Measurement, other: Measurement, goal: Goal, margin: float | None = None
) -> bool:
    """Whether one is better significantly and beyond the margin, a part of the other's value."""
    margin = MARGINS[goal] if margin is None else margin
    gain = one.value - other.value if goal == "max" else other.value - one.value
    if gain <= margin * abs(other.value) or not is_significant(one, other):
        return False
    low, high = difference(one, other)
    return low + high > 0 if goal == "max" else low + high < 0


def bounds(measurement: Measurement) -> intervals.Interval:
    """Its interval; of what is exact, the value itself; of what was tried but once, anything."""
    least, most = (
        intervals.ANYWHERE if is_single(measurement) else (measurement.value, measurement.value)
    )
    low = measurement.low
    high = measurement.high
    return (least if low is None else low), (most if high is None else high)


def is_single(measurement: Measurement) -> bool:
    """Whether nothing is known of its spread, as of one round or one sample: values were taken, and tell no interval.
    What has no values either is exact by nature, such as a size."""
    was_taken = measurement.raw != "rounds" or any(len(each) for each in measurement.rounds)
    return was_taken and measurement.low is None and measurement.high is None


def disturbed(measurement: Measurement) -> set[int]:
    """The rounds of it that do not count; none where all were disturbed: then it is a number in doubt."""
    found = {
        number
        for number, condition in enumerate(measurement.conditions)
        if condition.get("invalid")
    }
    return found if len(found) < len(measurement.conditions) else set()


def _paired(one: Measurement, other: Measurement) -> tuple[Sequence[float], Sequence[float]] | None:
    """The values of both that belong together; None where there are fewer than two of each."""
    left_out = disturbed(one) | disturbed(other)
    ones = _series(one, left_out)
    others = _series(other, left_out)
    # n is of the rounds that count, which may differ where some were disturbed
    alike = (
        one.raw == other.raw
        and (one.n == other.n or bool(left_out))
        and len(one.rounds) == len(other.rounds)
    )
    return (ones, others) if ones and others and alike and len(ones) == len(others) > 1 else None


def _series(measurement: Measurement, left_out: Collection[int]) -> Sequence[float] | None:
    """The values that pair up with another scheme's; None where they do not stand for the number measured."""
    own = disturbed(measurement)
    rounds = {n: list(values) for n, values in enumerate(measurement.rounds) if len(values)}
    believed = [values for n, values in rounds.items() if n not in own]
    if not believed:
        return None
    if measurement.raw == "resamples":
        return believed[0]
    pooled = np.concatenate(believed)
    medians = {n: float(np.median(values)) for n, values in rounds.items() if n not in own}
    by_round = measurement.raw == "rounds" and len(pooled) == len(
        believed
    )  # the number itself, of each round
    if measurement.raw == "samples":
        series = believed[0]
        middles = [np.mean(pooled)]
    else:  # whichever middle a plugin takes of its rounds
        series = [middle for n, middle in medians.items() if n not in left_out]
        taken = list(medians.values())
        middles = [np.median(pooled), np.median(taken), np.mean(taken)]
    stands = any(
        math.isclose(float(each), measurement.value, rel_tol=1e-6, abs_tol=1e-9) for each in middles
    )
    return series if stands or by_round else None

"""Whether one number is really better than another: paired wherever both were measured alike."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from qpipe.compare import intervals
from qpipe.compare.intervals import Interval
from qpipe.storage.rows import Goal as Goal
from qpipe.types import Measurement

Pairs = tuple[Sequence[float], Sequence[float]]

# the part of a value that counts as no difference: of costs 1 %, of accuracy half of that
MARGINS: Mapping[Goal, float] = {"min": 0.01, "max": 0.005}
CONFIDENCE = 0.95


def difference(first: Measurement, second: Measurement) -> Interval:
    """Return the interval of first - second.

    It is paired over the same samples, resamples or interleaved rounds; otherwise the two are
    taken as independent.
    """
    pairs = _pairs(first, second)
    if pairs is None:
        first_low, first_high = bounds(first)
        second_low, second_high = bounds(second)
        return first_low - second_high, first_high - second_low
    if first.raw == "resamples":
        differences = np.subtract(*pairs).tolist()
        return intervals.percentiles(differences, first.value - second.value, first.n)
    _, interval = intervals.paired_difference(*pairs)
    return interval or intervals.ANYWHERE


def is_significant(first: Measurement, second: Measurement) -> bool:
    """Return whether two numbers differ by more than chance.

    The interval of the difference must exclude zero; for right and wrong (1 and 0) on the same
    samples McNemar's test decides.
    """
    pairs = _pairs(first, second)
    if pairs is not None and first.raw == "samples" and _are_zeros_and_ones(pairs):
        return mcnemar(*pairs) < 1 - CONFIDENCE
    low, high = difference(first, second)
    return low > 0 or high < 0


def is_better(
    first: Measurement, second: Measurement, goal: Goal, margin: float | None = None
) -> bool:
    """Return whether the first is better, significantly and beyond the margin.

    The margin is a part of the second's value, by default that of MARGINS.
    """
    if margin is None:
        margin = MARGINS[goal]
    sign = 1 if goal == "max" else -1
    gain = sign * (first.value - second.value)
    if gain <= margin * abs(second.value) or not is_significant(first, second):
        return False
    low, high = difference(first, second)
    return sign * (low + high) > 0


def bounds(measurement: Measurement) -> Interval:
    """Return the interval of a number.

    That of an exact number is the value itself; that of one measured only once is unbounded.
    """
    if is_single(measurement):
        low, high = intervals.ANYWHERE
    else:
        low = measurement.value
        high = measurement.value
    if measurement.low is not None:
        low = measurement.low
    if measurement.high is not None:
        high = measurement.high
    return low, high


def is_single(measurement: Measurement) -> bool:
    """Return whether a number was measured only once, so that its spread is not known.

    It has raw values, as of one round or one sample, but no interval. A number without raw values,
    such as a size, is exact by nature.
    """
    has_values = measurement.raw != "rounds" or any(len(values) for values in measurement.rounds)
    return has_values and measurement.low is None and measurement.high is None


def disturbed_rounds(measurement: Measurement) -> set[int]:
    """Return the rounds that do not count.

    None is returned where all were disturbed: they count then, and the number is in doubt.
    """
    conditions = measurement.conditions
    disturbed = {number for number, round_ in enumerate(conditions) if round_.get("invalid")}
    return disturbed if len(disturbed) < len(conditions) else set()


def mcnemar(values: Sequence[float], references: Sequence[float]) -> float:
    """Return the p-value of the change between two 0/1 scores of the same samples.

    It is the mid-p of the exact test on the samples in which they differ (Fagerland, Lydersen &
    Laake 2013, "The McNemar test for binary matched-pairs data").
    """
    pairs = list(zip(values, references, strict=True))
    gained = sum(value > reference for value, reference in pairs)
    lost_samples = sum(value < reference for value, reference in pairs)
    if gained == lost_samples:
        return 1.0
    n = gained + lost_samples
    fewer = min(gained, lost_samples)
    chances = [math.exp(_log_choose(n, k) - n * math.log(2)) for k in range(fewer + 1)]
    return 2 * sum(chances) - chances[-1]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _are_zeros_and_ones(pairs: Pairs) -> bool:
    return all(value in (0, 1) for series in pairs for value in series)


def _pairs(first: Measurement, second: Measurement) -> Pairs | None:
    """Return the values of both that belong together; None where there are fewer than two."""
    left_out = disturbed_rounds(first) | disturbed_rounds(second)
    # n counts the valid rounds, which may be others where some were disturbed
    same_n = first.n == second.n or bool(left_out)
    same_rounds = len(first.rounds) == len(second.rounds)
    if first.raw != second.raw or not same_n or not same_rounds:
        return None
    first_series = _series(first, left_out)
    second_series = _series(second, left_out)
    if not first_series or not second_series:
        return None
    if len(first_series) != len(second_series) or len(first_series) < 2:
        return None
    return first_series, second_series


def _series(measurement: Measurement, left_out: Collection[int]) -> Sequence[float] | None:
    """Return the values that pair up with another's; None where the number is not made of them."""
    valid_rounds = _valid_rounds(measurement)
    if not valid_rounds:
        return None
    if measurement.raw == "rounds":
        return _round_medians(measurement.value, valid_rounds, left_out)
    values = next(iter(valid_rounds.values()))
    if measurement.raw == "resamples":
        return values
    mean = np.mean(np.concatenate(list(valid_rounds.values())))
    return values if _is_any_of(measurement.value, [mean]) else None


def _round_medians(
    value: float, valid_rounds: Mapping[int, Sequence[float]], left_out: Collection[int]
) -> list[float] | None:
    """Return the medians of the rounds; None where the value is not a centre of these rounds."""
    pooled = np.concatenate(list(valid_rounds.values()))
    medians = [float(np.median(values)) for values in valid_rounds.values()]
    # one value a round: that is the number itself, whatever a plugin makes of several rounds
    is_of_rounds = len(pooled) == len(valid_rounds)
    # the centres that a plugin may take of its rounds
    centres = [np.median(pooled), np.median(medians), np.mean(medians)]
    if not is_of_rounds and not _is_any_of(value, centres):
        return None
    numbered = zip(valid_rounds, medians, strict=True)
    return [median for number, median in numbered if number not in left_out]


def _valid_rounds(measurement: Measurement) -> dict[int, list[float]]:
    """Return the values of each round that counts and has any."""
    disturbed = disturbed_rounds(measurement)
    valid_rounds = {}
    for number, values in enumerate(measurement.rounds):
        if len(values) and number not in disturbed:
            valid_rounds[number] = list(values)
    return valid_rounds


def _is_any_of(value: float, numbers: Sequence[float | np.floating]) -> bool:
    return any(math.isclose(float(number), value, rel_tol=1e-6, abs_tol=1e-9) for number in numbers)

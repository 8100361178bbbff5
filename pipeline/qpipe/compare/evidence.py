"""Whether one number is shown to be better than another, or no worse.

Numbers are paired wherever both were measured alike. Better and no worse are two claims, and each
needs evidence: where the data cannot tell, neither holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np

from qpipe.compare import intervals
from qpipe.compare.intervals import Interval
from qpipe.storage.rows import Goal as Goal
from qpipe.types import SHARE, Array, Measurement

Pairs = tuple[Sequence[float], Sequence[float]]
IntervalByLevel = Callable[[float], Interval]

# the part of a value that counts as no difference: of costs 1 %, of accuracy half of that
MARGINS: Mapping[Goal, float] = {"min": 0.01, "max": 0.005}
CONFIDENCE = 0.95
MOST_TIMES_MORE = 1000  # as many samples: nobody takes more
ROUNDING = 1e-12  # of a value: exact numbers that differ by just the margin are within it


def difference(first: Measurement, second: Measurement, level: float = CONFIDENCE) -> Interval:
    """Return the interval of first - second; see difference_by_level."""
    return difference_by_level(first, second)(level)


def difference_by_level(first: Measurement, second: Measurement) -> IntervalByLevel:
    """Return a function that returns the interval of first - second at a level of confidence.

    It is paired over the same samples, resamples or interleaved rounds; otherwise the two are
    taken as independent. Of right and wrong (1 and 0) on the same samples it is Tango's score
    interval.
    """
    pairs = _pairs(first, second)
    if pairs is None:
        return partial(_independent_difference, first, second)
    values = np.asarray(pairs[0], np.float64)
    references = np.asarray(pairs[1], np.float64)
    if first.raw == "resamples":
        return partial(_resampled_difference, first, second, values - references)
    if first.raw == "samples" and _are_zeros_and_ones(values, references):
        gained = int(np.sum(values > references))
        lost_samples = int(np.sum(values < references))
        return partial(intervals.paired_share_difference, gained, lost_samples, len(values))
    if first.raw == "samples" and first.unit == SHARE and np.array_equal(values, references):
        # equal so far: they differ in as few samples as if they were right and wrong
        return partial(intervals.paired_share_difference, 0, 0, len(values))
    return partial(_mean_difference, values - references)


def _independent_difference(first: Measurement, second: Measurement, level: float) -> Interval:
    first_low, first_high = bounds(first, level)
    second_low, second_high = bounds(second, level)
    return first_low - second_high, first_high - second_low


def _resampled_difference(
    first: Measurement, second: Measurement, differences: Array, level: float
) -> Interval:
    value = first.value - second.value
    if first.unit == SHARE and not differences.any():
        return intervals.paired_share_difference(0, 0, first.n, level)
    interval = intervals.percentiles(differences.tolist(), value, first.n)
    return intervals.at_level(interval, value, first.n, level)


def _mean_difference(differences: Array, level: float) -> Interval:
    return intervals.t_interval(differences, level) or intervals.ANYWHERE


def is_significant(first: Measurement, second: Measurement) -> bool:
    """Return whether two numbers differ by more than chance: the interval excludes zero."""
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


def is_no_worse(
    first: Measurement, second: Measurement, goal: Goal, margin: float | None = None
) -> bool:
    """Return whether the first is shown to be no worse than the second (non-inferiority).

    The whole interval of what it loses lies within the margin, a part of the second's value. What
    the data cannot tell is not shown.
    """
    if margin is None:
        margin = MARGINS[goal]
    allowed = margin * abs(second.value)
    return most_lost(first, second, goal) <= allowed + ROUNDING * abs(second.value)


def most_lost(first: Measurement, second: Measurement, goal: Goal) -> float:
    """Return how much the first may be worse than the second, by the end of the interval."""
    low, high = difference(first, second)
    return -low if goal == "max" else high


def samples_to_tell(n: int, *, distance: float, half: float) -> int | None:
    """Return about how many samples or rounds tell, where half an interval must fit a distance.

    It narrows as the root of their number. None where no number would do, or none in reach.
    """
    if distance <= 0 or not math.isfinite(half):
        return None
    needed = max(n + 1, math.ceil(n * (half / distance) ** 2))
    return needed if needed <= MOST_TIMES_MORE * n else None


def bounds(measurement: Measurement, level: float = CONFIDENCE) -> Interval:
    """Return the interval of a number at a level of confidence.

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
    if level == CONFIDENCE or not math.isfinite(high - low):
        return low, high
    return intervals.at_level((low, high), measurement.value, measurement.n, level)


def is_single(measurement: Measurement) -> bool:
    """Return whether a number was measured only once, so that its spread is not known.

    It has raw values, as of one round or one sample, but no interval. A number without raw values,
    such as a size, is exact by nature.
    """
    has_values = measurement.raw != "rounds" or any(len(values) for values in measurement.rounds)
    return has_values and measurement.low is None and measurement.high is None


def _are_zeros_and_ones(*arrays: Array) -> bool:
    return all(bool(np.all((values == 0) | (values == 1))) for values in arrays)


def _pairs(first: Measurement, second: Measurement) -> Pairs | None:
    """Return the values of both that belong together; None where there are fewer than two."""
    left_out = first.disturbed_rounds | second.disturbed_rounds
    # n counts the valid rounds, which may be others where some were disturbed
    same_n = first.n == second.n or bool(left_out)
    same_rounds = len(first.rounds) == len(second.rounds)
    if first.raw != second.raw or not same_n or not same_rounds:
        return None
    first_series = _series(first, left_out)
    second_series = _series(second, left_out)
    if len(first_series) != len(second_series) or len(first_series) < 2:
        return None
    return first_series, second_series


def _series(measurement: Measurement, left_out: Collection[int]) -> Sequence[float]:
    """Return the values that pair up with another's; none where the number is not made of them."""
    series = measurement.series or ()
    if measurement.raw != "rounds":
        left_out = ()
    return [value for number, value in series if number not in left_out]

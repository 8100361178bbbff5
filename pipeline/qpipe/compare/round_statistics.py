"""Statistics of timed rounds with their 95 % intervals.

Values of one round have much in common (a process, its memory, the clock and heat of the moment):
the round is the unit, and values count for as many as the rounds let them.
`tests/bench/simulate_coverage.py` shows how often the intervals cover the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from qpipe.compare.intervals import Interval, t_quantile
from qpipe.types import Array

Rounds = Sequence[Sequence[float]]

# rounds from which on drift is told from noise, and precision may end the measuring
FEWEST = 6
# fewer values than this do not bound a 99th percentile: 0.99^299 < 0.05
ENOUGH_FOR_P99 = 299
# the level to stop at: checking after each of a few planned rounds whether the result is precise
# stops by luck more often than 5 %
WHEN_STOPPING = 0.965
# where no value bounds a percentile, the last 1 in so many values is taken as a tail that is
# exponential in the logarithm
TAIL = 20


def check_points(most: int) -> list[int]:
    """Return after which rounds to check their precision: 6, 10, 16, 26, ... of at most `most`."""
    points = []
    next_point = FEWEST
    while next_point <= most:
        points.append(next_point)
        next_point = 2 * round(next_point * 0.8)
    return points


# ---- the median


def median(rounds: Rounds, level: float = 0.95) -> tuple[float, Interval | None]:
    """Return the median of all values, with the studentized interval over rounds (`sectioned`)."""
    value = float(np.median(np.concatenate(rounds)))
    medians = [float(np.median(values)) for values in rounds]
    return value, sectioned(value, medians, _variance_within(rounds), level)


def _variance_within(rounds: Rounds) -> float:
    """Return the variance of the logarithms of values in a round, robust against spikes."""
    deviations = []
    for values in rounds:
        logarithms = np.log(values)
        deviations.append(np.median(np.abs(logarithms - np.median(logarithms))))
    return float(1.4826 * np.median(deviations)) ** 2


def sectioned(
    value: float, by_round: Sequence[float], within: float = 0.0, level: float = 0.95
) -> Interval | None:
    """Return the interval of a median over all rounds by their medians; None for a single round.

    Sectioning: the spread is about the value itself, which therefore never lies outside (Nakayama
    2014, "Confidence intervals for quantiles using sectioning"). The logarithm is used where all
    are positive, so that times stay positive. From FEWEST rounds on a steady drift is removed: the
    number is that of these rounds, and their drift is no uncertainty of it.

    `within` is the variance of the (logarithms of) values inside rounds: where that between rounds
    prevails, a median spreads by up to pi/2 more than a mean, by asin(w)/w for a part w between
    rounds of normal variance.
    """
    if len(by_round) < 2:
        return None
    if value <= 0 or min(by_round) <= 0:
        numbers = np.asarray(by_round, np.float64)
        half = _sectioned_half_width(numbers - value, within, level)
        return value - half, value + half
    centre = math.log(value)
    half = _sectioned_half_width(np.log(by_round) - centre, within, level)
    return math.exp(centre - half), math.exp(centre + half)


def _sectioned_half_width(deviations: Array, within: float, level: float) -> float:
    """Return half the width of the interval, by the rounds' deviations from its centre."""
    n = len(deviations)
    degrees = n - 1
    if n >= FEWEST:
        time = np.arange(n) - (n - 1) / 2
        deviations = deviations - time * (time @ deviations) / (time @ time)
        degrees = n - 2
    between = float(deviations @ deviations) / degrees
    part = between / (between + within) if between else 0.0
    widening = math.asin(part) / part if part else 1.0
    return t_quantile(degrees, level) * math.sqrt(widening * between / n)


# ---- percentiles


def percentile(rounds: Rounds, share: float) -> tuple[float, Interval | None]:
    """Return the smallest value that at least this share of all does not exceed, and its interval.

    Distribution-free: a binomial number of values lies below the true one (Woodruff 1952), out of
    as many independent ones as the rounds are worth by the spread of their numbers of exceedances
    (Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of
    positive counts"). Where no value is certain to lie above, an exponential tail of the logarithms
    continues from the largest. None for a single round.
    """
    ordered = np.sort(np.concatenate(rounds))
    n = len(ordered)
    value = float(ordered[math.ceil(share * n - 1e-9) - 1])
    if len(rounds) < 2:
        return value, None
    exceeding = np.array([float(np.mean(np.asarray(values) > value)) for values in rounds])
    independent = int(_independent_values(exceeding, share, n))
    below, above = _bounding_ranks(max(1, independent), share)
    low = float(ordered[max(1, math.floor(below * n)) - 1])
    if above > 1:
        return value, (low, _bound_above(ordered))
    high = float(ordered[math.ceil(above * n) - 1])
    return value, (low, high)


def _independent_values(exceeding: Array, share: float, n: int) -> float:
    """Return how many independent values the n of all rounds are worth.

    `exceeding` is the part of each round's values above the percentile. Student's t makes them
    fewer, as their worth is estimated from a few rounds.
    """
    rounds = len(exceeding)
    # the variance of a round's part if its values were independent
    independent_variance = share * (1 - share) * rounds / n
    design_effect = max(1.0, float(np.var(exceeding, ddof=1)) / independent_variance)
    return n / design_effect * (t_quantile(n - 1) / t_quantile(rounds - 1)) ** 2


@cache
def _bounding_ranks(n: int, share: float) -> tuple[float, float]:
    """Return the ranks between which the true percentile lies with 95 %, as parts of n.

    They are 0 and more than 1 where there is no such value.
    """
    number = np.arange(1, n + 1)
    steps = np.log((n - number + 1) / number * (share / (1 - share)))
    logarithms = n * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    cumulative = np.cumsum(np.exp(logarithms))  # P(B <= j) for a binomial B
    below = int(np.sum(cumulative <= 0.025))
    above = int(np.argmax(cumulative >= 0.975)) + 1
    return below / n, above / n


def _bound_above(ordered: Array) -> float:
    """Return a bound above the largest value, by the mean excess of the tail's logarithms.

    That is the estimator of Hill 1975.
    """
    n = len(ordered)
    largest = float(ordered[-1])
    tail = min(n - 1, max(5, n // TAIL))
    if tail < 1 or ordered[0] <= 0:
        return largest
    base = float(ordered[n - 1 - tail])
    slope = float(np.mean(np.log(ordered[n - tail :] / base)))
    return max(largest, base * math.exp(slope * math.log(tail / 0.05)))


# ---- the least


def least(rounds: Rounds) -> tuple[float, Interval | None]:
    """Return the least value, and an interval of the least possible one; None for a single round.

    By the two smallest of the rounds' least, on the logarithm (Robson & Whitlock 1964, "Estimation
    of a truncation point").
    """
    smallest = sorted(min(values) for values in rounds)
    first = smallest[0]
    if len(smallest) < 2 or first <= 0:
        return first, None
    low = first * (first / smallest[1]) ** 19
    return first, (low, first)

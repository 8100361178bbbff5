"""Numbers of timed rounds with their 95 % intervals, and when to look whether rounds are enough.

Values of one round have much in common (a process, its memory, the clock and heat of the moment): the round is the
unit, and values count for as many as the rounds let them. `tests/bench/simulate_coverage.py` shows what is covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from qpipe.compare.intervals import Interval, t_quantile
from qpipe.types import Array

Rounds = Sequence[Sequence[float]]

FEWEST = 6  # rounds from which on drift is told from noise, and precision may end the measuring
ENOUGH_FOR_P99 = 299  # fewer values bound no 99th percentile: 0.99^299 < 0.05
# who looks at each of a few planned rounds whether it is precise by now is precise by luck more often than 5 %
WHEN_STOPPING = 0.965
TAIL = 20  # where no value bounds a percentile, the tail beyond 1 in so many is taken as exponential in the logarithm


def looks(most: int) -> list[int]:
    """After which rounds to look whether they are enough: 6, 10, 16, 26, ... of at most so many."""
    found = []
    next_ = FEWEST
    while next_ <= most:
        found.append(next_)
        next_ = 2 * round(next_ * 0.8)
    return found


def median(rounds: Rounds, level: float = 0.95) -> tuple[float, Interval | None]:
    """Of all values, with the studentized interval over rounds (`sectioned`)."""
    value = float(np.median(np.concatenate(rounds)))
    logs = [np.log(each) for each in rounds]
    within = [np.median(np.abs(each - np.median(each))) for each in logs]  # spikes do not count
    spread = float(1.4826 * np.median(within)) ** 2
    return value, sectioned(value, [float(np.median(each)) for each in rounds], spread, level)


def sectioned(
    value: float, by_round: Sequence[float], within: float = 0.0, level: float = 0.95
) -> Interval | None:
    """The interval of a median over all rounds, by those of the rounds; None for a single round.

    Sectioning: the spread is about the value itself, which so never lies outside (Nakayama 2014, "Confidence intervals
    for quantiles using sectioning"). On the logarithm where all are positive, so that time stays positive. From FEWEST
    rounds on a steady drift is taken out: the number is that of this session, whose drift is no doubt about it.
    `within` is the variance of the (logarithms of) values inside rounds: where that between them prevails, a median
    spreads by up to pi/2 more than a mean, by asin(w)/w for a part w between of normal variance.
    """
    n = len(by_round)
    if n < 2:
        return None
    positive = value > 0 and min(by_round) > 0
    centre, numbers = (
        (math.log(value), np.log(by_round))
        if positive
        else (value, np.asarray(by_round, np.float64))
    )
    apart = numbers - centre
    free = n - 1
    if n >= FEWEST:
        time = np.arange(n) - (n - 1) / 2
        apart = apart - time * (time @ apart) / (time @ time)
        free = n - 2
    variance = float(apart @ apart) / free
    part = variance / (variance + within) if variance else 0.0
    wider = math.asin(part) / part if part else 1.0
    half = t_quantile(free, level) * math.sqrt(wider * variance / n)
    return (
        (math.exp(centre - half), math.exp(centre + half))
        if positive
        else (centre - half, centre + half)
    )


def percentile(rounds: Rounds, share: float) -> tuple[float, Interval | None]:
    """The smallest value that at least this share of all does not exceed, and its interval between two of the values.

    Distribution-free: a binomial number of values lies below the true one (Woodruff 1952), of as many independent ones
    as the rounds are worth by the spread of their numbers of exceedances (Korn & Graubard 1998, "Confidence intervals
    for proportions with small expected number of positive counts"). Where no value is certain to lie above, an
    exponential tail of the logarithms goes on from the largest.
    """
    ordered = np.sort(np.concatenate(rounds))
    n = len(ordered)
    k = len(rounds)
    value = float(ordered[math.ceil(share * n - 1e-9) - 1])
    if k < 2:
        return value, None
    worth = _worth(
        np.array([float(np.mean(np.asarray(each) > value)) for each in rounds]), share, n
    )
    below, above = _ranks(max(1, int(worth)), share)
    low = float(ordered[max(1, math.floor(below * n)) - 1])
    high = float(ordered[math.ceil(above * n) - 1]) if above <= 1 else _beyond(ordered)
    return value, (low, high)


def _worth(exceeding: Array, share: float, n: int) -> float:
    """How many independent values they are worth; by Student's t fewer, for it was found from a few rounds."""
    k = len(exceeding)
    alone = (
        share * (1 - share) * k / n
    )  # the variance of a round's part, were its values independent
    common = max(1.0, float(np.var(exceeding, ddof=1)) / alone)
    return n / common * (t_quantile(n - 1) / t_quantile(k - 1)) ** 2


@cache
def _ranks(n: int, share: float) -> tuple[float, float]:
    """Ranks of n values, as parts of n, between which their true percentile lies 95 times of 100; 0 and more than 1
    where there is no such value."""
    number = np.arange(1, n + 1)
    steps = np.log((n - number + 1) / number * (share / (1 - share)))
    below = np.cumsum(
        np.exp(n * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)]))
    )  # P(B <= j)
    return int(np.sum(below <= 0.025)) / n, (int(np.argmax(below >= 0.975)) + 1) / n


def _beyond(ordered: Array) -> float:
    """A bound above the largest value: by the mean excess of the logarithms in the tail (Hill 1975)."""
    n = len(ordered)
    few = min(n - 1, max(5, n // TAIL))
    if few < 1 or ordered[0] <= 0:
        return float(ordered[-1])
    base = float(ordered[n - 1 - few])
    slope = float(np.mean(np.log(ordered[n - few :] / base)))
    return max(float(ordered[-1]), base * math.exp(slope * math.log(few / 0.05)))


def least(rounds: Rounds) -> tuple[float, Interval | None]:
    """The least value, and an interval of the least that is possible, by the two least of the rounds' least (Robson &
    Whitlock 1964, "Estimation of a truncation point"), on the logarithm."""
    first, *rest = sorted(min(each) for each in rounds)
    if not rest or first <= 0:
        return first, None
    return first, (first * (first / rest[0]) ** 19, first)

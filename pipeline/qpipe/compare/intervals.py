"""95 % intervals: of shares, of any reducer over samples, of few rounds, of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

from qpipe.types import Array

Interval = tuple[float, float]

# where a value can lie by its nature
ANYWHERE: Interval = (-math.inf, math.inf)
SHARE: Interval = (0.0, 1.0)
AMOUNT: Interval = (0.0, math.inf)

Z = 1.959963984540054  # the quantile of the normal distribution at 97.5 %
# degrees of freedom from which on Student's t is expanded about the normal distribution
EXPANDED_FROM = 1000


# ---- shares


def wilson(successes: int, n: int) -> Interval:
    """Return the score interval of a share of successes (Wilson 1927); n is at least 1.

    It is right for shares near 0 and 1, too.
    """
    share = successes / n
    spread = Z * Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # at the ends the formula gives the share itself, except for rounding
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def share_interval(contributions: Sequence[Any], value: float) -> Interval | None:
    """Return Wilson's interval; None unless all contributions are 0 or 1 and value their share."""
    if not all(_is_zero_or_one(contribution) for contribution in contributions):
        return None
    successes = int(sum(contributions))
    n = len(contributions)
    if not math.isclose(value, successes / n):
        return None
    return wilson(successes, n)


@cache
def paired_share_difference(
    gained: int, lost_samples: int, n: int, level: float = 0.95
) -> Interval:
    """Return the score interval of the difference of two shares of the same n samples (Tango 1998).

    `gained` samples are right by the first alone, `lost_samples` by the second alone. It inverts
    McNemar's test, so that it excludes 0 exactly where this is significant, and it is right for few
    samples that differ: where none does, it is not of width zero.
    """
    high = _highest_share_difference(gained, lost_samples, n, level)
    low = -_highest_share_difference(lost_samples, gained, n, level)
    return low, high


def _highest_share_difference(gained: int, lost_samples: int, n: int, level: float) -> float:
    """Return the greatest difference that the score test does not reject, by bisection."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    low = (gained - lost_samples) / n
    high = 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _share_score(gained, lost_samples, n, middle) > -z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _share_score(gained: int, lost_samples: int, n: int, difference: float) -> float:
    """Return the standardized distance of the observed difference from an assumed one.

    The chance that a sample is lost is the most probable one where the difference is the assumed
    one (Tango 1998, Statistics in Medicine 17:891).
    """
    linear = -gained - lost_samples + (2 * n - gained + lost_samples) * difference
    constant = -lost_samples * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    lost_chance = (root - linear) / (4 * n)
    variance = n * (2 * lost_chance + difference * (1 - difference))
    distance = gained - lost_samples - n * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _is_zero_or_one(contribution: object) -> bool:
    return isinstance(contribution, int | float) and contribution in (0, 1)


# ---- the bootstrap


def resample(
    contributions: Sequence[Any],
    reduce: Callable[[Sequence[Any]], float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[float]:
    """Return the bootstrap distribution of `reduce` over contributions.

    The same seed and number of contributions draw the same samples, so that the resamples of two
    schemes are paired.
    """
    n = len(contributions)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):  # one draw at a time: all at once they are gigabytes
        draw = random.integers(0, n, n).tolist()
        values.append(float(reduce([contributions[index] for index in draw])))
    return values


def percentiles(
    resampled: Sequence[float], value: float, n: int, bounds: Interval = ANYWHERE
) -> Interval:
    """Return the bootstrap interval of a value over n samples.

    The resamples are shifted to have the value as their mean. Repeated samples flatter some metrics
    (average precision rises as n falls), and a plain percentile interval then covers as little as
    half of what it claims. For few samples the interval is expanded by Student's t (Hesterberg
    2015, arXiv 1411.5279). Both can carry it beyond the `bounds` that the value has by its nature;
    there it is clipped.
    """
    tail = 0.0
    if n > 1:
        tail = 0.5 * math.erfc(math.sqrt(n / (n - 1)) * t_quantile(n - 1) / math.sqrt(2))
    values = np.asarray(resampled, np.float64)
    quantiles = np.quantile(values, [tail, 1 - tail])
    low, high = np.clip(quantiles - values.mean() + value, *bounds)
    return float(low), float(high)


# ---- few values, such as the medians of rounds


def t_interval(values: Sequence[float] | Array, level: float = 0.95) -> Interval | None:
    """Return the studentized interval of the mean of a few independent values; None for one."""
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = t_quantile(n - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def paired_difference(
    values: Sequence[float], references: Sequence[float], level: float = 0.95
) -> tuple[float, Interval | None]:
    """Return the mean of value - reference over the same rounds or samples, and its interval."""
    differences = [value - reference for value, reference in zip(values, references, strict=True)]
    return float(np.mean(differences)), t_interval(differences, level)


def paired_ratio(
    values: Sequence[float], references: Sequence[float], level: float = 0.95
) -> tuple[float, Interval | None]:
    """Return the geometric mean of value / reference over the same rounds, and its interval.

    All values are positive.
    """
    log_values = np.log(values).tolist()
    log_references = np.log(references).tolist()
    mean, interval = paired_difference(log_values, log_references, level)
    if interval is None:
        return math.exp(mean), None
    low, high = interval
    return math.exp(mean), (math.exp(low), math.exp(high))


# ---- Student's t


@cache
def t_quantile(degrees: int, level: float = 0.95) -> float:
    """Return t so that |T| < t with probability `level`, for Student's T.

    `degrees` of freedom are a whole number of at least 1.
    """
    if degrees > EXPANDED_FROM:
        return _expanded_quantile(NormalDist().inv_cdf((1 + level) / 2), degrees)
    low = 0.0
    high = 1.0
    while _probability_within(high, degrees) < level:
        low = high
        high = 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _probability_within(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _expanded_quantile(z: float, degrees: int) -> float:
    """Abramowitz & Stegun 26.7.5, three terms: right to 11 digits from 1000 degrees on."""
    first = z**3 + z
    second = 5 * z**5 + 16 * z**3 + 3 * z
    third = 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
    return z + first / (4 * degrees) + second / (96 * degrees**2) + third / (384 * degrees**3)


def _probability_within(t: float, degrees: int) -> float:
    """P(|T| < t) by the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine = math.sin(angle)
    cosine = math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + is_odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if is_odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total


def at_level(interval: Interval, centre: float, n: int, level: float) -> Interval:
    """Return a 95 % interval about a centre as one of another level, by Student's t of n values."""
    degrees = max(1, n - 1)
    factor = t_quantile(degrees, level) / t_quantile(degrees)
    low, high = interval
    return centre - factor * (centre - low), centre + factor * (high - centre)

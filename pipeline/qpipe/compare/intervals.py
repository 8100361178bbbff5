"""95 % intervals, for plugins too: of shares, of any reducer over samples, of few rounds, of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

Interval = tuple[float, float]

ANYWHERE: Interval = (-math.inf, math.inf)
SHARE: Interval = (0.0, 1.0)
AMOUNT: Interval = (0.0, math.inf)
Z = 1.959963984540054  # of the normal distribution, 97.5 %
MANY = (
    1000  # degrees of freedom from which on Student's t is expanded about the normal distribution
)


def wilson(successes: int, n: int) -> Interval:
    """Score interval of a share of successes (Wilson 1927); right for shares near 0 and 1 too. n is at least 1."""
    share = successes / n
    spread = Z * Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # at the ends the formula gives the share itself, but for rounding
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def resample(
    contributions: Sequence[Any],
    reduce: Callable[[Sequence[Any]], float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[float]:
    """Bootstrap: what `reduce` makes of each resample. The same seed and count draw the same samples, so that the
    resamples of two schemes are paired."""
    n = len(contributions)
    random = np.random.default_rng(seed)
    draws = (
        random.integers(0, n, n).tolist() for _ in range(resamples)
    )  # all at once they are gigabytes
    return [float(reduce([contributions[i] for i in draw])) for draw in draws]


def percentiles(
    resampled: Sequence[float], value: float, n: int, bounds: Interval = ANYWHERE
) -> Interval:
    """The bootstrap's interval of a value over n samples: what another n samples like these would give.

    The resamples are moved to have the value as their mean. Repeated samples flatter some metrics (average precision
    rises with n falling), and a plain percentile interval then covers as little as half of what it says. For few
    samples it is expanded by Student's t (Hesterberg 2015, arXiv 1411.5279). Both can carry it out of the `bounds`
    that the value has by its nature; there it is cut.
    """
    share = (
        0.5 * math.erfc(math.sqrt(n / (n - 1)) * t_quantile(n - 1) / math.sqrt(2)) if n > 1 else 0.0
    )
    array = np.asarray(resampled, np.float64)
    low, high = np.clip(np.quantile(array, [share, 1 - share]) - array.mean() + value, *bounds)
    return float(low), float(high)


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """The studentized interval of the mean of a few independent values (medians of rounds); None for a single one."""
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = t_quantile(n - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def paired_difference(
    values: Sequence[float], references: Sequence[float], level: float = 0.95
) -> tuple[float, Interval | None]:
    """The mean of value - reference, measured in the same rounds or on the same samples, and its interval."""
    differences = [value - reference for value, reference in zip(values, references, strict=True)]
    return float(np.mean(differences)), t_interval(differences, level)


def paired_ratio(
    values: Sequence[float], references: Sequence[float], level: float = 0.95
) -> tuple[float, Interval | None]:
    """The geometric mean of value / reference over the same rounds, and its interval; all are positive."""
    mean, interval = paired_difference(np.log(values).tolist(), np.log(references).tolist(), level)
    return math.exp(mean), (math.exp(interval[0]), math.exp(interval[1])) if interval else None


@cache
def t_quantile(degrees: int, level: float = 0.95) -> float:
    """How far Student's t strays from zero with this probability, for whole degrees of freedom of at least 1."""
    if degrees > MANY:
        return _expanded(NormalDist().inv_cdf((1 + level) / 2), degrees)
    low = 0.0
    high = 1.0
    while _within(high, degrees) < level:
        low = high
        high = 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return (low + high) / 2


def _expanded(z: float, degrees: int) -> float:
    """Abramowitz & Stegun 26.7.5, three terms: from a thousand degrees on right to 11 digits."""
    one = z**3 + z
    two = 5 * z**5 + 16 * z**3 + 3 * z
    three = 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
    return z + one / (4 * degrees) + two / (96 * degrees**2) + three / (384 * degrees**3)


def _within(t: float, degrees: int) -> float:
    """The probability that |T| < t: the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine = math.sin(angle)
    cosine = math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def mcnemar(values: Sequence[float], references: Sequence[float]) -> float:
    """The probability of so uneven a change of two 0/1 scores of the same samples, were neither better: the mid-p of
    the exact test on those samples alone in which they differ (Fagerland, Lydersen & Laake 2013, "The McNemar test for
    binary matched-pairs data")."""
    gained = sum(value > reference for value, reference in zip(values, references, strict=True))
    lost = sum(value < reference for value, reference in zip(values, references, strict=True))
    n = gained + lost
    fewer = min(gained, lost)
    if gained == lost:
        return 1.0
    chances = [math.exp(_log_choose(n, k) - n * math.log(2)) for k in range(fewer + 1)]
    return 2 * sum(chances) - chances[-1]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def share_interval(contributions: Sequence[Any], value: float) -> Interval | None:
    """Wilson's, where all contributions are 0 or 1 and the value is their share; None where they are not."""
    if not all(isinstance(each, int | float) and each in (0, 1) for each in contributions):
        return None
    successes = int(sum(contributions))
    n = len(contributions)
    return wilson(successes, n) if math.isclose(value, successes / n) else None

"""Intervals, against tables, numpy and what they promise: to cover."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from qpipe.compare import intervals


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("degrees", "table"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (6, 2.447), (7, 2.365), (8, 2.306), (9, 2.262),
     (10, 2.228), (19, 2.093), (20, 2.086), (30, 2.042), (60, 2.000), (99, 1.984), (100, 1.984)],
)  # fmt: skip
def test_student_t_is_that_of_the_tables(degrees: int, table: float) -> None:
    assert abs(intervals.t_quantile(degrees) - table) <= 0.0005


def test_student_t_falls_towards_the_normal_quantile() -> None:
    quantiles = [intervals.t_quantile(degrees) for degrees in (1, 2, 5, 50, 500, 5000)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert 0 < quantiles[-1] - 1.959963984540054 < 0.001


@pytest.mark.parametrize(
    ("degrees", "level"), [(1001, 0.95), (2000, 0.5), (5000, 0.99), (40_000, 0.95)]
)
def test_student_t_of_many_degrees_holds_what_it_says_of_the_density(
    degrees: int, level: float
) -> None:
    grid = np.linspace(0, intervals.t_quantile(degrees, level), 20_001)
    constant = (
        math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    )
    density = np.exp(constant - (degrees + 1) / 2 * np.log1p(grid**2 / degrees))
    assert 2 * float(np.trapezoid(density, grid)) == pytest.approx(level, abs=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_expansion_goes_on_where_the_series_ends(level: float) -> None:
    last, first = (intervals.t_quantile(intervals.EXPANDED_FROM + more, level) for more in (0, 1))
    beyond = intervals.t_quantile(2**60, level)
    # t falls to the normal quantile as one over the degrees
    assert (last - beyond) / (first - beyond) == pytest.approx(
        1 + 1 / intervals.EXPANDED_FROM, abs=1e-5
    )
    assert beyond == pytest.approx(NormalDist().inv_cdf((1 + level) / 2), abs=1e-12)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_that_of_the_literature(successes: int, n: int, low: float, high: float) -> None:
    assert intervals.wilson(successes, n) == pytest.approx((low, high), abs=0.00005)


def test_wilson_is_symmetric_and_stays_between_0_and_1() -> None:
    assert intervals.wilson(0, 1)[0] == 0.0
    assert intervals.wilson(7, 7)[1] == 1.0
    low, high = intervals.wilson(3, 10)
    assert intervals.wilson(7, 10) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_a_loss_is_seldom_greater_than_the_score_interval_of_paired_shares_says(n: int) -> None:
    # exact, where nothing is gained: the number of lost samples is binomial
    highest = [intervals.paired_share_difference(lost, 0, n)[1] for lost in range(n + 1)]
    for loss in (0.005, 0.0101, 0.02, 0.03, 0.0369, 0.0545, 0.1, 0.2):
        chances = [
            math.exp(
                math.lgamma(n + 1) - math.lgamma(lost + 1) - math.lgamma(n - lost + 1)
                + lost * math.log(loss) + (n - lost) * math.log1p(-loss)
            )
            for lost in range(n + 1)
        ]  # fmt: skip
        below = sum(chance for chance, high in zip(chances, highest, strict=True) if high < loss)
        assert below <= 0.03


def test_the_score_interval_of_paired_shares_is_symmetric_and_grows_with_the_level() -> None:
    low, high = intervals.paired_share_difference(3, 9, 100)
    assert intervals.paired_share_difference(9, 3, 100) == pytest.approx((-high, -low))
    wider = intervals.paired_share_difference(3, 9, 100, 0.99)
    assert wider[0] < low < -0.06 < high < wider[1]
    # where no sample is gained, the end of the loss is Wilson's
    end = intervals.paired_share_difference(5, 0, 60)[1]
    assert end == pytest.approx(intervals.wilson(5, 60)[1], abs=1e-6)


def test_the_t_interval_of_three_rounds_is_mean_and_4_303_standard_errors() -> None:
    interval = intervals.t_interval([10.0, 11.0, 12.0])
    assert interval == pytest.approx(
        (11 - 4.30265 / math.sqrt(3), 11 + 4.30265 / math.sqrt(3)), abs=1e-5
    )
    assert intervals.t_interval([10.0]) is None


def test_a_paired_ratio_ignores_drift_that_falls_on_both() -> None:
    drift = np.array([1.0, 1.3, 1.7, 2.2, 3.0])
    ratio, interval = intervals.paired_ratio((drift * 6.0).tolist(), (drift * 8.0).tolist())
    assert ratio == pytest.approx(0.75)
    assert interval == pytest.approx((0.75, 0.75))


def test_a_paired_difference_of_unequal_lengths_is_a_bug() -> None:
    with pytest.raises(ValueError, match="zip"):
        intervals.paired_difference([1.0, 2.0], [1.0])


def test_a_paired_difference_has_the_interval_of_the_differences() -> None:
    difference, interval = intervals.paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    assert difference == 2.0
    assert interval == intervals.t_interval([1.0, 2.0, 3.0])


def test_resamples_of_one_seed_draw_the_same_samples_for_everybody() -> None:
    values = np.random.default_rng(1).normal(size=40)
    one = intervals.resample(values.tolist(), mean, resamples=20)
    other = intervals.resample((values + 5).tolist(), mean, resamples=20)
    assert np.subtract(other, one) == pytest.approx(np.full(20, 5.0))
    assert intervals.resample(values.tolist(), mean, resamples=20, seed=1) != one


def bootstrap(
    contributions: Sequence[Any], reduce: Callable[[Sequence[Any]], float], resamples: int = 1000
) -> intervals.Interval:
    """As every score gets it."""
    drawn = intervals.resample(contributions, reduce, resamples=resamples)
    return intervals.percentiles(drawn, reduce(contributions), len(contributions))


def test_the_bootstrap_works_for_any_reducer() -> None:
    low, high = bootstrap(list(range(101)), lambda part: float(np.median(part)))
    # the median of n uniform values has standard deviation span / (2 sqrt(n + 2)) = 4.9, an interval of +-9.7
    assert 50 - 13 < low < 50 - 6
    assert 50 + 6 < high < 50 + 13


def test_resamples_that_flatter_are_moved_to_the_value() -> None:
    flattered = np.linspace(0.5, 0.7, 1001)
    low, high = intervals.percentiles(flattered.tolist(), 0.4, 10_000)
    # the middle 95 % of a width of 0.2 about 0.4
    assert (low, high) == pytest.approx((0.4 - 0.095, 0.4 + 0.095), abs=1e-4)


def test_an_interval_is_cut_at_the_bounds_of_its_value() -> None:
    resampled = np.linspace(0.8, 1.0, 1001).tolist()
    low, high = intervals.percentiles(resampled, 0.98, 10_000, intervals.SHARE)
    assert (low, high) == (pytest.approx(0.98 - 0.095, abs=1e-4), 1.0)
    assert intervals.percentiles(resampled, 0.98, 10_000)[1] == pytest.approx(
        0.98 + 0.095, abs=1e-4
    )


def test_drawing_takes_memory_for_one_resample_at_a_time() -> None:
    values = [1.0] * 20_000
    tracemalloc.start()
    intervals.resample(values, sum, resamples=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a list of positions is 8 bytes each and 32 the number, their array 8, the list drawn 8: all 20 at once are 20 MB
    assert peak < 4e6


def test_the_draws_are_those_that_numpy_gives_for_all_at_once() -> None:
    draws = np.random.default_rng(3).integers(0, 7, (50, 7))
    assert (
        intervals.resample(list(range(7)), sum, resamples=50, seed=3) == draws.sum(axis=1).tolist()
    )


def test_the_bootstrap_of_few_is_wider_than_plain_percentiles() -> None:
    values = np.random.default_rng(2).normal(size=8).tolist()
    resampled = intervals.resample(values, mean)
    low, high = intervals.percentiles(resampled, float(np.mean(resampled)), len(values))
    plain = np.quantile(resampled, [0.025, 0.975])
    assert low < plain[0]
    assert plain[1] < high


@pytest.mark.parametrize("n", [10, 100])
def test_intervals_of_a_mean_cover_it_about_as_often_as_they_say(n: int) -> None:
    rng = np.random.default_rng(n)
    trials = 300
    samples = rng.normal(5.0, 2.0, (trials, n))
    covered = {"t": 0, "bootstrap": 0}
    for row in samples.tolist():
        for name, interval in (
            ("t", intervals.t_interval(row)),
            ("bootstrap", bootstrap(row, mean, resamples=200)),
        ):
            assert interval is not None
            covered[name] += interval[0] <= 5.0 <= interval[1]
    # three standard errors of a share of 0.95 in 300 trials are 0.038; the bootstrap of ten is short by two points
    assert 0.91 <= covered["t"] / trials <= 0.99
    assert 0.89 <= covered["bootstrap"] / trials <= 0.99


@pytest.mark.parametrize(
    ("contributions", "value", "known"),
    [([1.0, 0.0, 1.0], 2 / 3, True), ([1, 0], 0.5, True), ([0.5, 1.0], 0.75, False), ([1.0, 0.0], 0.9, False),
     ([(1, 0)], 1.0, False)],
)  # fmt: skip
def test_only_shares_of_zeros_and_ones_get_wilsons_interval(
    contributions: list[object], value: float, known: bool
) -> None:
    interval = intervals.share_interval(contributions, value)
    assert (interval is not None) == known
    if interval:
        assert interval == intervals.wilson(int(sum(contributions)), len(contributions))  # type: ignore[call-overload]

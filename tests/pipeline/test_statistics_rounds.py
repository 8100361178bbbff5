"""Numbers of rounds: what their intervals promise is to cover, also where measuring stops early."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qpipe.compare import intervals, round_statistics

TRIALS = 300  # three standard errors of a share of 0.95 in so many are 0.038


def session(
    random: np.random.Generator, count: int, between: float, drift: float = 0.0
) -> np.ndarray:
    """Log-normal times of rounds that differ, drift and have spikes; their median is 1 but for the spikes."""
    time = np.linspace(-0.5, 0.5, count)[:, None]
    values = np.exp(
        drift * time
        + between * random.standard_normal((count, 1))
        + 0.02 * random.standard_normal((count, 50))
    )
    return np.where(
        random.random(values.shape) < 0.015, values * random.uniform(1.1, 1.6, values.shape), values
    )


@pytest.mark.parametrize(
    ("count", "between", "drift"), [(6, 0.01, 0.02), (10, 0.02, 0.0), (16, 0.0, 0.03)]
)
def test_intervals_cover_medians_and_tails(count: int, between: float, drift: float) -> None:
    random = np.random.default_rng(count)
    endless = np.concatenate([session(random, count, between, drift) for _ in range(2000)])
    covered = dict.fromkeys((0.5, 0.9, 0.99), 0)
    truth = {share: float(np.quantile(endless, share)) for share in covered}
    for _ in range(TRIALS):
        taken = session(random, count, between, drift)
        for share, true in truth.items():
            found = (
                round_statistics.median(taken)[1]
                if share == 0.5
                else round_statistics.percentile(taken, share)[1]
            )
            assert found is not None
            covered[share] += found[0] <= true <= found[1]
    assert 0.91 <= covered[0.5] / TRIALS <= 0.99
    assert min(covered[0.9], covered[0.99]) / TRIALS >= 0.94 - 0.041


def test_who_stops_once_it_is_precise_still_covers() -> None:
    random = np.random.default_rng(1)
    middle = float(np.median([session(random, 50, 0.01) for _ in range(200)]))
    covered, taken = 0, []
    for _ in range(TRIALS):
        whole = session(random, 16, 0.01)  # 1 % is what about ten rounds give
        for count in [*round_statistics.check_points(15), 16]:
            value, found = round_statistics.median(whole[:count], round_statistics.WHEN_STOPPING)
            assert found is not None
            if found[1] - found[0] <= 0.02 * value:
                break
        covered += found[0] <= middle <= found[1]
        taken.append(count)
    assert len(set(taken)) == 3, "it stopped at all looks"
    assert covered / TRIALS >= 0.95 - 0.038


def test_the_looks_are_few_and_planned() -> None:
    assert round_statistics.check_points(100) == [6, 10, 16, 26, 42, 68]
    assert round_statistics.check_points(5) == []


def test_of_few_rounds_the_interval_is_student_ts_about_the_median() -> None:
    value, found = round_statistics.median([[1.0], [2.0], [4.0]])
    # in the logarithm to base 2: -1, 0, 1 about the median; of single values all variance is between rounds: pi/2 more
    half = 4.302652729911275 * math.sqrt(math.pi / 2 * 1 / 3)
    assert value == 2.0
    assert found == pytest.approx((2 * 2**-half, 2 * 2**half))


def test_steady_drift_is_no_doubt_about_the_median_of_a_session() -> None:
    drifting = [[math.exp(0.1 * n)] * 3 for n in range(8)]
    _, found = round_statistics.median(drifting)
    assert found == pytest.approx(
        (math.exp(0.35),) * 2, rel=4e-3
    )  # the pooled median is 0.13 % off the middle


def test_an_interval_of_time_stays_above_zero_however_wild_the_rounds() -> None:
    for wild in ([[1.0], [100.0]], [[0.001], [5.0], [5.0]]):
        found = round_statistics.median(wild)[1]
        assert found is not None
        assert 0 < found[0] < found[1]


def test_a_median_of_amounts_that_may_be_zero_is_bounded_as_it_is() -> None:
    half = 4.302652729911275 * math.sqrt(math.pi / 2 / 3)
    assert round_statistics.sectioned(0.0, [0.0, 1.0, -1.0]) == pytest.approx((-half, half))


def test_percentiles_of_independent_values_are_bounded_by_the_ranks_of_the_binomial() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0)).reshape(1000 // 5, 5)
    value, found = round_statistics.percentile(values, 0.9)
    assert value == 900.0
    assert found is not None
    # of B(1000, 0.9) the middle 95 % are 900 +- 1.96 sqrt(90) = 881.4 to 918.6; rounds count for a little less
    assert 875 <= found[0] <= 882
    assert 918 <= found[1] <= 924


def test_a_tail_that_no_value_bounds_goes_on_beyond_the_largest() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.1, (10, 30))
    value, found = round_statistics.percentile(values, 0.99)
    assert found is not None
    assert found[0] <= value <= values.max() < found[1] < 2 * values.max()


def test_the_least_is_bounded_by_the_two_least_rounds() -> None:
    # Robson & Whitlock 1964: 95 % of the lower ends lie above x1 - 19 (x2 - x1); here in the logarithm
    value, found = round_statistics.least([[1.02, 3.0], [1.0, 2.0], [1.5]])
    assert value == 1.0
    assert found == pytest.approx((1.02**-19, 1.0))


def test_a_single_round_has_no_interval() -> None:
    assert round_statistics.median([[1.0, 2.0]])[1] is None
    assert round_statistics.percentile([[1.0, 2.0]], 0.9) == (2.0, None)
    assert round_statistics.least([[1.0, 2.0]]) == (1.0, None)


@pytest.mark.parametrize(("degrees", "table"), [(1, 63.657), (5, 4.032), (30, 2.750)])
def test_student_t_of_another_level_is_that_of_the_tables(degrees: int, table: float) -> None:
    assert abs(intervals.t_quantile(degrees, 0.99) - table) <= 0.0005

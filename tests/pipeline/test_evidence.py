"""Whether one number is really better than another: what is paired, and what that tells."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from front_bench import Bench, per_sample, size

from qpipe.compare import evidence
from qpipe.types import Measurement


def test_the_difference_over_samples_is_the_paired_t_interval() -> None:
    low, high = evidence.difference(
        per_sample([1.5, 1.0, 0.0, 1.5]), per_sample([0.5, 1.0, 0.0, 0.5])
    )
    # differences 1, 0, 0, 1: mean 0.5, standard deviation 0.57735, t(3) 3.18245
    assert (low, high) == pytest.approx(
        (0.5 - 3.182446 * 0.577350 / 2, 0.5 + 3.182446 * 0.577350 / 2), abs=1e-5
    )


def test_the_difference_of_right_and_wrong_is_tangos_score_interval() -> None:
    gained_alone = [1.0] * 1 + [0.0] * 7 + [1.0] * 1 + [0.0] * 12
    lost_alone = [0.0] * 1 + [1.0] * 7 + [1.0] * 1 + [0.0] * 12
    # Fagerland, Lydersen & Laake 2014, Statistics in Medicine 33:2850, airway hyper-responsiveness
    found = evidence.difference(per_sample(gained_alone), per_sample(lost_alone))
    assert found == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("lost", "gained"), [(1, 7), (5, 0), (3, 3), (4, 0), (9, 3), (8, 3)])
def test_right_and_wrong_differ_where_mcnemars_test_says_so(lost: int, gained: int) -> None:
    alone = [1.0] * lost + [0.0] * gained + [1.0] * 40
    other = [0.0] * lost + [1.0] * gained + [1.0] * 40
    statistic = (lost - gained) ** 2 / (lost + gained)  # chi-squared of one degree: 3.841 at 95 %
    assert evidence.is_significant(per_sample(alone), per_sample(other)) == (statistic > 3.841459)


def test_equal_answers_do_not_show_that_nothing_is_lost() -> None:
    same = per_sample([1.0] * 45 + [0.0] * 5)
    # none of 50 differs: the score interval ends at z^2 / (n + z^2)
    most = 3.841459 / (50 + 3.841459)
    assert evidence.difference(same, same) == pytest.approx((-most, most), abs=1e-6)
    assert not evidence.is_no_worse(same, same, "max", 0.05)
    assert evidence.is_no_worse(same, same, "max", 0.08)  # of 0.9, 0.072
    share = per_sample([0.5] * 50)
    assert evidence.difference(share, share) == pytest.approx((-most, most), abs=1e-6)


def test_no_worse_takes_the_whole_interval_and_the_margin_itself_counts() -> None:
    assert evidence.is_no_worse(size(2.02), size(2.0), "min")  # 1 %
    assert not evidence.is_no_worse(size(2.021), size(2.0), "min")
    worst = Measurement("latency_ms", 5.0, "ms", 4.9, 5.1, 10)
    assert not evidence.is_no_worse(worst, size(5.0), "min")
    assert evidence.is_no_worse(worst, size(5.0), "min", 0.02)
    assert evidence.is_no_worse(worst, size(9.0), "min")


def test_a_wider_interval_is_that_of_a_higher_level() -> None:
    one, other = per_sample([1.5, 1.0, 0.0, 1.5]), per_sample([0.5, 1.0, 0.0, 0.5])
    # t(3) at 99 %: 5.84091
    assert evidence.difference(one, other, 0.99)[1] == pytest.approx(
        0.5 + 5.84091 * 0.57735 / 2, abs=1e-5
    )
    exact = Measurement("latency_ms", 5.0, "ms", 4.9, 5.1, 10)
    # t(9) is 2.26216 at 95 % and 3.24984 at 99 %
    low, high = evidence.difference(exact, size(4.0), 0.99)
    assert (low, high) == pytest.approx(
        (1 - 0.1 * 3.24984 / 2.26216, 1 + 0.1 * 3.24984 / 2.26216), abs=1e-5
    )


def test_how_many_samples_tell_goes_with_the_square() -> None:
    assert evidence.samples_to_tell(60, distance=0.01, half=0.04) == 16 * 60
    assert evidence.samples_to_tell(60, distance=0.0, half=0.04) is None
    assert evidence.samples_to_tell(60, distance=1e-4, half=0.04) is None, "160,000 times as many"
    assert evidence.samples_to_tell(60, distance=0.01, half=math.inf) is None


def test_the_same_samples_tell_schemes_apart_whose_intervals_overlap(bench: Bench) -> None:
    right = np.arange(400) % 10 < 7  # 280 of 400
    worse = right & (np.arange(400) % 20 != 0)  # 20 more are wrong
    one, other = per_sample(right.astype(float).tolist()), per_sample(worse.astype(float).tolist())
    assert one.low is not None
    assert other.high is not None
    assert one.low < other.high
    bench.add("one", one)
    bench.add("other", other)
    assert bench.reasons({"top1": "max"}) == {"one": "", "other": "dominated by one"}


def rounds(*medians: float) -> Measurement:
    values = [[median - 0.01, median, median + 0.01] for median in medians]
    middle = float(np.median(values))
    return Measurement(
        "latency_ms", middle, "ms", min(medians), max(medians), len(medians), rounds=values
    )


def test_interleaved_rounds_pair_up_under_drift(bench: Bench) -> None:
    drift = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    bench.add("fast", rounds(*(5.0 + drift)))
    bench.add("slow", rounds(*(5.5 + drift)))
    assert bench.reasons({"latency_ms": "min"}) == {"fast": "", "slow": "dominated by fast"}


def test_resamples_of_the_same_draws_pair_up(bench: Bench) -> None:
    drawn = np.random.default_rng(0).normal(0.80, 0.02, 200)
    for scheme, lost in (("one", 0.0), ("other", 0.01)):
        values = (drawn - lost).tolist()
        wide = {
            "low": 0.76 - lost,
            "high": 0.84 - lost,
            "n": 500,
            "raw": "resamples",
            "rounds": [values],
        }
        bench.add(scheme, Measurement("map50", 0.80 - lost, "", better="max", **wide))  # type: ignore[arg-type]
    assert bench.reasons({"map50": "max"}) == {"one": "", "other": "dominated by one"}


@pytest.mark.parametrize("middle", ["pooled", "median", "mean"])
def test_rounds_stand_for_whichever_middle_of_them_was_taken(middle: str) -> None:
    drift = [0.0, 1.0, 5.0]

    def timed(base: float) -> Measurement:
        values = [[base + d, base + d, base + d + 9.0] + [base + d + 8.0] * (d > 1) for d in drift]
        medians = [float(np.median(each)) for each in values]
        taken = {"pooled": np.concatenate(values), "median": medians}
        value = float(np.mean(medians) if middle == "mean" else np.median(taken[middle]))
        return Measurement("latency_ms", value, "ms", value - 9, value + 9, 3, rounds=values)

    assert evidence.difference(timed(5.5), timed(5.0)) == pytest.approx((0.5, 0.5))


def test_better_on_the_average_but_with_a_worse_number_is_not_better() -> None:
    one = Measurement("latency_ms", 6.0, "ms", 1.0, 2.0, 10)
    other = Measurement("latency_ms", 5.0, "ms", 3.0, 4.0, 10)
    assert evidence.difference(one, other) == (-3.0, -1.0)
    assert not evidence.is_better(one, other, "min")


def test_numbers_of_different_samples_are_not_paired() -> None:
    one, other = per_sample([1.0, 1.0, 1.0, 0.0]), per_sample([1.0, 0.0, 0.0])
    assert one.low is not None
    assert other.high is not None
    assert evidence.difference(one, other)[0] == one.low - other.high


def test_raw_values_that_do_not_stand_for_the_number_are_not_paired() -> None:
    p90 = [
        Measurement(
            "latency_p90_ms", value, "ms", value - 1, value + 1, 3, rounds=[[1.0, 2.0], [1.0, 2.0]]
        )
        for value in (9.0, 12.0)
    ]
    assert evidence.difference(*p90) == (8.0 - 13.0, 10.0 - 11.0)


def test_numbers_of_which_no_values_were_taken_are_exact() -> None:
    assert evidence.difference(size(2.0), size(3.0)) == (-1.0, -1.0)


def timed(*medians: float, valid: Sequence[int] = ()) -> Measurement:
    """One value a round; only rounds `valid` count, all where none is said."""
    counts = [not valid or n in valid for n in range(len(medians))]
    conditions = [{"invalid": None if each else "throttled"} for each in counts]
    taken = [[median] for median in medians]
    believed = [median for median, each in zip(medians, counts, strict=True) if each]
    middle, ends = (
        float(np.median(believed)),
        (min(believed), max(believed)) if len(believed) > 1 else (None, None),
    )
    return Measurement(
        "latency_ms", middle, "ms", *ends, len(believed), rounds=taken, conditions=conditions
    )


def test_one_round_tells_no_two_numbers_apart(bench: Bench) -> None:
    assert evidence.difference(timed(5.0), timed(9.0)) == (-math.inf, math.inf)
    bench.add("fast", timed(5.0))
    bench.add("slow", timed(9.0))
    assert bench.reasons({"latency_ms": "min"}) == {"fast": "", "slow": ""}
    rows = bench.rows()
    assert [row["ties"] for row in rows] == [[], []]
    note = "cannot be told apart from slow in latency_ms: it was measured only once"
    assert rows[0]["notes"]["undecided"] == note


def test_one_sample_tells_nothing_either() -> None:
    one, other = (
        Measurement("sqnr_db", value, "dB", better="max", raw="resamples") for value in (20.0, 30.0)
    )
    assert evidence.difference(one, other) == (-math.inf, math.inf)


def test_one_round_that_counts_says_nothing_against_six(bench: Bench) -> None:
    one, six = (
        timed(1.0, 70.0, 71.0, 72.0, 73.0, 74.0, valid=[0]),
        timed(5.0, 5.1, 5.2, 5.0, 5.1, 5.2),
    )
    assert not evidence.is_significant(one, six)
    assert not evidence.is_significant(six, one)


def test_where_one_round_counts_in_both_their_own_intervals_decide() -> None:
    one, other = timed(1.0, 1.2, 9.0, 9.0, valid=[0, 1]), timed(9.0, 5.0, 5.3, 9.0, valid=[1, 2])
    assert evidence.difference(one, other) == pytest.approx((1.0 - 5.3, 1.2 - 5.0))


def test_one_number_of_each_round_pairs_up_whatever_is_made_of_them() -> None:
    p90 = [
        Measurement(
            "latency_p90_ms",
            value,
            "ms",
            value - 1,
            value + 1,
            3,
            rounds=[[base], [base + 2.0], [base + 5.0]],
        )
        for value, base in ((9.0, 4.0), (9.5, 4.5))
    ]
    assert evidence.difference(p90[1], p90[0]) == pytest.approx((0.5, 0.5))


def test_disturbed_rounds_are_left_out_of_pairs(bench: Bench) -> None:
    def timed(values: list[float], invalid: int) -> Measurement:
        conditions = [
            {"invalid": "throttled" if n == invalid else None, "environment": {}} for n in range(5)
        ]
        believed = [value for n, value in enumerate(values) if n != invalid]
        rounds = [[value] for value in values]
        middle = float(np.median(believed))
        return Measurement(
            "latency_ms", middle, "ms", 1, 99, 4, rounds=rounds, conditions=conditions
        )

    one, other = (
        timed([1.0, 2.0, 3.0, 50.0, 5.0], invalid=3),
        timed([1.5, 70.0, 3.5, 4.5, 5.5], invalid=1),
    )
    assert evidence.difference(other, one) == pytest.approx((0.5, 0.5))
    bench.add("one", one)
    assert (
        bench.rows()[0]["notes"]["rounds"]
        == "1 of 5 rounds were disturbed and do not count: throttled"
    )

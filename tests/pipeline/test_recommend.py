"""The one sentence: what is shown to keep float's accuracy, and is the fastest; what it costs, and what would tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from front_bench import OBJECTIVES, Bench, Goals, add_four, latency, map50, per_sample, size

from qpipe.compare import decision, intervals
from qpipe.compare.formatting import cell
from qpipe.compare.recommend import choose, recommend
from qpipe.types import Measurement

TOP1: Goals = {"latency_ms": "min", "top1": "max", "size_mb": "min"}


def sentence(bench: Bench, objectives: Goals = OBJECTIVES, **options: Any) -> str:
    (found,) = recommend(bench.judged(), objectives, **options)
    return found.removeprefix("net on rpi4: ")


def chosen(bench: Bench, objectives: Goals = OBJECTIVES, **options: Any) -> str | None:
    row = choose(bench.judged(), objectives, **options)
    return row["name"] if row else None


def answers(right: int, lost: int = 0, gained: int = 0, wrong: int = 0) -> list[float]:
    """Right or wrong on so many samples; of `right` that float has, so many are lost."""
    return [0.0] * lost + [1.0] * (right - lost) + [1.0] * gained + [0.0] * (wrong - gained)


def test_the_fastest_that_is_shown_to_keep_it_is_shipped(bench: Bench) -> None:
    add_four(bench)
    bench.add("int8-mse", latency(6.0), map50(0.858), size(2.2))
    # three schemes lose more than 1.5 points and are decided at once; int8-channel loses 1 (0.8 to 1.2)
    assert sentence(bench) == (
        "ship int8-mse, the only one that is shown to lose at most 1 point of map50: latency 6.00 ms (5.99 to 6.01), "
        "map50 85.8 % (85.7 to 85.9), size 2.20 MB; it loses 0.2 points of map50 against float (0.0 to 0.4); "
        "it is also the smallest that keeps it and the most accurate; runner-up: float32"
    )
    assert sentence(bench, keep=2).startswith(
        "ship int8-channel, the fastest that is shown to lose at most 2 points of map50: latency 5.00 ms "
    )
    assert "; runner-up: int8-mse; " in sentence(bench, keep=2)
    assert "; most accurate: int8-mse (loses 0.2 points of map50 against float (" in sentence(
        bench, keep=2
    )


def test_what_is_small_and_loses_too_much_is_not_shipped_however_small(bench: Bench) -> None:
    bench.add("float32", latency(10.0), map50(0.86), size(8.0))
    bench.add("int8", latency(6.0), map50(0.859), size(2.0))
    bench.add("int2", latency(1.0), map50(0.30), size(0.1))
    assert chosen(bench) == "int8"
    assert chosen(bench, keep=100) == "int2"


def test_sixty_pictures_show_nothing_and_it_is_said_how_many_would(bench: Bench) -> None:
    bench.add("float32", latency(10.0), per_sample(answers(55, wrong=5)), size(14.0))
    bench.add("int8-channel", latency(5.0), per_sample(answers(55, lost=1, wrong=5)), size(3.6))
    bench.add("log4", latency(5.0), per_sample(answers(55, lost=6, wrong=5)), size(2.5))
    assert chosen(bench, TOP1) is None
    # 1 of 60 is 1.7 points, more than may be lost: no number of samples is likely to show that it is less
    # two are compared, each with 97.5 % on the side that counts: the 95 % interval
    low, high = intervals.paired_share_difference(1, 0, 60)
    assert sentence(bench, TOP1) == (
        "nothing is recommended: no scheme is shown to lose at most 1 point of top1; int8-channel loses 1.7 points "
        f"of top1 against float ({100 * low:.1f} to {100 * high:.1f}) on 60 samples; more samples are not likely to "
        "show it: allow more by --keep"
    )
    bench.add("int8-channel", per_sample(answers(55, lost=0, wrong=5)))
    # none of 60 is lost: up to 6.0 points (3.84 / 63.84); to 1 point it is 36.2 times the samples: 2172
    assert sentence(bench, TOP1, command="qpipe run net.yaml") == (
        "nothing is recommended: no scheme is shown to lose at most 1 point of top1; int8-channel loses 0.0 points "
        "of top1 against float (-6.0 to 6.0) on 60 samples; about 2200 samples would tell: add samples, then: "
        "qpipe run net.yaml"
    )


def test_more_samples_of_the_same_show_it(bench: Bench) -> None:
    bench.add("float32", latency(10.0), per_sample(answers(700, wrong=100)), size(14.0))
    bench.add(
        "int8-channel",
        latency(5.0),
        per_sample(answers(700, lost=2, gained=2, wrong=100)),
        size(3.6),
    )
    bench.add("log4", latency(5.0), per_sample(answers(700, lost=40, wrong=100)), size(2.5))
    assert chosen(bench, TOP1) == "int8-channel"
    found = sentence(bench, TOP1)
    low, high = intervals.paired_share_difference(2, 2, 800)
    assert (
        f"; it loses 0.0 points of top1 against float ({100 * low:.1f} to {100 * high:.1f}); "
        in found
    )
    assert 100 * high < 1


def test_what_is_claimed_of_several_schemes_holds_together() -> None:
    """Holm by hand: of one scheme alone 2.5 % lie beyond the end, of ten undecided ones 0.5 %."""

    def losses(count: int, high: float, decided: int = 0) -> Mapping[str, decision.Loss]:
        number = Measurement("top1", 0.8, "share", n=500, raw="samples")

        def at(half_at_95: float, level: float) -> tuple[float, float]:
            half = half_at_95 * intervals.t_quantile(10**6, level) / intervals.t_quantile(10**6)
            return 0.0 - half, half

        questions = {
            f"s{i}": decision.Question(number, 0.0, lambda level: at(high, level), 0.01)
            for i in range(count)
        }
        lost = decision.Question(number, 0.5, lambda level: (0.4, 0.6), 0.01)
        questions |= {f"lost{i}": lost for i in range(decided)}
        return decision.judge_losses(questions)

    # normal quantiles at 97.5 and 99.5 %: 1.960 and 2.576
    assert losses(1, 0.0099)["s0"].verdict == "kept"
    assert losses(1, 0.0101)["s0"].verdict == "unknown"
    assert losses(2, 0.0099)["s0"].verdict == "kept"
    limit = 0.01 * 1.95996 / 2.57583
    assert losses(10, 0.999 * limit)["s0"].verdict == "kept"
    assert losses(10, 1.001 * limit)["s0"].verdict == "unknown"
    assert losses(10, 1.001 * limit)["s0"].interval[1] == pytest.approx(1.001 * 0.01, rel=1e-4)
    # those that are shown to be lost count no more
    freed = losses(2, 0.0099, decided=8)
    assert (freed["s0"].verdict, freed["lost0"].verdict) == ("kept", "lost")


def test_of_those_that_are_not_shown_to_be_slower_the_smallest_is_shipped(bench: Bench) -> None:
    bench.add("float32", latency(10.0), map50(0.86), size(8.0))
    bench.add("int8", latency(5.00, half=0.1), map50(0.859), size(2.0))
    bench.add("int4", latency(5.10, half=0.1), map50(0.857), size(1.0))
    bench.add("int3", latency(5.60, half=0.1), map50(0.857), size(0.8))
    assert chosen(bench) == "int4"
    # unpaired, 0.1 ms (-0.1 to 0.3): of 5.1 ms 5.9 %; 0.2 ms come down to 1 % of 5 ms in 4 * 4 times the 10 rounds
    assert (
        "; int8 may be faster, by up to 5.9 %, but is not shown to be: about 160 rounds would tell; "
        in sentence(bench)
    )
    assert (
        "; smallest that keeps it: int3 (0.8 MB); most accurate: int8 (loses 0.1 points "
        in sentence(bench)
    )
    memory = {"int8": 20.0, "int4": 21.0, "equal": 19.0}
    bench.add("equal", latency(5.05, half=0.1), map50(0.857), size(1.0))
    for scheme, value in memory.items():
        bench.add(scheme, Measurement("memory_mb", value, "MB", value - 0.1, value + 0.1, 3))
    assert chosen(bench) == "equal", "the same size, less memory"


def test_float_is_shipped_where_what_keeps_it_is_slower(bench: Bench) -> None:
    bench.add("float32", latency(5.0), map50(0.86), size(8.0))
    bench.add("int8", latency(6.0), map50(0.859), size(2.0))
    assert sentence(bench).startswith(
        "ship float32, the fastest that loses at most 1 point of map50: "
    )
    assert "; no quantized one that keeps it is faster; runner-up: int8; " in sentence(bench)


def test_times_in_doubt_recommend_nothing_and_say_what_to_do(bench: Bench) -> None:
    doubt = {"doubt": "all 6 rounds were disturbed: throttled"}
    for scheme, value in (("float32", 10.0), ("int8", 5.0)):
        timed = Measurement("latency_ms", value, "ms", value, value, 6, detail=doubt)
        bench.add(scheme, timed, map50(0.86), size(2.0))
    assert sentence(bench) == (
        "nothing is recommended: latency_ms of int8 is in doubt: all 6 rounds were disturbed: throttled; measure more "
        "rounds on a quiet device, then: qpipe run RECIPE"
    )
    assert chosen(bench) is None


def test_one_round_does_not_tell_which_is_the_fastest(bench: Bench) -> None:
    for scheme, value in (("float32", 10.0), ("int8", 5.0)):
        timed = Measurement("latency_ms", value, "ms", rounds=[[value]])
        bench.add(scheme, timed, map50(0.86), size(2.0))
    assert [cell(row["metrics"]["latency_ms"], share=False) for row in bench.rows()] == [
        "10.00 ±?",
        "5.00 ±?",
    ]
    assert sentence(bench).startswith(
        "nothing is recommended: latency_ms was measured in one round only; "
    )


def test_without_an_objective_of_quality_nothing_is_recommended(bench: Bench) -> None:
    for scheme, value in (("float32", 8.0), ("int2", 0.1)):
        sqnr = Measurement(
            "sqnr_db", 0.2, "dB", 0.1, 0.3, 50, "max", raw="resamples", detail={"against": "float"}
        )
        bench.add(scheme, size(value), sqnr)
    assert sentence(bench, {"size_mb": "min"}) == (
        "nothing is recommended: no objective tells how good the answers are; add one to pareto, such as "
        "sqnr_db: max (--knee chooses without)"
    )
    # the error of SQNR is no loss that float could have
    assert sentence(bench, {"size_mb": "min", "sqnr_db": "max"}) == (
        "nothing is recommended: sqnr_db is no loss against float; say what it must be, as in --min sqnr_db=20"
    )
    assert bench.rows()[1]["notes"]["ruined"] == (
        "ruined: its SQNR is 0.2 dB; at 0 dB the error is as large as float's outputs"
    )
    assert "ruined" not in bench.rows()[0]["notes"]


def test_what_tells_how_good_answers_are_is_measured_first_where_nothing_did(bench: Bench) -> None:
    bench.add("int2", size(0.1))
    assert sentence(bench, {"size_mb": "min"}) == (
        "nothing is recommended: no objective tells how good the answers are; add accuracy to measure, "
        "and agreement: max to pareto (--knee chooses without)"
    )


def test_without_labels_answers_must_be_shown_to_equal_those_of_float(bench: Bench) -> None:
    goals: Goals = {"latency_ms": "min", "agreement": "max"}
    for scheme, value, equal in (("float32", 10.0, 500), ("int8", 5.0, 496), ("int4", 4.0, 488)):
        low, high = intervals.wilson(equal, 500)
        contributions = [1.0] * equal + [0.0] * (500 - equal)
        agreement = Measurement(
            "agreement", equal / 500, "share", low, high, 500, "max",
            rounds=[contributions], raw="samples", detail={"against": "float"},
        )  # fmt: skip
        bench.add(scheme, latency(value), agreement)
    # Wilson: 496 of 500 is at least 97.96 %, 488 at least 95.9 %
    assert chosen(bench, goals) is None
    assert (
        "no scheme is shown to lose at most 2 points of agreement; int8 loses 0.8 points of agreement "
        in sentence(bench, goals)
    )
    assert chosen(bench, goals, keep=2.1) == "int8"
    assert chosen(bench, goals, keep=4.2) == "int4"


def test_of_a_metric_that_is_no_share_a_part_may_be_lost(bench: Bench) -> None:
    goals: Goals = {"latency_ms": "min", "wer": "min"}
    for scheme, value, rate in (
        ("float32", 10.0, 0.200),
        ("int8", 5.0, 0.201),
        ("int4", 4.0, 0.210),
    ):
        wer = Measurement(
            "wer", rate, "", rate - 0.0002, rate + 0.0002, 500, "min", raw="resamples"
        )
        bench.add(scheme, latency(value), wer)
    # 1 % of 0.2 is 0.002: int8 adds 0.001 (0.0006 to 0.0014)
    assert chosen(bench, goals) == "int8"
    found = sentence(bench, goals)
    assert found.startswith(
        "ship int8, the only one that is shown to lose at most 1 % of float's wer: "
    )
    assert "; it loses 0.001 of wer against float (0.0006 to 0.0014); " in found
    assert chosen(bench, goals, keep=0.5) is None
    assert chosen(bench, goals, keep=6) == "int4"


def test_limits_restrict_what_is_chosen_among(bench: Bench) -> None:
    add_four(bench)
    found = sentence(bench, keep=5, limits={"size_mb": ("<=", 2)})
    assert found.startswith(
        "ship log4, the fastest with size_mb <= 2 that is shown to lose at most 5 points of map50: "
    )
    assert "; surely" in found
    assert "no scheme has joules <= 1; the best is joules not measured" in sentence(
        bench, limits={"joules": ("<=", 1)}
    )


def test_a_limit_on_the_quality_takes_the_place_of_the_loss(bench: Bench) -> None:
    add_four(bench)
    bench.add("log4", latency(4.0), map50(0.82), size(1.2))
    assert chosen(bench, limits={"map50": (">=", 0.81)}) == "log4"
    found = sentence(bench, limits={"map50": (">=", 0.81)})
    assert found.startswith("ship log4, the fastest that is shown to have map50 >= 0.81: ")
    assert "; it is 1.0 points (0.9 to 1.1) within it; " in found
    # the value is within, but not the interval
    assert chosen(bench, limits={"map50": (">=", 0.8495)}) is None
    assert "no scheme is shown to have map50 >= 0.8495; int8-channel is 0.0 points (" in sentence(
        bench, limits={"map50": (">=", 0.8495)}
    )
    # float32 has it, but is no scheme
    assert "the least of all" in sentence(bench, limits={"map50": (">=", 0.855)})


def test_a_limit_on_the_quality_holds_beside_a_loss_that_is_asked_for(bench: Bench) -> None:
    add_four(bench)
    limits: Any = {"map50": (">=", 0.83)}
    found = sentence(bench, limits=limits, keep=5)
    assert found.startswith(
        "ship int8-channel, the fastest with map50 >= 0.83 that is shown to lose at most 5 points "
    )
    assert "; surely; " in found


def test_each_device_gets_its_sentence(bench: Bench) -> None:
    for device in ("rpi5", "rpi4"):
        bench.add("float32", latency(10.0), map50(0.8), size(8.0), device=device)
        bench.add("int8", latency(5.0), map50(0.8), size(2.0), device=device)
    sentences = recommend(bench.judged(), OBJECTIVES)
    assert [found.split(", the")[0] for found in sentences] == [
        "net on rpi4: ship int8",
        "net on rpi5: ship int8",
    ]


def test_paired_scores_are_compared_sample_by_sample(bench: Bench) -> None:
    random = np.random.default_rng(3)
    reference = random.uniform(0.4, 1.0, 300)
    bench.add("float32", latency(10.0), per_sample(reference.tolist()), size(8.0))
    bench.add(
        "int8",
        latency(5.0),
        per_sample((reference - random.normal(0.001, 0.02, 300)).tolist()),
        size(2.0),
    )
    # unpaired the difference is known to 3.9 points, paired to 0.23
    assert chosen(bench, TOP1) == "int8"

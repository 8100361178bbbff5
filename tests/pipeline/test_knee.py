"""What is nearest to the best of each objective: what it keeps to, and how sure that is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from front_bench import OBJECTIVES, Bench, Goals, add_four, latency, map50, size

from qpipe.compare import pareto
from qpipe.compare.formatting import cell
from qpipe.compare.knee import choose, describe_knees
from qpipe.types import Measurement


def test_without_limits_the_knee_is_named(bench: Bench) -> None:
    add_four(bench)
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES)
    # scaled to the front: float32 (1, 0, 1), int8-channel (0, 0.25, 0.147), log4 (0.004, 1, 0)
    assert sentence == (
        "net on rpi4: ship int8-channel, the nearest to the best of each objective: "
        "latency 5.00 ms (4.99 to 5.01), map50 85.0 % (84.9 to 85.1), size 2.20 MB; "
        "chosen in 100 % of 1000 resamples"
    )


def test_a_limit_is_kept_and_named(bench: Bench) -> None:
    add_four(bench)
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES, {"map50": (">=", 0.855)})
    assert sentence.startswith(
        "net on rpi4: ship float32, the best with map50 >= 0.855: latency 10.00 ms ("
    )
    chosen = choose(bench.rows(), OBJECTIVES, {"map50": (">=", 0.8), "latency_ms": ("<", 6)})
    assert chosen is not None
    assert chosen["scheme"] == "log4"  # only the size is left to choose by


def test_a_limit_may_be_on_a_metric_that_is_no_objective(bench: Bench) -> None:
    add_four(bench)
    bench.add("log4", Measurement("peak_mb", 20.0, "MB"))
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES, {"peak_mb": ("<=", 32)})
    assert "ship log4, the best with peak_mb <= 32" in sentence
    assert "peak 20.00 MB; surely" in sentence


def test_limits_nobody_keeps_are_answered_with_the_best_there_is(bench: Bench) -> None:
    add_four(bench)
    limits: Any = {"map50": (">=", 0.9), "latency_ms": ("<=", 2), "joules": ("<", 1)}
    assert describe_knees(bench.rows(), OBJECTIVES, limits) == [
        "net on rpi4: no scheme has map50 >= 0.9 and latency_ms <= 2 and joules < 1; the best is "
        "map50 86.0 % (85.9 to 86.1) (float32), latency 5.00 ms (4.99 to 5.01) (int8-channel), joules not measured"
    ]
    assert choose(bench.rows(), OBJECTIVES, limits) is None


def test_numbers_are_said_in_units_that_people_read(bench: Bench) -> None:
    metrics = {
        "latency_ms": Measurement("latency_ms", 0.0432, "ms"), "sqnr_db": Measurement("sqnr_db", 200.0, "dB"),
        "params": Measurement("params", 512.0, ""), "latency_ratio": Measurement("latency_ratio", 0.61, ""),
    }  # fmt: skip
    bench.add("int8", *metrics.values())
    goals: Goals = dict.fromkeys(metrics, "min")
    (sentence,) = describe_knees(pareto.pareto_rows(bench.store, bench.run), goals)
    assert sentence.endswith(": latency 0.0432 ms, sqnr exact, params 512.0, latency_ratio 0.61")


def test_a_limit_that_the_interval_does_not_keep_is_kept_barely(bench: Bench) -> None:
    bench.add("float32", latency(30.0), map50(0.86), size(8.0))
    bench.add("int8", latency(19.6, half=0.8), map50(0.85), size(2.0))
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES, {"latency_ms": ("<=", 20)})
    assert "; but barely: the interval reaches beyond latency_ms <= 20; chosen in " in sentence
    # 0.4 is 0.98 standard deviations: kept in 84 % of normal draws, of which a thousand stray by 3.5 points at most
    share = float(
        re.search(
            r"chosen in (\d+) % of 1000 resamples, else mostly none keeps the limits", sentence
        )[1]
    )  # type: ignore[index]
    assert 80 <= share <= 88


def test_a_choice_among_equals_is_said_to_be_as_unsure_as_it_is(bench: Bench) -> None:
    for scheme in ("one", "other"):
        bench.add(scheme, latency(5.0, half=0.5), map50(0.85), size(2.0))
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES)
    share = float(
        re.search(r"chosen in (\d+) % of 1000 resamples, else mostly (one|other)", sentence)[1]
    )  # type: ignore[index]
    assert 45 <= share <= 55


def test_a_difference_that_noise_may_have_made_does_not_decide(bench: Bench) -> None:
    # by the values alone `large` is the nearest: it has all of the 0.02 ms that the rows are apart, and more points
    bench.add("large", latency(1.41, half=0.01), map50(0.860), size(0.6))
    bench.add("small", latency(1.43, half=0.10), map50(0.852), size(0.4))
    bench.add("smaller", latency(1.42, half=0.10), map50(0.840), size(0.39))
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES)
    random = np.random.default_rng(7)
    drawn = random.normal([1.41, 1.43, 1.42], np.array([0.01, 0.1, 0.1]) / 1.96, (4000, 3))
    span = (drawn - drawn.min(1, keepdims=True)) / np.ptp(drawn, axis=1, keepdims=True)
    nearest = np.square(span) + np.square([[0, 0.4, 1]]) + np.square([[1, 0.01 / 0.21, 0]])
    often = np.bincount(nearest.argmin(1), minlength=3)
    assert often.argmax() == 1
    assert ": ship small, " in sentence


def test_a_recommendation_by_numbers_in_doubt_says_so(bench: Bench) -> None:
    detail = {"doubt": "all 6 rounds were disturbed: throttled"}
    bench.add(
        "int8",
        Measurement("latency_ms", 5.0, "ms", 4.9, 5.1, 6, detail=detail),
        map50(0.8),
        size(2.0),
    )
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES, {"latency_ms": ("<=", 20)})
    assert sentence.endswith("; but latency_ms is in doubt: all 6 rounds were disturbed: throttled")
    (sentence,) = describe_knees(bench.rows(), OBJECTIVES, {"size_mb": ("<=", 20)})
    assert sentence.endswith(
        "; but latency_ms is in doubt: all 6 rounds were disturbed: throttled; surely"
    )


def test_a_limit_that_one_round_keeps_is_not_kept_surely(bench: Bench) -> None:
    for scheme, value in (("one", 5.0), ("other", 6.0)):
        bench.add(
            scheme, Measurement("latency_ms", value, "ms", rounds=[[value]]), map50(0.8), size(2.0)
        )
    rows = bench.rows()
    assert [cell(row["metrics"]["latency_ms"], share=False) for row in rows] == [
        "5.00 ±?",
        "6.00 ±?",
    ]
    (sentence,) = describe_knees(rows, OBJECTIVES, {"latency_ms": ("<=", 20)})
    assert sentence.endswith("; its certainty is not known: latency_ms was measured only once")
    assert "surely" not in sentence


def test_a_mean_below_one_is_no_share_unless_it_says_so(bench: Bench) -> None:
    rate = Measurement("miscount", 0.4, "", 0.0, 0.9, 50, raw="samples")
    bench.add("int8", rate, map50(0.4))
    (sentence,) = describe_knees(bench.rows(), {"miscount": "min", "map50": "max"})
    assert "miscount 0.40 (0.00 to 0.90), map50 40.0 % (39.9 to 40.1)" in sentence


def test_each_device_gets_its_sentence(bench: Bench) -> None:
    for device in ("rpi5", "rpi4"):
        bench.add("int8", latency(5.0), map50(0.8), size(2.0), device=device)
    sentences = describe_knees(bench.rows(), OBJECTIVES)
    assert [sentence.split(":")[0] for sentence in sentences] == ["net on rpi4", "net on rpi5"]

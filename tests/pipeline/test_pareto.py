"""Fronts and recommendations, from measurements in a real store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from qpipe.compare import evidence, pareto
from qpipe.compare.recommend import choose, recommend
from qpipe.store import Store
from qpipe.types import Measurement

Goals = dict[str, Literal["min", "max"]]
OBJECTIVES: Goals = {"latency_ms": "min", "map50": "max", "size_mb": "min"}


def latency(value: float, half: float = 0.05) -> Measurement:
    return Measurement("latency_ms", value, "ms", value - half, value + half, 10)


def map50(value: float, half: float = 0.001) -> Measurement:
    return Measurement("map50", value, "", value - half, value + half, 500, "max")


def size(value: float) -> Measurement:
    return Measurement("size_mb", value, "MB")


class Bench:
    """A run in a store, to which schemes are added."""

    def __init__(self, store: Store) -> None:
        self.store = store
        recipe = {"recipe_path": "", "recipe_digest": "", "recipe_text": "", "objectives": OBJECTIVES}
        self.run = store.new_run("ssd", **recipe, versions={})  # type: ignore[arg-type]

    def add(
        self, scheme: str, *measurements: Measurement, device: str = "rpi4", build: str = "ort", **extra: str
    ) -> None:
        place = {"model": "net", "scheme": scheme, "build": build, "device": device, **extra}
        facts = {"runtime": "onnxruntime", "is_float": scheme == "float32"}
        self.store.record_measurements(self.run, place, measurements, **facts)

    def reasons(self, objectives: Goals = OBJECTIVES, **margins: float) -> dict[str, str]:
        rows = pareto.verdicts(pareto.candidates(self.store, self.run), objectives, margins)
        self.store.record_verdicts(self.run, rows)
        return {row["scheme"]: row["reason"] for row in self.store.verdicts(self.run)}

    def rows(self) -> list[dict[str, Any]]:
        self.reasons()
        return pareto.pareto_rows(self.store, self.run)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Store(tmp_path / "qpipe.db") as store:
        yield Bench(store)


def add_four(bench: Bench) -> None:
    bench.add("float32", latency(10.0), map50(0.86), size(8.0))
    bench.add("int8-channel", latency(5.0), map50(0.85), size(2.2))
    bench.add("int8-tensor", latency(5.0), map50(0.60), size(2.2))
    bench.add("log4", latency(5.02), map50(0.82), size(1.2))


def test_what_is_worse_in_one_objective_and_better_in_none_is_dominated(bench: Bench) -> None:
    add_four(bench)
    assert bench.reasons() == {
        "float32": "", "int8-channel": "", "int8-tensor": "dominated by int8-channel", "log4": ""
    }  # fmt: skip


def test_a_difference_within_the_intervals_dominates_nobody(bench: Bench) -> None:
    bench.add("one", latency(5.0, half=0.5), map50(0.85), size(2.0))
    bench.add("other", latency(5.9, half=0.5), map50(0.85), size(2.0))
    assert set(bench.reasons().values()) == {""}


def test_a_significant_difference_within_the_margin_dominates_nobody(bench: Bench) -> None:
    bench.add("one", latency(5.00, half=0.001), map50(0.85), size(2.0))
    bench.add("other", latency(5.04, half=0.001), map50(0.85), size(2.0))
    assert set(bench.reasons().values()) == {""}
    assert bench.reasons(latency_ms=0.001) == {"one": "", "other": "dominated by one"}


def test_the_margins_that_were_used_are_stored(bench: Bench) -> None:
    add_four(bench)
    bench.reasons(latency_ms=0.1)
    verdict = bench.store.verdicts(bench.run)[0]
    assert verdict["margins"] == {"latency_ms": 0.1, "map50": 0.005, "size_mb": 0.01}
    assert verdict["objectives"] == OBJECTIVES


def per_sample(values: Sequence[float]) -> Measurement:
    array = np.array(values, np.float64)
    half = 1.96 * float(array.std()) / len(array) ** 0.5
    mean = float(array.mean())
    low, high = mean - half, mean + half
    return Measurement("top1", mean, "", low, high, len(array), "max", rounds=[list(values)], raw="samples")


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


def test_the_difference_over_samples_is_the_paired_t_interval(bench: Bench) -> None:
    low, high = evidence.difference(per_sample([1.0, 1.0, 0.0, 1.0]), per_sample([0.0, 1.0, 0.0, 0.0]))
    # differences 1, 0, 0, 1: mean 0.5, standard deviation 0.57735, t(3) 3.18245
    assert (low, high) == pytest.approx((0.5 - 3.182446 * 0.577350 / 2, 0.5 + 3.182446 * 0.577350 / 2), abs=1e-5)


def rounds(*medians: float) -> Measurement:
    values = [[median - 0.01, median, median + 0.01] for median in medians]
    middle = float(np.median(values))
    return Measurement("latency_ms", middle, "ms", min(medians), max(medians), len(medians), rounds=values)


def test_interleaved_rounds_pair_up_under_drift(bench: Bench) -> None:
    drift = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    bench.add("fast", rounds(*(5.0 + drift)))
    bench.add("slow", rounds(*(5.5 + drift)))
    assert bench.reasons({"latency_ms": "min"}) == {"fast": "", "slow": "dominated by fast"}


def test_resamples_of_the_same_draws_pair_up(bench: Bench) -> None:
    drawn = np.random.default_rng(0).normal(0.80, 0.02, 200)
    for scheme, lost in (("one", 0.0), ("other", 0.01)):
        values = (drawn - lost).tolist()
        wide = {"low": 0.76 - lost, "high": 0.84 - lost, "n": 500, "raw": "resamples", "rounds": [values]}
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


def in_a_circle(bench: Bench) -> Goals:
    """Each of a, b and c is better than the next in one metric, in which the evidence on the third is too weak."""
    for scheme, values in {"a": (5, None, 6), "b": (6, 5, None), "c": (None, 6, 5)}.items():
        metrics = [
            Measurement(f"m{i}", 5.5 if value is None else value, "ms", *((4, 7) if value is None else (value, value)))
            for i, value in enumerate(values)
        ]
        bench.add(scheme, *metrics, size(2.0))
    return {"m0": "min", "m1": "min", "m2": "min", "size_mb": "min"}


def test_a_circle_of_dominance_stays_on_the_front(bench: Bench) -> None:
    objectives = in_a_circle(bench)
    bench.add("d", *(Measurement(f"m{i}", 7.5, "ms") for i in range(3)), size(2.0))
    assert bench.reasons(objectives) == {"a": "", "b": "", "c": "", "d": "dominated by a"}


def test_a_circle_that_is_dominated_from_outside_is_off_the_front(bench: Bench) -> None:
    objectives = in_a_circle(bench)
    weak = [Measurement(f"m{i}", 5.5, "ms", 4, 7) for i in (1, 2)]
    bench.add("z", Measurement("m0", 5.0, "ms"), *weak, size(2.0))  # better than b in m0, and no more is known of it
    assert bench.reasons(objectives) == {**dict.fromkeys("abc", "dominated by z"), "z": ""}


def test_a_run_that_left_no_verdicts_is_judged_when_it_is_read(bench: Bench) -> None:
    add_four(bench)
    assert bench.store.verdicts(bench.run) == []
    rows = pareto.pareto_rows(bench.store, bench.run)
    assert {row["scheme"]: row["on_front"] for row in rows} == {
        "float32": True, "int8-channel": True, "int8-tensor": False, "log4": True
    }  # fmt: skip
    assert list(pareto.objectives_of(bench.store, bench.run)["net", "rpi4"]) == ["latency_ms", "map50", "size_mb"]
    assert bench.store.verdicts(bench.run) == [], "who reads does not write"


def test_each_device_has_the_objectives_that_were_measured_on_it(bench: Bench) -> None:
    bench.add("int8", latency(5.0), map50(0.8), size(2.0), device="rpi4")
    bench.add("int8", size(2.0), device="rpi5")
    assert pareto.objectives_of(bench.store, bench.run) == {
        ("net", "rpi4"): OBJECTIVES, ("net", "rpi5"): {"size_mb": "min"}
    }  # fmt: skip


def test_numbers_of_different_samples_are_not_paired() -> None:
    one, other = per_sample([1.0, 1.0, 1.0, 0.0]), per_sample([1.0, 0.0, 0.0])
    assert one.low is not None
    assert other.high is not None
    assert evidence.difference(one, other)[0] == one.low - other.high


def test_raw_values_that_do_not_stand_for_the_number_are_not_paired() -> None:
    p90 = [
        Measurement("latency_p90_ms", value, "ms", value - 1, value + 1, 3, rounds=[[1.0, 2.0], [1.0, 2.0]])
        for value in (9.0, 12.0)
    ]
    assert evidence.difference(*p90) == (8.0 - 13.0, 10.0 - 11.0)


def test_numbers_without_interval_are_exact() -> None:
    assert evidence.difference(size(2.0), size(3.0)) == (-1.0, -1.0)


def test_devices_and_their_fronts_are_apart(bench: Bench) -> None:
    bench.add("one", latency(5.0), map50(0.85), size(2.0), device="rpi4")
    bench.add("other", latency(9.0), map50(0.80), size(3.0), device="rpi5")
    assert bench.reasons() == {"one": "", "other": ""}


def test_what_lacks_an_objective_is_not_on_the_front(bench: Bench) -> None:
    bench.add("one", latency(5.0), map50(0.85), size(2.0))
    bench.add("broken", latency(4.0), size(2.0))
    assert bench.reasons() == {"one": "", "broken": "map50 was not measured"}


def test_an_objective_that_nobody_has_is_left_out(bench: Bench) -> None:
    bench.add("one", latency(5.0), size(2.0))
    bench.add("other", latency(9.0), size(2.0))
    assert bench.reasons() == {"one": "", "other": "dominated by one"}
    assert bench.store.verdicts(bench.run)[0]["objectives"] == {"latency_ms": "min", "size_mb": "min"}
    (sentence,) = recommend(pareto.pareto_rows(bench.store, bench.run), {})
    assert sentence == "net on rpi4: nothing to choose by was measured"


def test_several_builds_are_named_with_theirs(bench: Bench) -> None:
    bench.add("int8", latency(5.0), build="ort")
    bench.add("int8", latency(4.0), build="openvino")
    rows = pareto.verdicts(pareto.candidates(bench.store, bench.run), {"latency_ms": "min"})
    assert {row["build"]: row["reason"] for row in rows} == {"ort": "dominated by int8/openvino", "openvino": ""}


def test_a_sweep_competes_on_one_front(bench: Bench) -> None:
    for seed, value in (("1", 0.85), ("2", 0.80)):
        bench.add("int8", map50(value), seed=seed)
    rows = pareto.verdicts(pareto.candidates(bench.store, bench.run), {"map50": "max"})
    assert [(row["extra"], row["reason"]) for row in rows] == [
        ({"seed": "1"}, ""), ({"seed": "2"}, "dominated by int8/ort/seed=1")
    ]  # fmt: skip
    bench.store.record_verdicts(bench.run, rows)
    assert [(row["seed"], row["on_front"]) for row in pareto.pareto_rows(bench.store, bench.run)] == [
        ("1", True), ("2", False)
    ]  # fmt: skip


def test_no_two_rows_dominate_each_other() -> None:
    rng = np.random.default_rng(5)
    rows = [
        pareto.Candidate("net", f"s{i}", "ort", "rpi4", {}, "", False, {
            "latency_ms": latency(float(rng.uniform(4, 6)), 0.3), "map50": map50(float(rng.uniform(0.8, 0.9)), 0.02),
            "size_mb": size(float(rng.integers(1, 4))),
        })
        for i in range(30)
    ]  # fmt: skip
    pairs = [(a, b) for a in rows for b in rows if a is not b and pareto.dominates(a, b, OBJECTIVES)]
    assert pairs
    assert not [pair for pair in pairs if pareto.dominates(pair[1], pair[0], OBJECTIVES)]


def test_the_rows_are_what_the_command_promises(bench: Bench) -> None:
    add_four(bench)
    rows = bench.rows()
    assert [row["scheme"] for row in rows] == ["float32", "int8-channel", "int8-tensor", "log4"]
    assert rows[1] == {
        "recipe": "ssd", "run": bench.run, "model": "net", "scheme": "int8-channel", "build": "ort",
        "runtime": "onnxruntime", "device": "rpi4", "emulated": None, "is_float": False, "on_front": True,
        "reason": "", "ties": [], "notes": {"map50": "loses 1.0 points of map50 against float (0.8 to 1.2)"},
        "metrics": {
            "latency_ms": {"value": 5.0, "unit": "ms", "low": 4.95, "high": 5.05, "n": 10},
            "map50": {"value": 0.85, "unit": "", "low": 0.849, "high": 0.851, "n": 500},
            "size_mb": {"value": 2.2, "unit": "MB", "low": None, "high": None, "n": 1},
        },
    }  # fmt: skip
    assert [row["on_front"] for row in rows] == [True, True, False, True]
    assert rows[2]["reason"].startswith("dominated by ")
    assert pareto.pareto_rows(bench.store, bench.run[:-2]) == rows


# ---- the sentence


def test_without_limits_the_knee_is_recommended(bench: Bench) -> None:
    add_four(bench)
    (sentence,) = recommend(bench.rows(), OBJECTIVES)
    # scaled to the front: float32 (1, 0, 1), int8-channel (0, 0.25, 0.147), log4 (0.004, 1, 0)
    assert sentence == (
        "net on rpi4: ship int8-channel, the nearest to the best of each objective: "
        "latency 5.00 ms (4.95 to 5.05), map50 85.0 % (84.9 to 85.1), size 2.20 MB; "
        "chosen in 100% of 1000 resamples"
    )


def test_a_limit_is_kept_and_named(bench: Bench) -> None:
    add_four(bench)
    (sentence,) = recommend(bench.rows(), OBJECTIVES, {"map50": (">=", 0.855)})
    assert sentence.startswith("net on rpi4: ship float32, the best with map50 >= 0.855: latency 10.00 ms (")
    chosen = choose(bench.rows(), OBJECTIVES, {"map50": (">=", 0.8), "latency_ms": ("<", 6)})
    assert chosen is not None
    assert chosen["scheme"] == "log4"  # only the size is left to choose by


def test_a_limit_may_be_on_a_metric_that_is_no_objective(bench: Bench) -> None:
    add_four(bench)
    bench.add("log4", Measurement("peak_mb", 20.0, "MB"))
    (sentence,) = recommend(bench.rows(), OBJECTIVES, {"peak_mb": ("<=", 32)})
    assert "ship log4, the best with peak_mb <= 32" in sentence
    assert "peak 20.00 MB; surely" in sentence


def test_limits_nobody_keeps_are_answered_with_the_best_there_is(bench: Bench) -> None:
    add_four(bench)
    limits: Any = {"map50": (">=", 0.9), "latency_ms": ("<=", 2), "joules": ("<", 1)}
    assert recommend(bench.rows(), OBJECTIVES, limits) == [
        "net on rpi4: no scheme has map50 >= 0.9 and latency_ms <= 2 and joules < 1; the best is "
        "map50 86.0 % (85.9 to 86.1) (float32), latency 5.00 ms (4.95 to 5.05) (int8-channel), joules not measured"
    ]
    assert choose(bench.rows(), OBJECTIVES, limits) is None


def test_numbers_are_said_in_units_that_people_read(bench: Bench) -> None:
    metrics = {
        "latency_ms": Measurement("latency_ms", 0.0432, "ms"), "sqnr_db": Measurement("sqnr_db", 200.0, "dB"),
        "params": Measurement("params", 512.0, ""), "latency_ratio": Measurement("latency_ratio", 0.61, ""),
    }  # fmt: skip
    bench.add("int8", *metrics.values())
    goals: Goals = dict.fromkeys(metrics, "min")
    (sentence,) = recommend(pareto.pareto_rows(bench.store, bench.run), goals)
    assert sentence.endswith(": latency 0.0432 ms, sqnr exact, params 512.0, latency_ratio 0.61")


def test_a_limit_that_the_interval_does_not_keep_is_kept_barely(bench: Bench) -> None:
    bench.add("float32", latency(30.0), map50(0.86), size(8.0))
    bench.add("int8", latency(19.6, half=0.8), map50(0.85), size(2.0))
    (sentence,) = recommend(bench.rows(), OBJECTIVES, {"latency_ms": ("<=", 20)})
    assert "; but barely: the interval reaches beyond latency_ms <= 20; chosen in " in sentence
    # 0.4 is 0.98 standard deviations: kept in 84 % of normal draws, of which a thousand stray by 3.5 points at most
    share = float(re.search(r"chosen in (\d+)% of 1000 resamples, else mostly none keeps the limits", sentence)[1])  # type: ignore[index]
    assert 80 <= share <= 88


def test_a_choice_among_equals_is_said_to_be_as_unsure_as_it_is(bench: Bench) -> None:
    for scheme in ("one", "other"):
        bench.add(scheme, latency(5.0, half=0.5), map50(0.85), size(2.0))
    (sentence,) = recommend(bench.rows(), OBJECTIVES)
    share = float(re.search(r"chosen in (\d+)% of 1000 resamples, else mostly other", sentence)[1])  # type: ignore[index]
    assert 45 <= share <= 55


# ---- ties and notes


def test_what_cannot_be_told_apart_is_tied(bench: Bench) -> None:
    bench.add("log4", latency(5.0, half=0.5), map50(0.85), size(2.0))
    bench.add("int8", latency(5.2, half=0.5), map50(0.85), size(2.0))
    bench.add("small", latency(5.1, half=0.5), map50(0.85), size(1.0), build="ort")
    bench.add("exact", latency(9.0), map50(0.95), size(4.0))
    bench.add("exact2", latency(9.0), map50(0.95), size(4.0))
    ties = {row["scheme"]: row["ties"] for row in bench.rows()}
    assert ties == {"log4": [], "int8": [], "small": [], "exact": ["exact2"], "exact2": ["exact"]}


def test_a_scheme_that_is_slower_than_float_is_told_by_its_paired_ratio(bench: Bench) -> None:
    bench.add("float32", latency(10.0), map50(0.86), size(8.0))
    bench.add("int8", latency(10.8), map50(0.86), Measurement("latency_ratio", 1.08, "", 1.05, 1.11, 10), size(2.0))
    bench.add("int4", latency(10.2, half=0.5), map50(0.86), size(2.0))
    notes = {row["scheme"]: row["notes"].get("slower") for row in bench.rows()}
    assert notes == {"float32": None, "int8": "slower than float here (1.08x, 1.05 to 1.11)", "int4": None}


def test_noise_is_told_with_the_clocks_that_are_to_be_fixed(bench: Bench) -> None:
    values = [[4.0, 5.0, 6.0]] * 4  # standard deviation sqrt(8 / 11) = 0.853
    powersave = {"before": {"governor": {"policy0": "powersave"}}}
    for scheme, environment in (("known", powersave), ("unknown", {})):
        conditions = [{"invalid": None, "environment": environment}] * 4
        bench.add(scheme, Measurement("latency_ms", 5.0, "ms", 4, 6, 4, rounds=values, conditions=conditions))
    notes = {row["scheme"]: row["notes"]["noise"] for row in bench.rows()}
    assert notes == {
        "known": "std dev is 17% of the median over 12 runs: fix the clocks (governor is powersave)",
        "unknown": "std dev is 17% of the median over 12 runs: let nothing else run there",
    }


def test_a_loss_of_accuracy_is_told_with_what_speaks_for_it(bench: Bench) -> None:
    right = [1.0] * 80 + [0.0] * 20
    bench.add("float32", per_sample(right))
    bench.add("one", per_sample([0.0] * 1 + [1.0] * 79 + [0.0] * 20))
    bench.add("ten", per_sample([0.0] * 10 + [1.0] * 70 + [0.0] * 20))
    rows = pareto.verdicts(pareto.candidates(bench.store, bench.run), {"top1": "max"})
    notes = {row["scheme"]: row["notes"].get("top1") for row in rows}
    # one of one: mid-p 0.5; ten of ten: 2^-10. Of 100 differences the t(99) 1.984: 1 +- 1.98 and 10 +- 5.98 points
    assert notes == {
        "float32": None,
        "one": "loses 1.0 points of top1 against float, not significant (-1.0 to 3.0)",
        "ten": "loses 10.0 points of top1 against float (4.0 to 16.0)",
    }


def test_disturbed_rounds_are_left_out_of_pairs(bench: Bench) -> None:
    def timed(values: list[float], invalid: int) -> Measurement:
        conditions = [{"invalid": "throttled" if n == invalid else None, "environment": {}} for n in range(5)]
        believed = [value for n, value in enumerate(values) if n != invalid]
        rounds = [[value] for value in values]
        middle = float(np.median(believed))
        return Measurement("latency_ms", middle, "ms", 1, 99, 4, rounds=rounds, conditions=conditions)

    one, other = timed([1.0, 2.0, 3.0, 50.0, 5.0], invalid=3), timed([1.5, 70.0, 3.5, 4.5, 5.5], invalid=1)
    assert evidence.difference(other, one) == pytest.approx((0.5, 0.5))
    bench.add("one", one)
    assert bench.rows()[0]["notes"]["rounds"] == "1 of 5 rounds were disturbed and do not count: throttled"


def test_a_number_in_doubt_keeps_off_the_front_unless_all_are(bench: Bench) -> None:
    doubt = {"doubt": "all 6 rounds were disturbed: throttled"}
    bench.add("fast", Measurement("latency_ms", 1.0, "ms", detail=doubt))
    assert bench.reasons({"latency_ms": "min"}) == {"fast": ""}
    bench.add("slow", Measurement("latency_ms", 5.0, "ms"))
    reasons = bench.reasons({"latency_ms": "min"})
    assert reasons == {"fast": f"latency_ms is in doubt: {doubt['doubt']}", "slow": ""}
    assert bench.store.verdicts(bench.run)[0]["notes"] == {"doubt": f"do not believe its times: {doubt['doubt']}"}


def test_an_objective_that_is_withheld_says_why(bench: Bench) -> None:
    detail = {"withheld": {"latency_p99_ms": "180 values; from 299 on they bound it"}}
    bench.add("one", Measurement("latency_ms", 5.0, "ms", detail=detail))
    bench.add("other", Measurement("latency_ms", 5.0, "ms"), Measurement("latency_p99_ms", 9.0, "ms"))
    reasons = bench.reasons({"latency_p99_ms": "min"})
    assert reasons["one"] == "latency_p99_ms is withheld: 180 values; from 299 on they bound it"


# ---- sentences


def test_each_device_gets_its_sentence(bench: Bench) -> None:
    for device in ("rpi5", "rpi4"):
        bench.add("int8", latency(5.0), map50(0.8), size(2.0), device=device)
    sentences = recommend(bench.rows(), OBJECTIVES)
    assert [sentence.split(":")[0] for sentence in sentences] == ["net on rpi4", "net on rpi5"]

"""Fronts, from measurements in a real store."""

from __future__ import annotations

import numpy as np
from front_bench import OBJECTIVES, Bench, Goals, add_four, latency, map50, size

from qpipe.compare import measured_rows, pareto
from qpipe.compare.recommend import recommend
from qpipe.types import Measurement


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


def in_a_circle(bench: Bench) -> Goals:
    """Each of a, b and c is better than the next in one metric, in which the evidence on the third is too weak."""
    for scheme, values in {"a": (5, None, 6), "b": (6, 5, None), "c": (None, 6, 5)}.items():
        metrics = [
            Measurement(
                f"m{i}",
                5.5 if value is None else value,
                "ms",
                *((4, 7) if value is None else (value, value)),
            )
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
    bench.add(
        "z", Measurement("m0", 5.0, "ms"), *weak, size(2.0)
    )  # better than b in m0, and no more is known of it
    assert bench.reasons(objectives) == {**dict.fromkeys("abc", "dominated by z"), "z": ""}


def test_a_run_that_left_no_verdicts_is_judged_when_it_is_read(bench: Bench) -> None:
    add_four(bench)
    assert bench.store.verdicts(bench.run) == []
    rows = pareto.pareto_rows(bench.store, bench.run)
    assert {row["scheme"]: row["on_front"] for row in rows} == {
        "float32": True, "int8-channel": True, "int8-tensor": False, "log4": True
    }  # fmt: skip
    assert list(pareto.objectives_of(bench.store, bench.run)["net", "rpi4"]) == [
        "latency_ms",
        "map50",
        "size_mb",
    ]
    assert len(bench.store.verdicts(bench.run)) == 4, "it is judged once"
    bench.add("int4", latency(4.0), map50(0.87), size(1.0))
    rows = pareto.pareto_rows(bench.store, bench.run)
    assert [row["scheme"] for row in rows if row["on_front"]] == ["int4"], "and again with more"


def test_a_run_that_left_no_verdicts_is_judged_with_the_margins_of_its_recipe(bench: Bench) -> None:
    bench.add("one", size(2.0))
    bench.add("other", size(2.1))
    for margin, on_front in ((0.01, {"one"}), (0.1, {"one", "other"})):
        bench.store.resume_run(bench.run, margins={"size_mb": margin})
        rows = pareto.pareto_rows(bench.store, bench.run)
        assert {row["scheme"] for row in rows if row["on_front"]} == on_front


def test_each_device_has_the_objectives_that_were_measured_on_it(bench: Bench) -> None:
    bench.add("int8", latency(5.0), map50(0.8), size(2.0), device="rpi4")
    bench.add("int8", size(2.0), device="rpi5")
    assert pareto.objectives_of(bench.store, bench.run) == {
        ("net", "rpi4"): OBJECTIVES, ("net", "rpi5"): {"size_mb": "min"}
    }  # fmt: skip


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
    assert bench.store.verdicts(bench.run)[0]["objectives"] == {
        "latency_ms": "min",
        "size_mb": "min",
    }
    (sentence,) = recommend(pareto.pareto_rows(bench.store, bench.run), {})
    assert sentence == "net on rpi4: nothing to choose by was measured"


def test_several_builds_are_named_with_theirs(bench: Bench) -> None:
    bench.add("int8", latency(5.0), build="ort")
    bench.add("int8", latency(4.0), build="openvino")
    rows = pareto.verdicts(measured_rows.candidates(bench.store, bench.run), {"latency_ms": "min"})
    assert {row["build"]: row["reason"] for row in rows} == {
        "ort": "dominated by int8/openvino",
        "openvino": "",
    }


def test_a_sweep_competes_on_one_front(bench: Bench) -> None:
    for seed, value in (("1", 0.85), ("2", 0.80)):
        bench.add("int8", map50(value), seed=seed)
    rows = pareto.verdicts(measured_rows.candidates(bench.store, bench.run), {"map50": "max"})
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
        measured_rows.Candidate("net", f"s{i}", "ort", "rpi4", {}, "", False, {
            "latency_ms": latency(float(rng.uniform(4, 6)), 0.3), "map50": map50(float(rng.uniform(0.8, 0.9)), 0.02),
            "size_mb": size(float(rng.integers(1, 4))),
        })
        for i in range(30)
    ]  # fmt: skip
    pairs = [
        (a, b) for a in rows for b in rows if a is not b and pareto.dominates(a, b, OBJECTIVES)
    ]
    assert pairs
    assert not [pair for pair in pairs if pareto.dominates(pair[1], pair[0], OBJECTIVES)]


def test_the_rows_are_what_the_command_promises(bench: Bench) -> None:
    add_four(bench)
    rows = bench.rows()
    assert [row["scheme"] for row in rows] == ["float32", "int8-channel", "int8-tensor", "log4"]
    assert rows[1] == {
        "recipe": "ssd", "run": bench.run, "model": "net", "scheme": "int8-channel", "build": "ort",
        "runtime": "onnxruntime", "device": "rpi4", "emulated": None, "name": "int8-channel",
        "is_float": False, "on_front": True, "reason": "", "ties": [],
        "notes": {"map50": "loses 1.0 points of map50 against float (0.8 to 1.2)"},
        "metrics": {
            "latency_ms": {"value": 5.0, "unit": "ms", "low": 4.95, "high": 5.05, "n": 10},
            "map50": {"value": 0.85, "unit": "share", "low": 0.849, "high": 0.851, "n": 500, "raw": "resamples"},
            "size_mb": {"value": 2.2, "unit": "MB", "low": None, "high": None, "n": 1},
        },
    }  # fmt: skip
    assert [row["on_front"] for row in rows] == [True, True, False, True]
    assert rows[2]["reason"].startswith("dominated by ")
    assert pareto.pareto_rows(bench.store, bench.run[:-2]) == rows

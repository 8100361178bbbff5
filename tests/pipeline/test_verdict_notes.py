"""Ties, doubts, and what else is told of a row."""

from __future__ import annotations

from typing import Any

import pytest
from front_bench import Bench, latency, map50, per_sample, size

from qpipe.compare import measured_rows, pareto
from qpipe.report.row_notes import note_lines
from qpipe.types import Measurement


def test_what_is_shown_to_be_the_same_is_tied(bench: Bench) -> None:
    bench.add("log4", latency(5.0, half=0.5), map50(0.85), size(2.0))
    bench.add("int8", latency(5.2, half=0.5), map50(0.85), size(2.0))
    bench.add("small", latency(5.1, half=0.5), map50(0.85), size(1.0), build="ort")
    bench.add("exact", latency(9.0), map50(0.95), size(4.0))
    bench.add("exact2", latency(9.0), map50(0.95), size(4.0))
    ties = {row["scheme"]: row["ties"] for row in bench.rows()}
    assert ties == {"log4": [], "int8": [], "small": [], "exact": ["exact2"], "exact2": ["exact"]}


def test_a_scheme_that_is_slower_than_float_is_told_by_its_paired_ratio(bench: Bench) -> None:
    bench.add("float32", latency(10.0), map50(0.86), size(8.0))
    bench.add(
        "int8",
        latency(10.8),
        map50(0.86),
        Measurement("latency_ratio", 1.08, "", 1.05, 1.11, 10),
        size(2.0),
    )
    bench.add("int4", latency(10.2, half=0.5), map50(0.86), size(2.0))
    notes = {row["scheme"]: row["notes"].get("slower") for row in bench.rows()}
    assert notes == {
        "float32": None,
        "int8": "slower than float here (1.08x, 1.05 to 1.11)",
        "int4": None,
    }


def test_what_saturation_costs_the_weights_is_told_once_for_all_rows(bench: Bench) -> None:
    bench.add("float32", latency(10.0), map50(0.86), size(8.0))
    for scheme, layers in (("tensor", 3), ("channel", 12), ("four", 0)):
        bits = Measurement("effective_bits", 8.0, "bits", detail={"limited_layers": layers})
        bench.add(scheme, latency(5.0), map50(0.86), size(2.0), bits)
    (told,) = (line for line in note_lines(bench.rows()) if "levels" in line)
    assert told == (
        "  tensor (and 1 more): weights of 3 to 12 layers have fewer levels because sums of "
        "products saturate on this processor"
    )


def test_nobody_is_called_slower_by_numbers_in_doubt(bench: Bench) -> None:
    bench.add("float32", latency(10.0))
    doubt = {"doubt": "all 6 rounds were disturbed: throttled"}
    bench.add(
        "int8", latency(12.0), Measurement("latency_ratio", 1.2, "", 1.1, 1.3, 6, detail=doubt)
    )
    assert "slower" not in bench.rows()[1]["notes"]


def test_needing_more_memory_than_float_is_told_and_whether_loading_does(bench: Bench) -> None:
    bench.add("float32", memory(91.7))
    bench.add("int8", memory(78.5))
    bench.add("int4", memory(95.0))
    bench.add("loading", memory(224.6), memory(224.6, "load"), memory(170.0, "run"))
    bench.add("running", memory(120.2), memory(80.0, "load"), memory(120.2, "run"))
    notes = {row["scheme"]: row["notes"].get("memory") for row in bench.rows()}
    assert notes == {
        "float32": None,
        "int8": None,
        "int4": None,
        "loading": "needs more memory than float, 225 against 92 MB while it is loaded",
        "running": "needs more memory than float, 120 against 92 MB",
    }


def memory(peak_mb: float, part: str = "") -> Measurement:
    name = f"memory_{part}_mb" if part else "memory_mb"
    return Measurement(name, peak_mb, "MB", peak_mb, peak_mb, 3)


def test_noise_is_told_with_the_clocks_that_are_to_be_fixed(bench: Bench) -> None:
    values = [[4.0, 5.0, 6.0]] * 4  # standard deviation sqrt(8 / 11) = 0.853
    powersave = {"before": {"governor": {"policy0": "powersave"}}}
    for scheme, environment in (("known", powersave), ("unknown", {})):
        conditions = [{"invalid": None, "environment": environment}] * 4
        bench.add(
            scheme,
            Measurement("latency_ms", 5.0, "ms", 4, 6, 4, rounds=values, conditions=conditions),
        )
    notes = {row["scheme"]: row["notes"]["noise"] for row in bench.rows()}
    assert notes == {
        "known": "std dev is 17 % of the median over 12 runs: fix the clocks (governor is powersave)",
        "unknown": "std dev is 17 % of the median over 12 runs: let nothing else run there",
    }


def test_a_loss_of_accuracy_is_told_with_what_speaks_for_it(bench: Bench) -> None:
    right = [1.0] * 80 + [0.0] * 20
    bench.add("float32", per_sample(right))
    bench.add("one", per_sample([0.0] * 1 + [1.0] * 79 + [0.0] * 20))
    bench.add("ten", per_sample([0.0] * 10 + [1.0] * 70 + [0.0] * 20))
    rows = pareto.verdicts(measured_rows.candidates(bench.store, bench.run), {"top1": "max"})
    notes = {row["scheme"]: row["notes"].get("top1") for row in rows}
    # none is gained, so that Tango's interval is Wilson's on the side of the loss: of 10 / 100, 5.5 to 17.4 points
    assert notes == {
        "float32": None,
        "one": "loses 1.0 points of top1 against float, not significant (-2.7 to 5.4)",
        "ten": "loses 10.0 points of top1 against float (5.5 to 17.4)",
    }


def score(name: str, values: list[float], **fields: Any) -> Measurement:
    mean, raw = sum(values) / len(values), [values]
    return Measurement(
        name,
        mean,
        n=len(values),
        rounds=raw,
        raw="samples",
        **{"unit": "", "better": "min", **fields},
    )


def test_what_is_lost_of_a_perfect_score_is_told(bench: Bench) -> None:
    bench.add("float32", per_sample([1.0] * 50))
    bench.add("int8", per_sample([1.0] * 40 + [0.0] * 10))
    rows = pareto.verdicts(measured_rows.candidates(bench.store, bench.run), {"top1": "max"})
    # 10 of 50: Wilson's 11.2 to 33.0 %
    assert rows[1]["notes"] == {"top1": "loses 20.0 points of top1 against float (11.2 to 33.0)"}


def test_errors_that_are_added_are_told_too(bench: Bench) -> None:
    bench.add("float32", score("miscount", [0.0, 1.0, 0.0, 1.0] * 8))
    bench.add("int8", score("miscount", [1.0, 1.0, 0.0, 2.0] * 8))
    bench.add("better", score("miscount", [0.0, 0.0, 0.0, 0.0] * 8))
    rows = pareto.verdicts(measured_rows.candidates(bench.store, bench.run), {"miscount": "min"})
    # of 32 differences, half of which are 1: 0.5, standard deviation 0.508, t(31) 2.0395; of 0 and 1, Wilson's of 16
    assert [row["notes"] for row in rows] == [
        {},
        {"miscount": "adds 0.5 of miscount against float (0.317 to 0.683)"},
        {"miscount": "saves 0.5 of miscount against float (0.336 to 0.664)"},
    ]


def test_a_score_that_compares_with_float_is_no_loss_against_it(bench: Bench) -> None:
    for scheme, values in (("float32", [1.0] * 20), ("int8", [1.0, 0.5] * 10)):
        detail = {"against": "float"}
        bench.add(scheme, score("agreement", values, unit="share", better="max", detail=detail))
    rows = pareto.verdicts(measured_rows.candidates(bench.store, bench.run), {"agreement": "max"})
    assert [row["notes"] for row in rows] == [{}, {}]


@pytest.mark.parametrize(
    ("detail", "note"),
    [({"stopped": "rounds", "precise": False}, "known to ±12.0 % when the rounds ended: raise rounds"),
     ({"stopped": "budget", "precise": False}, "known to ±12.0 % when the budget ended: raise budget_s"),
     ({"stopped": "budget"}, "known to ±12.0 % when the budget ended: raise budget_s"),
     ({"stopped": "budget", "precise": True}, None), ({"stopped": "rounds"}, None), ({"stopped": "precision"}, None)],
)  # fmt: skip
def test_why_measuring_ended_is_told_where_the_number_is_not_precise(
    bench: Bench, detail: dict[str, Any], note: str | None
) -> None:
    bench.add("one", Measurement("latency_ms", 5.0, "ms", 4.4, 5.6, 16, detail=detail))
    assert bench.rows()[0]["notes"].get("precision") == note


def test_one_round_is_said_to_be_one(bench: Bench) -> None:
    bench.add(
        "one", Measurement("latency_ms", 5.0, "ms", rounds=[[5.0]], detail={"stopped": "rounds"})
    )
    note = bench.rows()[0]["notes"]["precision"]
    assert note == "measured in one round only, so its interval is not known: raise rounds"


@pytest.mark.parametrize(
    ("value", "right"), [(5.0, "warmup_s"), (400.0, "round_s, and warmup_s to an eighth of it")]
)
def test_who_was_never_steady_is_told_what_helps(bench: Bench, value: float, right: str) -> None:
    timed = Measurement("latency_ms", value, "ms", rounds=[[value]] * 4, detail={"never_steady": 3})
    bench.add("one", timed)
    assert (
        bench.rows()[0]["notes"]["warmup"]
        == f"never steady in warmup in 3 of 4 rounds: raise {right}"
    )


def test_notes_that_differ_in_numbers_alone_are_one_line_with_their_range() -> None:
    def row(name: str, notes: dict[str, str]) -> dict[str, Any]:
        return {"name": name, "ties": [], "notes": notes}

    half = "known to ±{} % when the budget ended: raise budget_s"
    rows = [
        row(
            "a",
            {
                "precision": half.format("1.3"),
                "unlocked": "not set there: governor",
                "top1": "loses 1.0 points",
            },
        ),
        row(
            "b",
            {
                "precision": half.format("12.0"),
                "unlocked": "not set there: governor",
                "top1": "loses 2.0 points",
            },
        ),
        row("c", {"precision": half.format("2.0").replace("budget", "rounds")}),
    ]
    assert note_lines(rows) == [
        "",
        "  a (and 1 more): known to ±1.3 to 12.0 % when the budget ended: raise budget_s",
        "  a (and 1 more): not set there: governor",
        "  a: loses 1.0 points",
        "  b: loses 2.0 points",
        "  c: known to ±2.0 % when the rounds ended: raise rounds_s",
    ]


def test_a_number_in_doubt_keeps_off_the_front_unless_all_are(bench: Bench) -> None:
    doubt = {"doubt": "all 6 rounds were disturbed: throttled"}
    bench.add("fast", Measurement("latency_ms", 1.0, "ms", detail=doubt))
    assert bench.reasons({"latency_ms": "min"}) == {"fast": ""}
    bench.add("slow", Measurement("latency_ms", 5.0, "ms"))
    reasons = bench.reasons({"latency_ms": "min"})
    assert reasons == {"fast": f"latency_ms is in doubt: {doubt['doubt']}", "slow": ""}
    assert bench.store.verdicts(bench.run)[0]["notes"] == {
        "doubt": f"do not trust its times: {doubt['doubt']}"
    }


def test_an_objective_that_is_withheld_says_why(bench: Bench) -> None:
    detail = {"withheld": {"latency_p99_ms": "180 values; from 299 on they bound it"}}
    bench.add("one", Measurement("latency_ms", 5.0, "ms", detail=detail))
    bench.add(
        "other", Measurement("latency_ms", 5.0, "ms"), Measurement("latency_p99_ms", 9.0, "ms")
    )
    reasons = bench.reasons({"latency_p99_ms": "min"})
    assert reasons["one"] == "latency_p99_ms is withheld: 180 values; from 299 on they bound it"

"""Ties, doubts, and what else is told of a row."""

from __future__ import annotations

from front_bench import Bench, latency, map50, per_sample, size

from qpipe.compare import candidates, pareto
from qpipe.types import Measurement


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
        "known": "std dev is 17 % of the median over 12 runs: fix the clocks (governor is powersave)",
        "unknown": "std dev is 17 % of the median over 12 runs: let nothing else run there",
    }


def test_a_loss_of_accuracy_is_told_with_what_speaks_for_it(bench: Bench) -> None:
    right = [1.0] * 80 + [0.0] * 20
    bench.add("float32", per_sample(right))
    bench.add("one", per_sample([0.0] * 1 + [1.0] * 79 + [0.0] * 20))
    bench.add("ten", per_sample([0.0] * 10 + [1.0] * 70 + [0.0] * 20))
    rows = pareto.verdicts(candidates.candidates(bench.store, bench.run), {"top1": "max"})
    notes = {row["scheme"]: row["notes"].get("top1") for row in rows}
    # one of one: mid-p 0.5; ten of ten: 2^-10. Of 100 differences the t(99) 1.984: 1 +- 1.98 and 10 +- 5.98 points
    assert notes == {
        "float32": None,
        "one": "loses 1.0 points of top1 against float, not significant (-1.0 to 3.0)",
        "ten": "loses 10.0 points of top1 against float (4.0 to 16.0)",
    }


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

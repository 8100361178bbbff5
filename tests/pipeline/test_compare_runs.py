"""One run against another, from measurements in a real store, and as the command prints it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpipe.cli.compare import compare
from qpipe.compare.device_changes import differing_environments
from qpipe.compare.runs import compared
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Measurement
from shell import Shell

FACTS = {
    "model_digest": "m",
    "metric_digest": "t",
    "evaluation_digest": "e",
    "fingerprint": "f",
    "is_float": False,
}
DB = Path(".qpipe/results.db")


class Bench:
    """Two runs in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        digests = {"recipe_path": "", "recipe_digest": "", "recipe_text": "", "versions": {}}
        self.before, self.after = (store.new_run("net", **digests) for _ in range(2))  # type: ignore[arg-type]

    def add(self, run: str, measured: Measurement, scheme: str = "int8", **facts: Any) -> None:
        place = {"model": "net", "scheme": scheme, "build": "ort", "device": "rpi4"}
        self.store.record_measurements(run, place, [measured], **{**FACTS, **facts})

    def both(self, before: Measurement, after: Measurement, **facts: Any) -> dict[str, Any]:
        self.add(self.before, before)
        self.add(self.after, after, **facts)
        (line,) = compared(self.store, self.before, self.after)
        return line


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    with Store(DB) as store:
        yield Bench(store)


def latency(value: float, half: float = 0.1) -> Measurement:
    return Measurement("latency_ms", value, "ms", value - half, value + half, 10)


def top1(right: np.ndarray) -> Measurement:
    share = float(right.mean())
    raw = [right.astype(float).tolist()]
    return Measurement(
        "top1", share, "", share - 0.05, share + 0.05, len(right), "max", rounds=raw, raw="samples"
    )


@pytest.mark.parametrize(("after", "verdict"), [(5.5, "worse"), (4.5, "better"), (5.1, "tied")])
def test_times_of_two_runs_are_told_apart_by_their_intervals(
    bench: Bench, after: float, verdict: str
) -> None:
    line = bench.both(latency(5.0), latency(after))
    assert line["verdict"] == verdict
    # two equal spreads add up to sqrt(2) of one
    assert line["difference"] == pytest.approx(
        [after - 5.0 - 0.1 * 2**0.5, after - 5.0 + 0.1 * 2**0.5]
    )
    assert line["ratio"]["value"] == pytest.approx(after / 5.0)
    assert line["ratio"]["low"] < after / 5.0 < line["ratio"]["high"]


def test_a_difference_within_the_margin_is_a_tie(bench: Bench) -> None:
    assert bench.both(latency(5.0, 0.001), latency(5.04, 0.001))["verdict"] == "tied"


def test_the_same_samples_pair_up_across_runs(bench: Bench) -> None:
    right = np.arange(400) % 10 < 7
    line = bench.both(top1(right), top1(right & (np.arange(400) % 20 != 0)))
    assert line["verdict"] == "worse", (
        "20 of 400 were lost and none won, though both intervals overlap"
    )
    assert line["difference"][1] < 0


def test_resamples_pair_up_across_runs(bench: Bench) -> None:
    drawn = np.random.default_rng(0).normal(0.80, 0.02, 200)
    was, now = (
        Measurement(
            "map50",
            0.8 - lost,
            "share",
            0.76,
            0.84,
            500,
            "max",
            rounds=[drawn - lost],
            raw="resamples",
        )
        for lost in (0.0, 0.01)
    )
    line = bench.both(was, now)
    assert line["verdict"] == "worse"
    assert line["difference"] == pytest.approx([-0.01, -0.01])


def test_one_round_of_each_run_is_a_tie(bench: Bench) -> None:
    line = bench.both(
        *(Measurement("latency_ms", value, "ms", rounds=[[value]]) for value in (5.0, 9.0))
    )
    assert (line["verdict"], line["difference"], line["ratio"]) == ("tied", None, None)


def test_what_is_in_doubt_is_not_compared(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "all 6 rounds were disturbed: throttled"
    bench.add(
        bench.before, Measurement("throughput", 9.0, "/s", 8.9, 9.1, 6, detail={"doubt": reason})
    )
    bench.add(bench.after, Measurement("throughput", 5.0, "/s", 4.9, 5.1, 6))
    (line,) = compared(bench.store, bench.before, bench.after)
    assert (line["verdict"], line["doubt"], line["differs"]) == (
        "not comparable",
        f"before {reason}",
        [],
    )
    compare(bench.before, bench.after, None, ["throughput"], DB, as_json=False)
    told = capsys.readouterr().out
    assert f"not comparable: before {reason}" in " ".join(told.split())
    assert f"1 cannot be compared, being in doubt: before {reason}" in told


def test_means_over_millions_of_weights_are_compared_at_once(bench: Bench) -> None:
    began = time.process_time()
    bits = [
        Measurement("effective_bits", value, "bits", n=2**31 + odd)
        for odd, value in enumerate((8.0, 4.0))
    ]
    assert bench.both(*bits)["verdict"] == "better"
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("fact", "word"),
    [("model_digest", "the model"), ("metric_digest", "the metric and its options"),
     ("fingerprint", "the device or runtime"), ("evaluation_digest", "the evaluation samples")],
)  # fmt: skip
def test_what_was_not_measured_alike_is_not_compared(bench: Bench, fact: str, word: str) -> None:
    line = bench.both(top1(np.ones(9)), top1(np.zeros(9)), **{fact: "another"})
    assert (line["verdict"], line["differs"]) == ("not comparable", [word])


def test_times_do_not_depend_on_the_evaluation_samples(bench: Bench) -> None:
    assert bench.both(latency(5.0), latency(5.0), evaluation_digest="another")["verdict"] == "tied"


def test_rows_that_one_run_lacks_are_named(bench: Bench) -> None:
    bench.add(bench.before, latency(5.0), "log4")
    bench.add(bench.after, latency(5.0), "int4")
    found = {
        line["scheme"]: line["verdict"] for line in compared(bench.store, bench.before, bench.after)
    }
    assert found == {"log4": "missing", "int4": "new"}


def test_other_clocks_are_told(bench: Bench) -> None:
    for run, governor in ((bench.before, "performance"), (bench.after, "powersave")):
        environment = {"before": {"governor": {"policy0": governor}, "kernel": "6.1"}}
        conditions = [{"invalid": None, "environment": environment}] * 2
        bench.add(
            run, Measurement("latency_ms", 1.0, "ms", rounds=[[1.0]] * 2, conditions=conditions)
        )
    told = differing_environments(bench.store, bench.before, bench.after)
    assert told == ["rpi4: governor was performance, now powersave"]


def board(**changed: Any) -> Capabilities:
    said = {
        "arch": "aarch64", "system": "Linux", "cpu": "Cortex-A72", "cores": 4, "features": ("neon", "aes"),
        "memory_mb": 4000.0, "python": "3.11", "numpy": "2.0", "runtimes": {"onnxruntime": "1.31"}, "fingerprint": "f",
    }  # fmt: skip
    return Capabilities(**{**said, **changed})  # type: ignore[arg-type]


def test_what_of_a_device_changed_is_named(bench: Bench) -> None:
    now = board(
        runtimes={"onnxruntime": "1.32", "openvino": "2026.1"},
        features=("neon", "dotprod"),
        fingerprint="g",
    )
    for run, said in ((bench.before, board()), (bench.after, now)):
        bench.store.record_devices(run, {"rpi4": said})
    line = bench.both(top1(np.ones(9)), top1(np.zeros(9)), fingerprint="g")
    fields = [
        "onnxruntime was 1.31, now 1.32", "CPU features are now without aes and with dotprod",
        "openvino was missing, now 2026.1",
    ]  # fmt: skip
    assert line["differs"] == [f"the device or runtime ({', '.join(fields)})"]
    told = differing_environments(bench.store, bench.before, bench.after)
    assert sorted(told) == sorted(f"rpi4: {field}" for field in fields)


def test_the_command_prints_what_changed_and_counts_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    qpipe = Shell(monkeypatch, capsys)
    bench.both(latency(5.0), latency(6.0))
    bench.add(bench.before, Measurement("size_mb", 2.0, "MB"))
    bench.add(bench.after, Measurement("size_mb", 2.0, "MB"))
    out = qpipe(f"compare {bench.before} {bench.after}")[0].splitlines()
    said = "net/int8/ort@rpi4 latency_ms 5 ±0.1 6 ±0.1 1.200 (1.169 to 1.232) worse"
    assert " ".join(out[1].split()) == said
    assert out[2] == f"{bench.before} to {bench.after}: 1 worse, 1 tied"
    answer = json.loads(qpipe(f"compare {bench.before} {bench.after} --metric size_mb --json")[0])
    assert [row["verdict"] for row in answer["rows"]] == ["tied"]
    _, err = qpipe(f"compare {bench.before} {bench.after} --metric size", 2)
    assert err == "qpipe: --metric size: neither run has it; there is latency_ms, size_mb\n"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("", 0),
        ("--fail-on worse", 3),
        ("--fail-on missing", 0),
        ("--fail-on missing --fail-on worse --json", 3),
        ("--fail-on worse --metric size_mb", 0),
        ("--fail-on slower", 2),
    ],
)
def test_a_script_can_fail_on_what_became_worse(
    bench: Bench,
    options: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench.both(latency(5.0), latency(6.0))
    bench.add(bench.before, Measurement("size_mb", 2.0, "MB"))
    bench.add(bench.after, Measurement("size_mb", 2.0, "MB"))
    Shell(monkeypatch, capsys)(f"compare {bench.before} {bench.after} {options}", status)

"""Latency in interleaved rounds, on a real device whose runner plays back given times."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpipe
from qpipe.compare.evidence import is_significant
from qpipe_devices import local
from qpipe_devices.null import null
from qpipe_plugins.measure.latency import latency
from qpipe_plugins.measure.sustained_load import sustained_latency
from small_build import nothing, write_build

T_3_DEGREES = 3.182446305284263  # Student's t, 97.5 %, from a table
# each process takes the next line of times.json; it notes in a log that it ran
PLAYER = """
import json, sys
from pathlib import Path
def answer(**fields):
    sys.stdin.buffer.readline()
    print(json.dumps({**fields, "sustained": [[1.0, 7.0, 9]], "arrays": []}), flush=True)
own = json.loads(Path("times.json").read_text())
log = Path(own["log"])
with log.open("a") as file:
    file.write(own["name"] + "\\n")
turn = log.read_text().split().count(own["name"]) - 1
values = own["rounds"][turn]
answer(load_ms=10.0 + turn, runtime_mb=1.0, inputs=["image"], outputs=[])
answer(first_ms=5.0, warmups=3, values_ns=[value * 1e6 for value in values], peak_mb=2.0)
sys.stdin.read()
"""
# before it plays, it ends the agent that started it, once: to the host the line is lost
CUTTER = (
    """
import os, signal
from pathlib import Path
if not Path("cut").exists():
    Path("cut").touch()
    os.kill(os.getppid(), signal.SIGKILL)
    raise SystemExit
"""
    + PLAYER
)
# plays bursts, and ends where a load lasts
FAINT = PLAYER.replace(
    "    sys.stdin.buffer.readline()\n",
    "    if json.loads(sys.stdin.buffer.readline()).get('sustained_s'):\n        raise SystemExit(3)\n",
)


class Bench:
    """A device with builds that play back times, and the log of who ran."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.device = folder, local("board", folder=folder / "board")
        pixels = {"pixels": np.zeros((8, 8, 3), np.uint8)}
        how = {"pixels": qpipe.Preprocessing(layout="NCHW")}
        samples = qpipe.Samples.write(folder / "samples", [qpipe.Sample("0", pixels)], how)
        self.samples = self.device.store(samples.folder, nothing)
        self.work, self.log = folder / "work", folder / "log"
        self.work.mkdir()
        self.builds: list[qpipe.Deployed] = []

    def add(
        self, name: str, rounds: list[list[float]], code: str = PLAYER, is_float: bool = False
    ) -> None:
        times = json.dumps({"name": name, "rounds": rounds, "log": str(self.log)})
        files = {"run_player.py": code, "times.json": times}
        build = write_build(self.folder / "builds" / name, "run_player.py", files)
        self.builds.append(
            qpipe.Deployed(name, build, self.device.store(build.folder, nothing), is_float)
        )

    def measure(self, **options: float) -> dict[tuple[str, str], qpipe.Measurement]:
        measured = latency(
            qpipe.Deployments(self.builds),
            self.device,
            {each.name: self.samples for each in self.builds},
            self.work,
            nothing,
            **options,
        )  # type: ignore[arg-type]
        return {(each.deployed, each.metric): each for each in measured}

    @property
    def journal(self) -> Path:
        return self.work / "rounds.jsonl"

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]

    def rewrite(self, entries: list[dict[str, Any]]) -> None:
        self.journal.write_text(
            "".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8"
        )

    @property
    def ran(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").split() if self.log.exists() else []


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.device.close()


FLOAT = [[4.0, 5.0, 9.0], [4.2, 5.2, 9.2], [4.1, 4.9, 8.0], [4.0, 5.4, 5.5]]
INT8 = [[1.0, 2.0, 3.0], [1.1, 2.2, 3.3], [1.2, 2.1, 2.9], [1.0, 1.9, 2.5]]


def test_numbers_are_those_of_numpy(bench):
    bench.add("net/float32/ort", FLOAT, is_float=True)
    bench.add("net/int8/ort", INT8)
    found = bench.measure(rounds=4, values=3)
    one = found["net/int8/ort", "latency_ms"]
    assert one.value == np.median(INT8)
    assert one.low < one.value < one.high
    assert (one.n, one.unit, one.better) == (4, "ms", "min")
    assert np.sort(one.rounds, axis=0).tolist() == np.sort(INT8, axis=0).tolist()
    assert one.detail["stopped"] == "rounds"
    assert found["net/int8/ort", "latency_p90_ms"].value == np.quantile(
        INT8, 0.9, method="inverted_cdf"
    )
    assert found["net/int8/ort", "latency_min_ms"].value == 1.0
    assert found["net/int8/ort", "throughput"].value == 1000 / np.median(INT8)
    assert found["net/int8/ort", "load_ms"].value == 11.5
    assert found["net/int8/ort", "first_ms"].value == 5.0


def test_too_few_values_withhold_the_p99_and_say_so(bench):
    bench.add("net/int8/ort", INT8)
    found = bench.measure(rounds=4, values=3)
    assert ("net/int8/ort", "latency_p99_ms") not in found
    withheld = found["net/int8/ort", "latency_ms"].detail["withheld"]
    assert withheld == {"latency_p99_ms": "12 values; from 299 on they bound it"}


def test_precise_builds_end_the_measuring_after_six_rounds(bench):
    for name in ("a", "b"):
        bench.add(name, [[1.0, 1.001, 0.999]] * 20)
    found = bench.measure(rounds=20, values=3)
    assert bench.ran.count("a") == bench.ran.count("b") == 6
    assert found["a", "latency_ms"].detail["stopped"] == "precision"


def test_one_build_that_is_not_precise_keeps_all_going_until_it_is(bench):
    bench.add("calm", [[1.0]] * 20)
    bench.add("restless", [[1.0 + 0.1 * (number % 2)] for number in range(20)])
    found = bench.measure(rounds=12, values=1)
    assert bench.ran.count("calm") == 12
    told = {name: found[name, "latency_ms"].detail for name in ("calm", "restless")}
    assert {name: (each["stopped"], each["precise"]) for name, each in told.items()} == {
        "calm": ("rounds", True), "restless": ("rounds", False),
    }  # fmt: skip


def test_fewer_rounds_than_tell_drift_from_noise_are_never_precise(bench):
    bench.add("calm", [[1.0]] * 5)
    assert bench.measure(rounds=5, values=1)["calm", "latency_ms"].detail["precise"] is False


def test_without_a_precision_all_rounds_are_taken(bench):
    bench.add("a", [[1.0]] * 8)
    detail = bench.measure(rounds=8, values=1, precision=0)["a", "latency_ms"].detail
    assert detail["stopped"] == "rounds"
    assert "precise" not in detail
    assert len(bench.ran) == 8


def test_a_budget_ends_the_measuring_but_not_before_six_rounds(bench):
    bench.add("a", [[1.0 + 0.1 * (number % 2)] for number in range(20)])
    found = bench.measure(rounds=20, values=1, budget_s=0.001)
    assert len(bench.ran) == 6
    assert found["a", "latency_ms"].detail["stopped"] == "budget"
    bench.measure(rounds=20, values=1, budget_s=0.001)
    assert len(bench.ran) == 6, "what the journal has was paid for"


def test_disturbed_rounds_are_kept_but_count_for_nothing(bench):
    bench.add("net/float32/ort", [[4.0], [4.0], [4.0], [4.0]], is_float=True)
    bench.add("net/int8/ort", [[1.0], [9.0], [1.0], [2.0]])
    bench.measure(rounds=4, values=1)
    entries = bench.entries()
    for entry in (
        entries
    ):  # as a device that throttled in the second round of one, and the third of the other, says
        if (entry["name"], entry["round"]) in (("net/int8/ort", 1), ("net/float32/ort", 2)):
            entry["result"]["invalid"] = "throttled"
    bench.rewrite(entries)
    found = bench.measure(rounds=4, values=1)
    one = found["net/int8/ort", "latency_ms"]
    assert (one.value, one.n, one.detail["invalid"]) == (1.0, 3, 1)
    assert one.rounds == [[1.0], [9.0], [1.0], [2.0]]
    assert [each["invalid"] for each in one.conditions] == [None, "throttled", None, None]
    ratio = found["net/int8/ort", "latency_ratio"]
    assert (ratio.value, ratio.n) == (pytest.approx(np.sqrt(0.25 * 0.5)), 2)


def test_a_build_whose_rounds_were_all_disturbed_has_numbers_in_doubt(bench):
    for name in ("a", "b"):
        bench.add(name, [[1.0]] * 2)
    bench.measure(rounds=2, values=1)
    entries = bench.entries()
    for entry in entries:
        entry["result"]["invalid"] = "clocks changed" if entry["name"] == "b" else None
    bench.rewrite(entries)
    found = bench.measure(rounds=2, values=1)
    assert found["b", "latency_ms"].detail["doubt"] == "all 2 rounds were disturbed: clocks changed"
    assert found["b", "latency_ms"].value == 1.0
    assert {"doubt" in each.detail for (name, _), each in found.items() if name == "b"} == {True}
    assert {"doubt" in each.detail for (name, _), each in found.items() if name == "a"} == {False}


def test_each_number_has_its_rounds_and_what_disturbed_them(bench):
    bench.add("net/float32/ort", FLOAT, is_float=True)
    bench.add("net/int8/ort", INT8)
    bench.measure(rounds=4, values=3)
    entries = bench.entries()
    for entry in entries:
        if (entry["name"], entry["round"]) == ("net/int8/ort", 1):
            entry["result"]["invalid"] = "throttled"
    bench.rewrite(entries)
    found = bench.measure(rounds=4, values=3)
    values = np.array(found["net/int8/ort", "latency_ms"].rounds)
    floats = np.array(found["net/float32/ort", "latency_ms"].rounds)
    expected = {
        "latency_p90_ms": np.quantile(values, 0.9, axis=1, method="inverted_cdf"),
        "latency_min_ms": values.min(axis=1),
        "throughput": 1000 / np.median(values, axis=1),
        "load_ms": np.array([10.0, 11.0, 12.0, 13.0]),
        "first_ms": np.full(4, 5.0),
        "latency_ratio": np.median(values, axis=1) / np.median(floats, axis=1),
    }
    for metric, by_round in expected.items():
        one = found["net/int8/ort", metric]
        assert np.array(one.rounds) == pytest.approx(by_round.reshape(4, 1), rel=1e-12), metric
        assert [each["invalid"] for each in one.conditions] == [None, "throttled", None, None], (
            metric
        )
        assert one.n == 3, metric


@pytest.mark.parametrize("metric", ["latency_p90_ms", "latency_min_ms", "throughput"])
def test_numbers_other_than_the_median_pair_up_by_round_too(bench, metric):
    for name, base in (("fast", 5.0), ("slow", 5.5)):
        bench.add(
            name,
            [[base + drift, base + drift + 0.1, base + drift + 0.2] for drift in (0, 1, 2, 3, 4)],
        )
    found = bench.measure(rounds=5, values=3)
    assert is_significant(found["fast", metric], found["slow", metric])


def test_a_ratio_of_rounds_of_which_none_is_clean_on_both_sides_is_in_doubt(bench):
    bench.add("net/float32/ort", [[4.0]] * 2, is_float=True)
    bench.add("net/int8/ort", [[5.0]] * 2)
    bench.measure(rounds=2, values=1)
    entries = bench.entries()
    for entry in entries:
        spoiled = (entry["name"] == "net/int8/ort") == (entry["round"] == 0)
        entry["result"]["invalid"] = "load: others took 50 %" if spoiled else None
    bench.rewrite(entries)
    found = bench.measure(rounds=2, values=1)
    assert "doubt" not in found["net/int8/ort", "latency_ms"].detail
    ratio = found["net/int8/ort", "latency_ratio"]
    assert (ratio.value, ratio.n) == (pytest.approx(1.25), 2)
    assert ratio.detail["doubt"] == "all 2 rounds were disturbed: float: load: others took 50 %"


def test_the_ratio_to_float_is_paired_by_round(bench):
    bench.add("net/float32/ort", FLOAT, is_float=True)
    bench.add("net/int8/ort", INT8)
    found = bench.measure(rounds=4, values=3)
    ratio = found["net/int8/ort", "latency_ratio"]
    logs = np.log(np.median(INT8, axis=1) / np.median(FLOAT, axis=1))
    half = T_3_DEGREES * logs.std(ddof=1) / 2
    assert ratio.value == pytest.approx(np.exp(logs.mean()), rel=1e-12)
    assert (ratio.low, ratio.high) == pytest.approx(
        tuple(np.exp([logs.mean() - half, logs.mean() + half])), rel=1e-9
    )
    assert ratio.n == 4
    assert ("net/float32/ort", "latency_ratio") not in found


def test_enough_values_give_a_p99(bench):
    values = np.arange(1.0, 151.0)
    bench.add("net/int8/ort", [list(values), list(values + 150)])
    assert bench.measure(rounds=2, values=150)["net/int8/ort", "latency_p99_ms"].value == 297.0


def test_every_round_visits_all_and_every_other_round_backwards(bench):
    for name in ("a", "b", "c"):
        bench.add(name, [[1.0]] * 4)
    bench.measure(rounds=4, values=1)
    first, second, third, fourth = (bench.ran[i : i + 3] for i in (0, 3, 6, 9))
    assert sorted(first) == ["a", "b", "c"]
    assert (second, third, fourth) == (first[::-1], first, first[::-1])


def test_a_killed_measurement_goes_on_where_it_was(bench):
    for name in ("a", "b"):
        bench.add(name, [[1.0]] * 6)
    bench.measure(rounds=2, values=1)
    lines = bench.journal.read_text(encoding="utf-8").splitlines()
    bench.journal.write_text(
        "\n".join(lines)[:-20], encoding="utf-8"
    )  # the last line was being written
    bench.measure(rounds=3, values=1)
    assert sorted(bench.ran[4:]) == ["a", "a", "b", "b"]  # the round that was cut, and the third
    before = len(bench.ran)
    bench.measure(rounds=3, values=1)
    assert len(bench.ran) == before


def test_a_build_that_failed_is_not_compared_with_rounds_taken_before_it_was_back(bench):
    bench.add(
        "net/float32/ort", [[9.0]] * 2 + [[4.0]] * 2, is_float=True
    )  # the device was busy at first
    bench.add("net/int8/ort", [], code="import os; os.abort()")
    with pytest.raises(qpipe.IncompleteError):
        bench.measure(rounds=2, values=1)
    bench.builds.pop()
    bench.add("net/int8/ort2", [[4.0]] * 2)
    found = bench.measure(rounds=2, values=1)
    assert found["net/int8/ort2", "latency_ratio"].value == 1.0
    assert found["net/float32/ort", "latency_ms"].value == 4.0


def test_a_build_that_fails_again_costs_the_others_one_round(bench):
    bench.add("a", [[1.0]] * 9)
    bench.add("bad", [], code="import os; os.abort()")
    for _ in range(2):
        with pytest.raises(qpipe.IncompleteError):
            bench.measure(rounds=3, values=1)
    assert bench.ran == ["a"] * 4


def test_a_round_taken_in_parts_is_taken_anew(bench):
    for name in ("a", "b"):
        bench.add(name, [[1.0]] * 6)
    bench.measure(rounds=3, values=1)
    entries = bench.entries()
    for entry in entries:  # in the second round b was half an hour before a; in the third both were
        early = entry["round"] == 2 or (entry["name"], entry["round"]) == ("b", 1)
        entry["at"] -= 1800 if early else 0
    bench.rewrite(entries)
    bench.measure(rounds=3, values=1)
    assert sorted(bench.ran[6:]) == ["a", "b"]


def test_a_round_of_which_a_build_took_long_was_taken_at_once(bench):
    for name in ("a", "b"):
        bench.add(name, [[1.0]] * 6)
    bench.measure(rounds=2, values=1)
    entries = bench.entries()
    for number, entry in enumerate(entries):  # each waited ten minutes for the device to cool
        entry.update(at=time.time() - 600 * (3 - number), seconds=600.0)
    bench.rewrite(entries)
    bench.measure(rounds=2, values=1)
    assert len(bench.ran) == 4


def test_rounds_that_were_followed_without_a_pause_count_however_long_that_took(bench):
    bench.add("a", [[1.0]] * 5)
    bench.measure(rounds=4, values=1)
    entries = bench.entries()
    for number, entry in enumerate(
        entries
    ):  # the first ended ninety minutes ago, the last right now
        entry.update(at=time.time() - 1800 * (3 - number), seconds=1800.0)
    bench.rewrite(entries)
    bench.measure(rounds=4, values=1)
    assert len(bench.ran) == 4


def test_rounds_older_than_an_hour_are_measured_again(bench):
    bench.add("a", [[1.0]] * 4)
    bench.measure(rounds=2, values=1)
    entries = bench.entries()
    entries[0]["at"] = time.time() - 3700
    bench.rewrite(entries)
    bench.measure(rounds=2, values=1)
    assert bench.ran == ["a"] * 3


def test_rounds_of_other_options_do_not_count(bench):
    bench.add("a", [[1.0, 1.0]] * 4)
    bench.measure(rounds=1, values=1)
    bench.measure(rounds=1, values=2)
    assert bench.ran == ["a"] * 2


def test_a_build_that_fails_drops_out_with_its_reason_and_the_others_go_on(bench):
    bench.add("net/good/ort", [[1.0]] * 3)
    bench.add("net/bad/ort", [[1.0]], code=PLAYER)  # its second round finds no times and ends
    with pytest.raises(qpipe.IncompleteError) as raised:
        bench.measure(rounds=3, values=1)
    assert {measurement.deployed for measurement in raised.value.measurements} == {"net/good/ort"}
    expected = "latency: 1 of 2 builds did not run: net/bad/ort: board: runner run_player.py ended with status 1 when"
    assert str(raised.value).startswith(expected)
    assert str(raised.value).endswith("IndexError: list index out of range")


def test_a_build_that_bears_no_sustained_load_keeps_its_other_numbers_and_all_others(bench):
    bench.add("net/good/ort", [[1.0]] * 3)
    bench.add("net/faint/ort", [[2.0]] * 3, code=FAINT)
    with pytest.raises(
        qpipe.IncompleteError, match=r"1 of 2 builds did not run: net/faint/ort: .* status 3"
    ) as raised:
        bench.measure(rounds=2, values=1, sustained_s=1)
    found = {(each.deployed, each.metric): each.value for each in raised.value.measurements}
    assert (found["net/good/ort", "latency_ms"], found["net/faint/ort", "latency_ms"]) == (1.0, 2.0)
    assert found["net/good/ort", "sustained_ms"] == 7.0
    assert ("net/faint/ort", "sustained_ms") not in found


def test_a_sustained_load_that_was_borne_is_not_asked_for_again(bench):
    bench.add("a", [[1.0]] * 3)
    for _ in range(2):
        bench.measure(rounds=2, values=1, sustained_s=1)
    assert len(bench.ran) == 3


def test_loads_that_were_borne_stand_though_a_later_one_was_not(bench):
    for name in ("a", "b", "c"):
        bench.add(name, [[1.0]] * 9)
    bench.measure(rounds=2, values=1, sustained_s=1)
    loads = bench.work / "sustained.jsonl"
    entries = [json.loads(line) for line in loads.read_text(encoding="utf-8").splitlines()]
    lost = entries.pop()["name"]
    for number, entry in enumerate(entries):  # each of them lasted an hour and more
        entry.update(at=time.time() - 4000 * (1 - number), seconds=4000.0)
    loads.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    before = len(bench.ran)
    found = bench.measure(rounds=2, values=1, sustained_s=1)
    assert bench.ran[before:] == [lost]
    assert {name for name, metric in found if metric == "sustained_ms"} == {"a", "b", "c"}


def test_a_device_that_bears_no_sustained_load_gives_its_other_numbers(bench):
    bench.add("a", [])
    bench.device.close()
    bench.device = null("nothing")
    metrics = {metric for _, metric in bench.measure(rounds=2, values=1, sustained_s=1)}
    assert "latency_ms" in metrics
    assert "sustained_ms" not in metrics


def test_heat_is_no_disturbance_of_a_sustained_load_but_others_are():
    load = "load: other processes took more than 25 % of the 4 cores it may use"
    governor = "clocks changed: governor of policy0 from performance to powersave"
    reasons = [
        "throttled: cooling_device0 (cpufreq) state 3",
        "clocks changed: limit of policy0 from 1800 to 1500 MHz",
    ]
    taken = qpipe.Round(
        [1.0], 1.0, 1.0, 1, 2.0, 1.0, sustained=[[1.0, 2.0, 500]], invalid="; ".join(reasons)
    )
    assert sustained_latency(taken, 1.0).conditions[0]["invalid"] is None
    assert "doubt" not in sustained_latency(taken, 1.0).detail
    spoiled = sustained_latency(
        replace(taken, invalid="; ".join([reasons[0], governor, reasons[1], load])), 1.0
    )
    assert spoiled.conditions[0]["invalid"] == f"{governor}; {load}"
    assert spoiled.detail["doubt"] == f"all 1 rounds were disturbed: {governor}; {load}"


def test_nothing_that_ran_is_an_error_with_the_reason(bench):
    bench.add("net/bad/ort", [], code="import os; os.abort()")
    with pytest.raises(
        qpipe.StageError, match=r"^latency: no build ran: board: runner run_player.py was killed"
    ):
        bench.measure(rounds=1, values=1)


def test_a_lost_device_is_not_the_fault_of_the_builds(bench):
    bench.add("a", [[1.0]])
    bench.device.close()
    bench.device.python = "/nowhere/python3"  # it was reached before, and is not now
    with pytest.raises(qpipe.DeviceError, match=r"^board: '/nowhere/python3' does not start"):
        bench.measure(rounds=1, values=1)


def test_a_line_that_was_lost_once_is_not_the_fault_of_the_build(bench):
    bench.add("a", [[1.0]] * 2)
    bench.add("b", [[2.0]] * 2, code=CUTTER)
    found = bench.measure(rounds=2, values=1)
    assert {deployed for deployed, _ in found} == {"a", "b"}
    assert len(bench.ran) == 4


def test_builds_that_somebody_killed_are_tried_twice_and_the_step_may_pass(bench):
    bench.add("net/bad/ort", [], code="import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    with pytest.raises(qpipe.StageError, match=r"^latency: no build ran: ") as error:
        bench.measure(rounds=1, values=1)
    assert error.value.failure == "died"


def test_a_build_that_hangs_is_told_once_and_not_tried_again(bench):
    bench.device.deadline_s = 3
    bench.add("a", [[1.0]])
    hung = "open('tries', 'a').write('.')\nimport time\ntime.sleep(60)"
    bench.add("bad", [], code=hung)
    with pytest.raises(
        qpipe.IncompleteError, match="gave no answer within 3 s when asked to load"
    ) as error:
        bench.measure(rounds=1, values=1)
    assert error.value.failure == "build"
    assert [path.read_text(encoding="utf-8") for path in bench.folder.rglob("tries")] == ["."]

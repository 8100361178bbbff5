"""The commands that read results: what they print of unfinished runs, on narrow terminals, and what to type next."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import scratch_lab
from scratch_lab import Lab

import qpipe as api
from qpipe.cli.results_tables import print_results
from qpipe.cli.run_summary import larger_keep
from qpipe.compare import pareto
from qpipe.report.json_documents import json_schemas
from qpipe.storage.results import Store
from qpipe.types import Measurement
from shell import Shell

DB = Path(".qpipe/results.db")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return scratch_lab.lab(tmp_path)


@pytest.fixture
def qpipe(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command in the lab."""
    return Shell(monkeypatch, capsys)


def test_what_a_database_says_does_not_command_the_terminal(qpipe: Shell) -> None:
    with Store(DB) as store:
        run = store.new_run(
            "a\x1b[31m", recipe_path="", recipe_digest="", recipe_text="", versions={}
        )
        store.record_step(run, "z/import", state="failed", error="hot\x1b]0;title\x07")
        place = {"model": "net\x1b[2J", "scheme": "int8\x1b[2J", "build": "ort", "device": "rpi4"}
        store.record_measurements(run, place, [Measurement("latency_ms", 1.0, "ms")])
    for words in ("runs", "pareto", "show"):
        assert not {"\x1b", "\x07"} & set(qpipe(words)[0])


def test_a_run_that_was_cut_is_judged_by_what_it_has(qpipe: Shell) -> None:
    qpipe("run recipe.yaml")
    whole = json.loads(qpipe("pareto --json")[0])["rows"]
    with Store(DB) as store:
        (run,) = store.runs()
        store.record_verdicts(run["id"], [])  # as after a kill: judging comes last
    assert json.loads(qpipe("pareto --json")[0])["rows"] == whole
    assert any(row["on_front"] for row in whole)
    out, _ = qpipe("pareto --knee")
    assert "tiny on one  (* = on the Pareto front of latency_ms, weight)" in out
    assert "tiny on one: ship " in out


def test_a_run_that_was_cut_is_judged_once_and_anew_only_when_it_has_measured_more(
    qpipe: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    qpipe("run recipe.yaml")
    judged: list[int] = []
    verdicts = pareto.verdicts

    def counted(*given: Any) -> Any:
        judged.append(len(given[0]))
        return verdicts(*given)

    monkeypatch.setattr(pareto, "verdicts", counted)
    with Store(DB) as store:
        (run,) = store.runs()
        store.record_verdicts(run["id"], [])  # as after a kill: judging comes last
    first = qpipe("pareto --json")
    assert len(judged) == 1
    assert qpipe("pareto --json") == first
    qpipe("pareto")
    assert len(judged) == 1
    place = {"model": "tiny", "scheme": "late", "build": "packed", "device": "one"}
    with Store(DB) as store:
        store.record_measurements(run["id"], place, [Measurement("weight", 1.0, "B")])
    assert any(row["scheme"] == "late" for row in json.loads(qpipe("pareto --json")[0])["rows"])
    assert len(judged) == 2
    with Store(DB) as store:
        store.resume_run(run["id"])
        assert store.verdicts(run["id"]) == []


def test_verdicts_on_what_a_run_had_before_do_not_replace_newer_ones(qpipe: Shell) -> None:
    qpipe("run recipe.yaml")
    with Store(DB) as store:
        (run,) = store.runs()
        basis = store.verdict_basis(run["id"])
        place = {"model": "tiny", "scheme": "late", "build": "packed", "device": "one"}
        store.record_measurements(run["id"], place, [Measurement("weight", 1.0, "B")])
        before = store.verdicts(run["id"])
        store.record_verdicts(run["id"], [], judged_on=basis)
        assert store.verdicts(run["id"]) == before


@pytest.mark.parametrize(
    "line",
    [
        "pareto",
        "runs",
        "show",
        "why recipe.yaml tiny/import",
        "export --device d --scheme s -o out",
    ],
)
def test_reading_a_misspelt_database_makes_none(line: str, qpipe: Shell) -> None:
    out, err = qpipe(f"{line} --db typo/results.db", 2)
    assert (out, err) == (
        "",
        "qpipe: typo/results.db: there is no such database; give that of your runs with --db\n",
    )
    assert not Path("typo").exists()
    out, err = qpipe(line, 2)
    assert (out, err) == (
        "",
        "qpipe: .qpipe/results.db: no run yet; start one with: qpipe run RECIPE\n",
    )
    assert not Path(".qpipe").exists()


def next_line(out: str) -> str:
    """What a run says to type next, without the program's name."""
    (found,) = re.findall(r"^next: qpipe (.*?)(?:   or: .*)?$", out, re.MULTILINE)
    return str(found)


def test_the_next_command_is_short_where_that_is_enough(qpipe: Shell) -> None:
    line = next_line(qpipe("run recipe.yaml --knee")[0])
    assert re.fullmatch(r"export --device one --scheme \w+ -o shipped", line)
    qpipe(line)


def test_the_next_command_works_with_several_of_all_and_results_elsewhere(
    lab: Lab, qpipe: Shell
) -> None:
    lab.edit("recipe.yaml", "models: {tiny: tiny}", "models: {tiny: tiny, small: tiny}")
    lab.edit(
        "recipe.yaml",
        "builds: {packed: pack}",
        "builds: {packed: pack, wide: {pack: {threads: 2}}}",
    )
    lab.edit("recipe.yaml", "devices: [one]", "devices: [one, two]")
    out, _ = qpipe("run recipe.yaml --knee --db 'my results/r.db' --cache 'my results/cache'")
    line = next_line(out)
    words = shlex.split(line)
    assert "--model" in words
    assert "--build" in words
    qpipe(line)
    measured = json.loads(Path("shipped/manifest.json").read_text(encoding="utf-8"))["measured"]
    picked = {name: measured[name] for name in ("device", "scheme", "model", "build")}
    assert picked == {name: words[words.index(f"--{name}") + 1] for name in picked}


def add(store: Store, run: str, scheme: str) -> None:
    place = {"model": "net", "scheme": scheme, "build": "ort", "device": "rpi4"}
    numbers = [
        ("latency_ms", 1.451, "ms", 0.05), ("map50", 0.852, "share", 0.011), ("size_mb", 0.612, "MB", None),
        ("latency_ratio", 0.61, "", 0.02), ("memory_mb", 31.4, "MB", 0.3), ("agreement", 0.97, "share", 0.01),
        ("sqnr_db", 31.2, "dB", 0.4),
    ]  # fmt: skip
    store.record_measurements(run, place, [
        Measurement(name, value, unit, value - half if half else None, value + half if half else None, 10)
        for name, value, unit, half in numbers
    ])  # fmt: skip


@pytest.mark.parametrize(("width", "whole"), [(80, False), (140, True)])
def test_a_table_keeps_to_the_terminal_and_leaves_the_least_out(
    width: int,
    whole: bool,
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich: a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    objectives = {"latency_ms": "min", "map50": "max", "size_mb": "min"}
    with Store(DB) as store:
        recipe = {"recipe_path": "", "recipe_digest": "", "recipe_text": ""}
        run = store.new_run("net", **recipe, versions={}, objectives=objectives)
        for scheme in ("float32", "int8-equalized"):
            add(store, run, scheme)
        print_results(api.find_run(run, db=store.path).judged(knee=True))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    table = lines[2:5]
    assert [len(line.rstrip()) <= width for line in table] == [True] * 3
    assert re.split(r"\s{2,}", table[0].strip())[:4] == [
        "scheme",
        "latency ms",
        "map50 %",
        "size MB",
    ]
    assert re.split(r"\s{2,}", table[2].strip())[1:5] == [
        "int8-equalized",
        "1.45 ±0.05",
        "85.2 ±1.1",
        "0.61",
    ]
    assert ("SQNR dB" in table[0]) == whole
    note = "(too narrow for x float, memory MB, SQNR dB: widen the terminal, or use --json)"
    assert (note in lines) != whole
    assert any(
        "latency 1.45 ms (1.40 to 1.50), map50 85.2 % (84.1 to 86.3), size 0.61 MB" in line
        for line in lines
    )


def test_ties_and_notes_are_told_below_the_table(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [[1.0, 1.5, 2.0]] * 4  # standard deviation sqrt(2 / 11), 28 % of the median
    with Store(DB) as store:
        recipe = {
            "recipe_path": "",
            "recipe_digest": "",
            "recipe_text": "",
            "objectives": {"latency_ms": "min"},
        }
        run = store.new_run("net", **recipe, versions={})  # type: ignore[arg-type]
        for scheme in ("float32", "int8", "log4"):
            place = {"model": "net", "scheme": scheme, "build": "ort", "device": "rpi4"}
            noisy = Measurement("latency_ms", 1.5, "ms", 1.4, 1.6, 4, rounds=values)
            store.record_measurements(run, place, [noisy], is_float=scheme == "float32")
        print_results(api.find_run(run, db=store.path).results)
    out = capsys.readouterr().out
    assert "tied with int8, log4" in out
    assert "\n  float32, int8 and log4 are tied\n" in out
    noise = "all 3: std dev is 28 % of the median over 12 runs: let nothing else run there"
    assert f"\n  {noise}\n" in out


def test_verdicts_are_sentences_that_a_person_can_act_on(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    powersave = {"invalid": None, "environment": {"before": {"governor": {"policy0": "powersave"}}}}
    restless = {
        "rounds": [[0.86, 1.14] * 25] * 4,
        "conditions": [powersave] * 4,
    }  # of 200, 14 % about their median
    measured = {
        "float32": [Measurement("latency_ms", 1.0, "ms", 0.99, 1.01, 4, **restless)],  # type: ignore[arg-type]
        "log4": [Measurement("latency_ms", 0.50, "ms", 0.499, 0.501, 4)],
        "int8-channel": [Measurement("latency_ms", 0.50, "ms", 0.499, 0.501, 4)],
        "int8-tensor": [
            Measurement("latency_ms", 1.08, "ms", 1.06, 1.10, 4), Measurement("latency_ratio", 1.08, "", 1.05, 1.11, 4),
        ],
    }  # fmt: skip
    with Store(DB) as store:
        recipe = {
            "recipe_path": "",
            "recipe_digest": "",
            "recipe_text": "",
            "objectives": {"latency_ms": "min"},
        }
        run = store.new_run("net", **recipe, versions={})  # type: ignore[arg-type]
        for scheme, own in measured.items():
            place = {"model": "net", "scheme": scheme, "build": "ort", "device": "rpi4"}
            store.record_measurements(run, place, own, is_float=scheme == "float32")
        print_results(api.find_run(run, db=store.path).results)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    noise = "std dev is 14 % of the median over 200 runs: fix the clocks (governor is powersave)"
    slower = "int8-tensor is slower than float here (1.08x, 1.05 to 1.11)"
    assert [line for line in lines if line in (f"float32: {noise}", slower, "log4 and int8-channel are tied")] == [
        "log4 and int8-channel are tied", f"float32: {noise}", slower
    ]  # fmt: skip


def test_a_run_keeps_to_the_limits_it_was_given_and_remembers_them(qpipe: Shell) -> None:
    out, _ = qpipe("run recipe.yaml --knee --max weight=1e9")
    assert ", the best with weight <= 1e+09: " in out
    assert "; surely; " in out
    assert ", the best with weight <= 1e+09: " in qpipe("pareto --knee")[0]
    assert ", the best with weight <= 2e+09: " in qpipe("pareto --knee --max weight=2e9")[0]


def test_a_limit_that_a_share_cannot_keep_is_refused(qpipe: Shell) -> None:
    with Store(DB) as store:
        run = store.new_run("net", recipe_path="", recipe_digest="", recipe_text="", versions={})
        add(store, run, "float32")
    _, err = qpipe("pareto --min map50=85", 2)
    assert err == "qpipe: --min map50=85: it is a share; write 85% or 0.85\n"
    assert "map50 >= 0.85" in qpipe("pareto --knee --min map50=85%")[0]


def test_what_is_not_recommended_is_not_the_next_to_be_exported(lab: Lab, qpipe: Shell) -> None:
    lab.edit(
        "recipe.yaml", "pareto: {latency_ms: min, weight: min}", "pareto: {top1: max, weight: min}"
    )
    out, _ = qpipe("run recipe.yaml")
    assert "nothing is recommended: top1 was not measured; " in out
    assert next_line(out) == "pareto --json"


def test_where_there_is_nothing_to_choose_by_nothing_is_the_next_to_be_exported(
    lab: Lab, qpipe: Shell
) -> None:
    lab.edit("recipe.yaml", 'measure: [pace, {weight: {factor: "${factor}"}}]', "measure: [size]")
    lab.edit("recipe.yaml", "pareto: {latency_ms: min, weight: min}", "")
    assert next_line(qpipe("run recipe.yaml --knee")[0]).startswith("export ")
    out, _ = qpipe("run recipe.yaml")
    assert "nothing is recommended: no objective tells how good the answers are; " in out
    assert next_line(out) == "pareto --json"
    lab.edit("recipe.yaml", "measure: [size]", "measure: [{score: {metric: closeness}}]")
    out, _ = qpipe("run recipe.yaml")
    assert "tiny on one: nothing to choose by was measured" in out
    assert next_line(out) == "pareto --json"
    assert next_line(qpipe("run recipe.yaml --knee --max closeness=1")[0]).startswith("export ")


def add_scored(store: Store, *, smoke: bool = False, keep: float | None = None) -> str:
    """A run of two schemes; int8 is as fast again as float, and 4 of 800 answers are lost."""
    request: dict[str, Any] = {"smoke": smoke}
    if keep is not None:
        request["keep"] = keep
    run = store.new_run(
        "net",
        recipe_path=str(Path("net.yaml").resolve()),
        recipe_digest="",
        recipe_text="",
        versions={},
        request=request,
        objectives={"latency_ms": "min", "top1": "max"},
    )
    for scheme, latency, lost in (("float32", 10.0, 0), ("int8", 5.0, 4)):
        answers = [0.0] * lost + [1.0] * (700 - lost) + [0.0] * 100
        value = sum(answers) / 800
        top1 = Measurement(
            "top1",
            value,
            "share",
            value - 0.02,
            value + 0.02,
            800,
            "max",
            rounds=[answers],
            raw="samples",
        )
        timed = Measurement("latency_ms", latency, "ms", latency - 0.01, latency + 0.01, 10)
        place = {"model": "net", "scheme": scheme, "build": "ort", "device": "rpi4"}
        store.record_measurements(run, place, [timed, top1], is_float=scheme == "float32")
    return run


def test_how_much_may_be_lost_is_an_option(lab: Lab, qpipe: Shell) -> None:
    with Store(DB) as store:
        add_scored(store)
    # 4 of 800 are lost, 0.5 points: at most 1.28, by Wilson; 0.5 more are 1.56 times too many: 1939 samples
    assert (
        "net on rpi4: nothing is recommended: no scheme is shown to lose at most 1 point of top1; int8 loses 0.5 points "
        "of top1 against float (0.0 to 1.3) on 800 samples; about 2000 samples would tell: add samples, then: "
        "qpipe run net.yaml\n"
    ) in qpipe("pareto")[0]
    for keep in ("1.5", "1.5%"):
        out, _ = qpipe(f"pareto --keep {keep}")
        assert (
            "net on rpi4: ship int8, the fastest that is shown to lose at most 1.5 points of top1: "
            in out
        )
    for wrong in ("x", "-1", "101", "nan"):
        out, err = qpipe(f"pareto --keep={wrong}", 2)
        assert (
            err == f"qpipe: --keep: '{wrong}' is no loss; write points from 0 to 100, such as 0.5\n"
        )


def test_a_run_remembers_how_much_may_be_lost(lab: Lab, qpipe: Shell) -> None:
    with Store(DB) as store:
        add_scored(store, keep=1.5)
    assert (
        "ship int8, the fastest that is shown to lose at most 1.5 points of top1: "
        in qpipe("pareto")[0]
    )
    assert "nothing is recommended: " in qpipe("pareto --keep 1")[0]


@pytest.mark.parametrize(
    ("command", "kept"), [("run recipe.yaml", 2.0), ("run recipe.yaml --keep 0.5%", 0.5)]
)
def test_what_the_recipe_or_the_option_says_is_stored(
    command: str, kept: float, lab: Lab, qpipe: Shell
) -> None:
    lab.edit(
        "recipe.yaml",
        "pareto: {latency_ms: min, weight: min}",
        "pareto: {latency_ms: min, weight: min}\nkeep: 2",
    )
    qpipe(command)
    with Store(DB) as store:
        (run,) = store.runs()
    assert run["request"]["keep"] == kept


def test_a_smoke_run_recommends_nothing_and_shows_no_intervals(lab: Lab, qpipe: Shell) -> None:
    with Store(DB) as store:
        add_scored(store, smoke=True, keep=1.5)
    out, _ = qpipe("pareto")
    assert "net on rpi4: nothing is recommended by a smoke run\n" in out
    assert "5.00 ±?" in out
    assert "87.0 ±?" in out
    assert "ship" not in out
    assert "ship" not in qpipe("pareto --knee")[0]


LATENCY = {"measure": "[latency, {score: {metric: closeness}}]", "pareto": "{latency_ms: min}"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max latncy_ms=20", "--max latncy_ms: it is not measured; did you mean 'latency_ms'?"),
        ("--max map50=1 --min map75=1", "--min map75: it is not measured; "),
        ("--min near=70", "--min near=70: it is a share; write 70% or 0.7"),
    ],
)
def test_a_limit_that_nothing_can_be_held_against_is_told_before_anything_runs(
    options: str, message: str, lab: Lab, qpipe: Shell
) -> None:
    lab.edit(
        "stages.py",
        'qpipe.Metric("closeness", lambda a, b: 0.0, sum)',
        'qpipe.Metric("near", max, max, "share")',
    )
    lab.edit(
        "recipe.yaml",
        'measure: [pace, {weight: {factor: "${factor}"}}]',
        f"measure: {LATENCY['measure']}",
    )
    lab.edit("recipe.yaml", "{latency_ms: min, weight: min}", LATENCY["pareto"])
    out, err = qpipe(f"run recipe.yaml {options}", 2)
    assert out == ""
    assert message in err
    assert not Path(".qpipe").exists(), "nothing has run"


def test_a_limit_that_was_never_measured_is_told_below_the_table(qpipe: Shell) -> None:
    line = "--max weigth: it is not measured; did you mean 'weight'?"
    assert line in qpipe("run recipe.yaml --max weigth=20")[0], (
        "who measures weight does not say so before"
    )
    assert line in qpipe("pareto")[0], "it was remembered"
    assert qpipe("pareto --max weigth=20", 2) == ("", f"qpipe: {line}\n")


def test_raw_values_are_read_once_to_judge_a_run_and_once_to_print_it(
    qpipe: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    values = Store.values
    monkeypatch.setattr(
        Store, "values", lambda store, id_: (read.append(id_), values(store, id_))[1]
    )
    qpipe("run recipe.yaml")
    with Store(DB) as store:
        measured = [row["id"] for row in store.measurements(store.runs()[0]["id"])]
    assert sorted(read) == sorted(2 * measured)
    read.clear()
    qpipe("pareto")
    assert sorted(read) == sorted(measured)


# ---- what scripts read


def test_what_scripts_read_of_a_run_is_an_object_that_keeps_its_schema(
    qpipe: Shell, lab: Lab
) -> None:
    lab.edit("recipe.yaml", '{snap: {bits: "${bits}"}}', "{snap: {fail: 'too hot; wait'}}")
    printed = qpipe.json("run recipe.yaml --tag mine", 1)
    schemas = json_schemas()
    jsonschema.validate(printed, schemas["qpipe.run/1"])
    assert (printed["schema"], printed["state"], printed["tags"]) == (
        "qpipe.run/1", "partial", ["mine"],
    )  # fmt: skip
    (failure,) = printed["failures"]
    assert (failure["step"], failure["failure"], failure["error"]) == (
        "tiny/snapped/snap", "build", "too hot; wait",
    )  # fmt: skip
    assert {device["name"]: device["state"] for device in printed["devices"]} == {"one": "measured"}
    (advice,) = printed["recommendations"]
    assert (advice["device"], advice["scheme"]) == ("one", None)
    assert advice["reasons"]
    again = qpipe.json("pareto --run mine --max weight=1")
    jsonschema.validate(again, schemas["qpipe.run/1"])
    assert [row["within_limits"] for row in again["rows"]] == [False]


def test_a_device_that_was_not_reached_is_in_what_scripts_read(qpipe: Shell, lab: Lab) -> None:
    lab.edit("devices.yaml", "two:", "gone: {ssh: {host: 127.0.0.1, port: 1}}\ntwo:")
    printed = qpipe.json("run recipe.yaml --device one --device gone", 1)
    jsonschema.validate(printed, json_schemas()["qpipe.run/1"])
    states = {device["name"]: device["state"] for device in printed["devices"]}
    assert states == {"one": "measured", "gone": "unreachable"}
    (reason,) = (device["reason"] for device in printed["devices"] if device["name"] == "gone")
    assert reason.startswith("gone: ")


def test_a_comparison_is_an_object_and_a_file_for_ci(qpipe: Shell, tmp_path: Path) -> None:
    qpipe("run recipe.yaml --tag before")
    qpipe("run recipe.yaml --new")
    printed = qpipe.json("compare before --junit two.xml")
    jsonschema.validate(printed, json_schemas()["qpipe.comparison/1"])
    suite = ET.fromstring((tmp_path / "two.xml").read_text(encoding="utf-8"))
    assert int(suite.attrib["tests"]) == len(printed["rows"]) > 1
    assert (suite.attrib["failures"], suite.findall("testcase/failure")) == ("0", [])
    verdicts = {row["verdict"] for row in printed["rows"]}
    qpipe(f"compare before --junit two.xml --fail-on {verdicts.pop()}", 3)
    suite = ET.fromstring((tmp_path / "two.xml").read_text(encoding="utf-8"))
    failures = suite.findall("testcase/failure")
    assert len(failures) == int(suite.attrib["failures"]) > 0


def test_a_smoke_run_is_apart_from_real_ones_everywhere(qpipe: Shell) -> None:
    qpipe("run recipe.yaml --tag real")
    qpipe("run recipe.yaml --smoke --tag smoke")
    assert qpipe.json("pareto --run smoke")["is_smoke"]
    rows = qpipe.json("compare real smoke")["rows"]
    assert {row["verdict"] for row in rows} == {"not comparable"}
    assert {difference for row in rows for difference in row["differs"]} >= {
        "samples and rounds: one is a smoke run"
    }
    with Store(DB) as store:
        smoke = store.run("smoke")["id"]
    with closing(sqlite3.connect(DB)) as db:
        for view in ("pareto", "latest", "history"):
            marked = db.execute(f"SELECT DISTINCT run FROM {view} WHERE is_smoke").fetchall()
            assert marked == [(smoke,)], view
            real = db.execute(f"SELECT DISTINCT run FROM {view} WHERE NOT is_smoke").fetchall()
            assert real
            assert real != marked, view


def test_where_too_much_is_lost_the_loss_at_which_something_ships_is_the_next_to_be_tried(
    tmp_path: Path,
) -> None:
    with Store(tmp_path / "results.db") as store:
        results = api.find_run(add_scored(store, keep=0.1), db=store.path).results
        assert results.shipped == []
        hint = larger_keep(results, ["--run", "x"])
        assert hint == "   or, if a loss of up to 2 points will do: qpipe pareto --keep 2 --run x"
        smoke = api.find_run(add_scored(store, smoke=True, keep=0.1), db=store.path).results
        assert larger_keep(smoke, []) == ""

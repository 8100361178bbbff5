"""The command: what it prints, in which form, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scratch_lab
from scratch_lab import LabShell

from qpipe.cli.progress_display import describe_progress
from qpipe.engine.events import Event

SNAPPED = "tiny/snapped/packed@one"


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    return LabShell(tmp_path, monkeypatch, capsys)


def test_from_a_recipe_to_an_answer(qpipe: LabShell) -> None:
    before = qpipe.json("plan recipe.yaml")
    will = {step["scheme"]: step["will"] for step in before if step["kind"] == "compile"}
    assert will == {"float32": "cached", "snapped": "compute"}, "float is tried"
    assert not Path(".qpipe/runs").exists(), "a plan runs nothing"

    out, err = qpipe("run recipe.yaml --knee")
    assert "tiny/snapped/snap: done (" in err
    assert "tiny on one" in out
    assert "next: qpipe export --device one --scheme" in out

    rows = qpipe.json("pareto")["rows"]
    assert [(row["recipe"], row["model"], row["scheme"], row["build"], row["device"]) for row in rows] == [
        ("lab", "tiny", "float32", "packed", "one"), ("lab", "tiny", "snapped", "packed", "one"),
    ]  # fmt: skip
    assert rows[0]["metrics"]["latency_ms"]["value"] == 5.0
    assert {"run", "runtime", "on_front", "metrics"} <= rows[0].keys()

    after = qpipe.json("plan recipe.yaml")
    assert {step["will"] for step in after} == {"cached", "send", "measure"}
    assert {step["step"] for step in after if step["will"] == "measure"} == {"one/pace"}

    (run,) = qpipe.json("runs")
    assert (run["recipe"], run["state"]) == ("lab", "done")
    shown = qpipe.json("show")
    assert shown["devices"]["one"]["runtimes"].keys() == {"onnxruntime"}
    cached = {step["step"] for step in shown["steps"] if step["state"] == "cached"}
    assert cached == {"samples", "tiny/import", "tiny/float32/packed"}, "as the plan made them"
    assert {step["state"] for step in shown["steps"]} == {"cached", "done"}
    assert qpipe.json(f"show {SNAPPED} --run {run['id'][:17]}")["state"] == "done"
    assert [device["name"] for device in qpipe.json("devices list")] == [
        "one",
        "two",
        "arm",
        "local",
    ]


def test_why_names_the_fields_that_changed(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml")
    assert qpipe.json("why recipe.yaml tiny/snapped/snap")["cached"] is True
    assert qpipe("why recipe.yaml tiny/snapped/snap")[0].startswith(
        "tiny/snapped/snap: hit; the result under key "
    )
    qpipe.lab.edit("recipe.yaml", "bits: 8,", "bits: 4,")
    told = qpipe.json("why recipe.yaml tiny/snapped/snap")
    assert (told["cached"], told["changed"]) == (
        False,
        [{"field": "options.bits", "before": 8, "now": 4}],
    )
    told = qpipe.json("why recipe.yaml tiny/snapped/packed")
    assert [change["field"] for change in told["changed"]] == ["needs.model"]
    qpipe.lab.write("stages.py", scratch_lab.PLUGIN + "\n# changed\n")
    told = qpipe.json("why recipe.yaml tiny/import")
    assert [change["field"] for change in told["changed"]] == ["code.import tiny"]
    out, _ = qpipe("why recipe.yaml one/pace")
    assert out.startswith("one/pace: measured again in every run")
    _, err = qpipe("why recipe.yaml tiny/snapped/snop", 2)
    assert err == "qpipe: lab: no step 'tiny/snapped/snop'; did you mean 'tiny/snapped/snap'?\n"


def test_a_stage_whose_module_is_not_installed_is_told_before_it_runs(qpipe: LabShell) -> None:
    qpipe.lab.edit(
        "stages.py",
        'register("compile", pack)',
        'register("compile", pack)\n    modules = {"no_such_module": "pip install such"}\n'
        '    register("quantize", snap, name="taught", modules=modules)',
    )
    qpipe.lab.edit("recipe.yaml", "schemes:", "schemes:\n  trained: [taught]\n  again: [taught]")
    note = "recipe.yaml:8: quantize taught: no_such_module is not installed; pip install such\n"
    _, err = qpipe("plan recipe.yaml")
    assert note in err
    assert err.count("no_such_module") == 1
    _, err = qpipe("plan recipe.yaml --only snapped")
    assert "no_such_module" not in err
    _, err = qpipe("run recipe.yaml")
    assert note in err


def test_a_run_that_fails_in_part_says_where_and_why_and_how_to_go_on(qpipe: LabShell) -> None:
    qpipe.lab.edit(
        "recipe.yaml",
        '{snap: {bits: "${bits}"}}',
        "{snap: {say: hello from the stage, fail: 'too hot; wait'}}",
    )
    out, err = qpipe("run recipe.yaml --set 'evaluation_count=4'", 1)
    assert "tiny/snapped/snap: failed" in err
    assert "3 steps: skipped: needs tiny/snapped/snap\n" in err
    assert "  failed: tiny/snapped/snap: too hot; wait (build)\n" in out
    assert "continue with: qpipe run recipe.yaml --set evaluation_count=4\n" in out
    assert ": partial in " in out
    assert qpipe("show tiny/snapped/snap --log")[0] == "hello from the stage\n"
    assert qpipe.json("show tiny/snapped/snap")["error"] == "too hot; wait"
    assert qpipe("show tiny/import --log")[0] == "the log is empty\n"
    rows = qpipe.json("run recipe.yaml --set evaluation_count=4", 1)["rows"]
    assert [row["scheme"] for row in rows] == ["float32"]
    assert len(qpipe.json("runs")) == 1, "it was continued"


def test_a_run_can_be_narrowed_and_sent_elsewhere(qpipe: LabShell) -> None:
    rows = qpipe.json("run recipe.yaml --only float32 --device two --device arm")["rows"]
    assert {(row["scheme"], row["device"]) for row in rows} == {
        ("float32", "two"),
        ("float32", "arm"),
    }
    assert [row["device"] for row in qpipe.json("pareto --device arm")["rows"]] == ["arm"]
    _, err = qpipe("pareto --device one", 2)
    assert err.partition(": no device")[2] == " 'one'; there is arm, two\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run missing.yaml", "missing.yaml: no such file; give the path of a YAML file"),
        ("run recipe.yaml --set bits", "--set bits: '=' is missing; write --set NAME=VALUE"),
        ("run recipe.yaml --set bit=3", "--set bit: no such variable in recipe.yaml; did you mean 'bits'?"),
        ("run recipe.yaml --set bits=x", "recipe.yaml:9: quantize snap: option 'bits' is 'x'; give a whole number"),
        ("run recipe.yaml --only snaped", "--only: no scheme 'snaped' in recipe.yaml; did you mean 'snapped'?"),
        ("plan recipe.yaml --device onne", "devices.yaml: no device 'onne'; did you mean 'one'?; "
         "add it as onne: {ssh: {host: ADDRESS}}"),
        ("run recipe.yaml --inventory no.yaml", "no.yaml: no such file; give the path of a YAML file"),
        ("pareto", ".qpipe/results.db: no run yet; start one with: qpipe run RECIPE"),
        ("show", ".qpipe/results.db: no run yet; start one with: qpipe run RECIPE"),
        ("describe quantise x", "kind 'quantise' is not known; did you mean 'quantize'?"),
        ("describe quantize symetric", "no plugin offers quantize 'symetric'; did you mean 'symmetric'?"),
        ("describe device shs", "no plugin offers device 'shs'; there is local, null, ssh"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(line: str, message: str, qpipe: LabShell) -> None:
    out, err = qpipe(line, 2)
    assert (out, err) == ("", f"qpipe: {message}\n")


def test_a_run_by_an_unknown_id_is_told_which_there_are(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml --only float32")
    (run,) = qpipe.json("runs")
    _, err = qpipe("show --run 1999", 2)
    assert err == f"qpipe: run '1999': there is no such run; there is {run['id']}\n"


def test_describe_tells_all_of_a_stage(qpipe: LabShell) -> None:
    told = qpipe.json("describe measure latency")
    assert told["needs"] == ["deployments", "device", "device_samples", "workdir", "progress"]
    assert (
        told["options"]["rounds"].items()
        >= {"type": "integer", "default": 16, "required": False}.items()
    )
    out, _ = qpipe("describe device ssh")
    assert "required" in out


def test_every_stage_can_be_described(qpipe: LabShell) -> None:
    for stage in qpipe.json("plugins")["stages"]:
        told = qpipe.json(f"describe {stage['kind']} {stage['name']}")
        assert told["doc"], stage
        assert qpipe(f"describe {stage['kind']} {stage['name']}")[0]


def test_checking_a_device_records_it(qpipe: LabShell) -> None:
    assert qpipe.json("devices list")[0]["checked"] is None
    (entry,) = qpipe.json("devices check arm")
    assert (entry["name"], entry["arch"], entry["error"]) == ("arm", "aarch64", None)
    listed = {device["name"]: device for device in qpipe.json("devices list")}
    assert listed["arm"]["arch"] == "aarch64"
    assert listed["one"]["checked"] is None


def test_a_device_that_does_not_answer_is_status_1(qpipe: LabShell) -> None:
    qpipe.lab.write("devices.yaml", "dead: {ssh: {host: 127.0.0.1, port: 1, connect_timeout: 2}}\n")
    out, err = qpipe("devices check dead --json", 1)
    assert json.loads(out)[0]["error"]
    assert err.startswith("qpipe: dead: ")
    assert err.count("\n") == 1
    _, err = qpipe("run recipe.yaml --device dead", 1)
    assert err.splitlines()[-1].startswith("qpipe: dead: ")


def test_a_run_goes_on_without_a_device_that_does_not_answer(qpipe: LabShell) -> None:
    qpipe.lab.edit(
        "devices.yaml", "two: 'null'", "two: {ssh: {host: 127.0.0.1, port: 1, connect_timeout: 2}}"
    )
    out, _ = qpipe("run recipe.yaml --device one --device two", 1)
    assert ": partial in " in out
    assert "  two: " in out
    assert [row["device"] for row in qpipe.json("pareto")["rows"]] == ["one", "one"]


def test_a_note_in_the_unit_of_progress_is_shown_last() -> None:
    event = Event("qat", "progress", seconds=10, done=40, total=100, unit="%, loss 0.02")
    assert describe_progress(event) == "40/100 %, 4 %/s, 15 s left, loss 0.02"

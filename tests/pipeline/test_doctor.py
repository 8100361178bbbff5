"""`qpipe doctor`: what is right is said in a line, what is wrong with what to do, and by the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import scratch_lab
from scratch_lab import Lab

from shell import Shell


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return scratch_lab.lab(tmp_path)


@pytest.fixture
def qpipe(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def test_a_machine_without_faults_is_ok_and_has_each_area(qpipe: Shell) -> None:
    qpipe("run recipe.yaml")
    printed = qpipe.json("doctor")
    jsonschema.validate(printed, json.loads(qpipe("schema --of doctor")[0]))
    lines = printed["findings"]
    assert not [line for line in lines if line["state"] == "bad"]
    assert {line["area"] for line in lines} == {
        "machine", "extras", "plugins", "workspace", "devices",
    }  # fmt: skip
    said = {line["what"]: line["said"] for line in lines}
    assert said["database"] == ".qpipe/results.db: 1 runs"
    assert said["one"] == "ready"
    assert "qat" not in said
    assert (
        said["openvino"] == "installed" or "pip install 'qpipe-edge[openvino]'" in said["openvino"]
    )
    out, _ = qpipe("doctor --no-devices")
    assert "devices" not in out
    for command in ("show", "show tiny/import", "plan recipe.yaml"):
        shown = qpipe(command)[0].splitlines()
        assert [line for line in shown if line != line.rstrip()] == []


def test_what_is_wrong_has_a_remedy(qpipe: Shell, lab: Lab) -> None:
    (lab.folder / "results.db").write_text("no database at all, " * 40, encoding="utf-8")
    lab.edit("devices.yaml", "two:", "gone: {ssh: {host: 127.0.0.1, port: 1}}\ntwo:")
    out, _ = qpipe("doctor --db results.db --cache recipe.yaml", 1)
    bad = [line.split(maxsplit=3) for line in out.splitlines() if line.split()[1] == "bad"]
    assert [words[2] for words in bad] == ["database", "cache"]
    out, _ = qpipe("doctor", 1)
    (line,) = (line for line in out.splitlines() if line.split()[1] == "bad")
    assert line.startswith("devices   bad     gone")
    assert "connection: " in line


def test_a_check_makes_no_database(qpipe: Shell, lab: Lab) -> None:
    out, _ = qpipe("doctor")
    assert "one                ready" in out
    assert not (lab.folder / ".qpipe").exists()


def test_an_inventory_that_does_not_load_is_one_line(qpipe: Shell, lab: Lab) -> None:
    lab.edit("devices.yaml", "two:", "two: [1]\nthree:")
    out, _ = qpipe("doctor", 1)
    assert [line.split()[2] for line in out.splitlines() if line.split()[1] == "bad"] == [
        "devices.yaml"
    ]

"""What an emulator's clock says is never shown as a device's: in tables, sentences, JSON, exports, merged databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scratch_lab import LabShell

from qpipe.compare.formatting import is_emulated
from qpipe.compare.pareto import pareto_rows
from qpipe.errors import RecipeError
from qpipe.export.bundle import gather_facts
from qpipe.recipe import inventory
from qpipe.stages import registry
from qpipe.storage.results import Store
from qpipe.types import Capabilities, Emulation

FOUND: dict[str, Any] = {
    "arch": "aarch64", "system": "Linux", "cpu": "Cortex-A76", "cores": 2, "features": (), "memory_mb": 2000.0,
    "python": "3.11", "numpy": "2.0", "runtimes": {}, "fingerprint": "f",
}  # fmt: skip
NOTE = "emulated: its times count instructions, they are not a device's"


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    """The command, in a lab where `one` counts instructions and `two` is hardware."""
    shell = LabShell(tmp_path, monkeypatch, capsys)
    shell.lab.write("devices.yaml", "one: {'null': {}, emulated: instructions}\ntwo: 'null'\n")
    return shell


def test_the_table_and_its_sentence_say_it_and_those_of_hardware_do_not(qpipe: LabShell) -> None:
    out = qpipe("run recipe.yaml --knee --device one --device two")[0]
    assert f"tiny on one ({NOTE})  (* = on the Pareto front of latency_ms, weight)" in out
    assert f"tiny on one ({NOTE}): ship " in out
    assert "emulated latency ms" in out
    hardware = out[out.index("\ntiny on two") :]
    assert "emulated" not in hardware
    assert " latency ms" in hardware


def test_only_what_takes_time_is_called_emulated(qpipe: LabShell) -> None:
    (sentence,) = (
        line for line in qpipe("run recipe.yaml --knee")[0].splitlines() if ": ship " in line
    )
    assert ": emulated latency_ms 5.00, weight " in sentence


def test_json_rows_say_it(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml --device one --device two")
    assert {row["device"]: row["emulated"] for row in qpipe.json("pareto")["rows"]} == {
        "one": "instructions",
        "two": None,
    }
    found = {entry["name"]: entry.get("emulated") for entry in qpipe.json("devices list")}
    assert (found["one"], found["two"]) == ("instructions", None)


def test_the_numbers_of_a_step_say_it(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml")
    assert " emulated latency_ms " in qpipe("show one/pace")[0]
    assert qpipe.json("show one/pace")["measurements"][0]["emulated"] == "instructions"


def test_what_changed_between_two_runs_says_it_and_what_became_hardware_is_not_compared(
    qpipe: LabShell,
) -> None:
    qpipe("run recipe.yaml")
    qpipe.lab.edit("devices.yaml", ", emulated: instructions", "")
    qpipe("run recipe.yaml --new")
    before, after = (run["id"] for run in reversed(qpipe.json("runs")))
    rows = {row["metric"]: row for row in qpipe.json(f"compare {before} {after}")["rows"]}
    assert rows["latency_ms"]["verdict"] == "not comparable"
    qpipe.lab.edit("devices.yaml", "one: {'null': {}}", "one: {'null': {}, emulated: instructions}")
    qpipe.lab.edit("recipe.yaml", "measure: [pace", "measure: [{pace: {value: 9}}")
    qpipe("run recipe.yaml --new")
    assert (
        " emulated latency_ms "
        in qpipe(f"compare {before} {qpipe.json('runs')[0]['id']} --metric latency_ms")[0]
    )


def test_it_survives_a_merge(qpipe: LabShell, tmp_path: Path) -> None:
    qpipe("run recipe.yaml")
    qpipe("db merge .qpipe/results.db --db together.db")
    assert {row["emulated"] for row in qpipe.json("pareto --db together.db")["rows"]} == {
        "instructions"
    }


def test_what_an_export_says_was_measured_says_it(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml")
    with Store(Path(".qpipe/results.db")) as store:
        row = pareto_rows(store, store.runs()[0]["id"])[0]
        assert gather_facts(store, row)["measured"]["emulated"] == "instructions"


@pytest.mark.parametrize(
    ("word", "found", "expected"),
    [
        ("emulated: wall, ", None, "wall"),
        ("emulated: instructions, ", "wall", "instructions"),
        ("", "wall", "wall"),  # it is seen to be one, whatever the inventory leaves out
        ("emulated: false, ", "wall", None),  # a virtual machine on processors of its own kind
        ("", None, None),
    ],
)
def test_the_inventory_has_the_last_word(
    tmp_path: Path, word: str, found: Emulation | None, expected: Emulation | None
) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(f"board: {{{word}'null': {{}}}}", encoding="utf-8")
    call = inventory.load(file, registry.load())["board"]
    known = inventory.labelled(call, Capabilities(**FOUND, emulated=found))
    assert known.emulated == expected
    assert (known.fingerprint == "f") == (
        expected is None
    )  # what an emulator gave stands for no board


def test_a_word_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text("board:\n  'null': {}\n  emulated: 0\n", encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        inventory.load(file, registry.load())
    assert str(error.value).endswith(
        "devices.yaml:3: emulated is 0; it is wall (its clock is that of this machine), instructions (it counts them), "
        "or false"
    )


@pytest.mark.parametrize(
    ("metric", "unit", "expected"),
    [
        ("latency_p99_ms", "ms", True), ("latency_ratio", "", True), ("throughput", "inferences/s", True),
        ("energy_j", "J", True), ("memory_mb", "MB", False), ("map50", "", False), ("sqnr_db", "dB", False),
    ],
)  # fmt: skip
def test_which_numbers_come_from_the_clock(metric: str, unit: str, expected: bool) -> None:
    assert is_emulated(metric, unit, "wall") is expected
    assert not is_emulated(metric, unit, None)

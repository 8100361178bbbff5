"""Devices by tag: any one of them, or each."""

from __future__ import annotations

from pathlib import Path

import pytest
from scratch_lab import LabShell

from qpipe.errors import RecipeError
from qpipe.recipe import inventory
from qpipe.stages import registry
from qpipe.storage.results import Store
from qpipe_devices import local

DEVICES = """
one: {'null': {}, tags: [shelf, x86]}
two: {'null': {}, tags: [shelf]}
arm: {'null': {arch: aarch64}, tags: [pi]}
"""


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> LabShell:
    shell = LabShell(tmp_path, monkeypatch, capsys)
    shell.lab.write("devices.yaml", DEVICES)
    return shell


def devices(qpipe: LabShell) -> set[str]:
    """Those on which the newest run measured."""
    return {row["device"] for row in qpipe.json("pareto")["rows"]}


def test_a_pool_is_any_one_of_its_devices_or_each(qpipe: LabShell) -> None:
    qpipe("run recipe.yaml --device tag:shelf")
    assert devices(qpipe) == {"one"}
    qpipe("run recipe.yaml --device all:shelf --device tag:pi")
    assert devices(qpipe) == {"one", "two", "arm"}
    qpipe.lab.edit("recipe.yaml", "devices: [one]", "devices: [tag:shelf, tag:shelf, tag:pi]")
    qpipe("run recipe.yaml")
    assert devices(qpipe) == {"one", "arm"}
    assert qpipe.json("devices list")[0]["tags"] == ["shelf", "x86"]


def test_a_bad_device_is_passed_over_for_its_twin(qpipe: LabShell) -> None:
    with Store(Path(".qpipe/results.db")) as store:
        store.record_event("one", event="health", now="bad", why="its fan is dead")
    assert "two" in qpipe("plan recipe.yaml --device tag:shelf")[0]
    _, said = qpipe("run recipe.yaml --device tag:shelf")
    assert "tag:shelf: one is bad: its fan is dead; passed over\n" in said
    assert devices(qpipe) == {"two"}
    with Store(Path(".qpipe/results.db")) as store:
        store.record_event("two", event="health", now="bad", why="its card is worn")
    _, said = qpipe("run recipe.yaml --device tag:shelf --new", 1)
    assert "qpipe: one: bad since " in said


def test_a_busy_device_is_passed_over_for_its_twin(qpipe: LabShell, tmp_path: Path) -> None:
    entry = f"{{local: {{folder: {tmp_path / 'board'}}}, tags: [shelf]}}"
    qpipe.lab.edit("devices.yaml", "one: {'null': {}, tags: [shelf, x86]}", f"one: {entry}")
    user = local("user", folder=tmp_path / "board")
    user.purpose = "run r1 of theirs.yaml"
    user.capabilities()
    try:
        _, said = qpipe("run recipe.yaml --device tag:shelf")
    finally:
        user.close()
    assert "tag:shelf: one: busy: held by " in said
    assert "(run r1 of theirs.yaml); passed over\n" in said
    assert devices(qpipe) == {"two"}


def test_a_run_that_goes_on_stays_with_its_device(qpipe: LabShell) -> None:
    with Store(Path(".qpipe/results.db")) as store:
        store.record_event("one", event="health", now="bad", why="its fan is dead")
    qpipe.lab.edit("recipe.yaml", "{snap: {bits", "{snap: {fail: broken, bits")
    qpipe("run recipe.yaml --device tag:shelf", 1)
    qpipe("devices clear one")
    qpipe("run recipe.yaml --device tag:shelf", 1)
    assert len(qpipe.json("runs")) == 1
    assert devices(qpipe) == {"two"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tag:shelves", "devices.yaml: no device has the tag 'shelves'; there is pi, shelf, x86"),
        ("all:../x", "--device: tag name '../x' is not allowed; use letters, digits, '.', '_' and '-'"),
    ],
)  # fmt: skip
def test_a_pool_that_is_none(word: str, message: str, qpipe: LabShell) -> None:
    assert f"qpipe: {message}\n" in qpipe(f"run recipe.yaml --device {word}", 2)[1]


def test_tags_are_names(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("one: {'null': {}, tags: [{a: b}]}", encoding="utf-8")
    message = "d.yaml:1: tags is \\[\\{'a': 'b'\\}\\]; give a list of names, such as \\[rpi4\\]"
    with pytest.raises(RecipeError, match=message):
        inventory.load(file, registry.load())

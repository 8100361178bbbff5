"""`qpipe devices`: which inventory it reads, and that a device can be cleaned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qpipe import inventory, registry
from shell import Shell

CONTENT = 3_000_000
Runs = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose device `board` is this machine, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text(f"board: {{local: {{folder: {tmp_path / 'board'}}}}}\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def qpipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runs:
    return Shell(monkeypatch, capsys).run


def store(here: Path) -> Path:
    """Store a file of 3 MB on the board, twice in a folder; where it lies."""
    folder = here / "large"
    folder.mkdir()
    for name in ("one", "other"):
        (folder / name).write_bytes(b"x" * CONTENT)
    device = inventory.open_device("board", inventory.load(Path("devices.yaml"), registry.load())["board"])
    try:
        return Path(device.store(folder, lambda done, total=None, unit="": None).path)
    finally:
        device.close()


def test_clean_frees_a_device_and_says_how_much(qpipe: Runs, here: Path) -> None:
    stored = store(here)
    assert qpipe("devices", "clean", "board") == ("board: 3.0 MB freed\n", "")
    assert not stored.exists()
    (entry,) = json.loads(qpipe("devices", "clean", "board", "--json")[0])
    assert entry == {"name": "board", "freed_mb": 0.0, "error": None}


def test_clean_names_the_device_that_does_not_answer_and_cleans_the_others(qpipe: Runs, here: Path) -> None:
    with Path("devices.yaml").open("a", encoding="utf-8") as file:
        file.write("dead: {local: {python: /nowhere/python3, folder: dead}}\n")
    store(here)
    out, err = qpipe("devices", "clean", "dead", "board", status=1)
    assert out == "board: 3.0 MB freed\n"
    assert err.startswith("qpipe: dead: '/nowhere/python3' does not start")


def test_clean_wants_a_device_that_is_in_the_inventory(qpipe: Runs) -> None:
    assert "Missing argument" in qpipe("devices", "clean", status=2)[1]
    _, err = qpipe("devices", "clean", "bord", status=2)
    assert err.startswith("qpipe: devices.yaml: no device 'bord'; did you mean 'board'?")


def test_the_inventory_here_comes_before_that_of_the_recipes(qpipe: Runs) -> None:
    def listed(*words: str) -> list[str]:
        return [device["name"] for device in json.loads(qpipe("devices", "list", "--json", *words)[0])]

    Path("recipes").mkdir()
    Path("recipes/devices.yaml").write_text("lab: 'null'\n", encoding="utf-8")
    assert listed() == ["board", "local"]
    assert listed("--inventory", "recipes/devices.yaml") == ["lab", "local"]
    Path("devices.yaml").unlink()
    assert listed() == ["lab", "local"]

"""`qpipe devices`: which inventory it reads, and that a device can be cleaned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qpipe.cli.device_entries import describe_integer_support
from qpipe.recipe import inventory
from qpipe.stages import registry
from shell import Shell

CONTENT = 3_000_000
Runs = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose device `board` is this machine, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text(
        f"board: {{local: {{folder: {tmp_path / 'board'}}}}}\n", encoding="utf-8"
    )
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
    device = inventory.open_device(
        "board", inventory.load(Path("devices.yaml"), registry.load())["board"]
    )
    try:
        return Path(device.store(folder, lambda done, total=None, unit="": None).path)
    finally:
        device.close()


def test_clean_frees_a_device_and_says_how_much(qpipe: Runs, here: Path) -> None:
    stored = store(here)
    assert qpipe("devices", "clean", "board") == ("board: 3.0 MB freed\n", "")
    assert not stored.exists()
    (entry,) = json.loads(qpipe("devices", "clean", "board", "--json")[0])
    assert entry == {"name": "board", "freed_mb": 0.0, "dry_run": False, "error": None}


def test_clean_names_the_device_that_does_not_answer_and_cleans_the_others(
    qpipe: Runs, here: Path
) -> None:
    with Path("devices.yaml").open("a", encoding="utf-8") as file:
        file.write("dead: {local: {python: /nowhere/python3, folder: dead}}\n")
    store(here)
    out, err = qpipe("devices", "clean", "dead", "board", status=1)
    assert out == "board: 3.0 MB freed\n"
    assert err.startswith("qpipe: dead: '/nowhere/python3' does not start")


def test_clean_wants_a_device_that_is_in_the_inventory(qpipe: Runs) -> None:
    assert "missing argument" in qpipe("devices", "clean", status=2)[1]
    _, err = qpipe("devices", "clean", "bord", status=2)
    assert err.startswith("qpipe: devices.yaml: no device 'bord'; did you mean 'board'?")


def test_the_inventory_here_comes_before_that_of_the_recipes(qpipe: Runs) -> None:
    def listed(*words: str) -> list[str]:
        return [
            device["name"] for device in json.loads(qpipe("devices", "list", "--json", *words)[0])
        ]

    Path("recipes").mkdir()
    Path("recipes/devices.yaml").write_text("lab: 'null'\n", encoding="utf-8")
    assert listed() == ["board", "local"]
    assert listed("--inventory", "recipes/devices.yaml") == ["lab", "local"]
    Path("devices.yaml").unlink()
    assert listed() == ["lab", "local"]


def test_clean_takes_age_size_and_a_dry_run(qpipe: Runs, here: Path) -> None:
    stored = store(here)
    assert qpipe("devices", "clean", "board", "--dry-run") == ("board: 3.0 MB would be freed\n", "")
    assert qpipe("devices", "clean", "board", "--older-than", "1") == ("board: 0.0 MB freed\n", "")
    assert qpipe("devices", "clean", "board", "--keep-mb", "4") == ("board: 0.0 MB freed\n", "")
    assert stored.exists()
    (entry,) = json.loads(qpipe("devices", "clean", "board", "--keep-mb", "2", "--json")[0])
    assert entry == {"name": "board", "freed_mb": 3.0, "dry_run": False, "error": None}
    assert not stored.exists()


def test_check_says_what_is_ready_line_by_line(qpipe: Runs) -> None:
    out, _ = qpipe("devices", "check", "board")
    words = [line.split()[:3] for line in out.splitlines()]
    found = {what: state for _, state, what in words}
    assert {name for name, _, _ in words} == {"board:"}
    assert {
        "connection",
        "python",
        "numpy",
        "runtime",
        "folder",
        "space",
        "clock",
        "agent",
        "cpu",
    } <= set(found)
    assert "bad" not in found.values()


def test_check_shows_who_has_the_device_and_list_remembers(qpipe: Runs, here: Path) -> None:
    device = inventory.open_device(
        "board", inventory.load(Path("devices.yaml"), registry.load())["board"]
    )
    device.capabilities()
    try:
        (entry,) = json.loads(qpipe("devices", "check", "board", "--json")[0])
    finally:
        device.close()
    (held,) = [each for each in entry["findings"] if each["what"] == "holder"]
    assert held["state"] == "warning"
    assert held["said"].startswith("busy: held by ")
    (listed, _) = json.loads(qpipe("devices", "list", "--json")[0])
    assert held["said"].endswith(listed["holder"])
    qpipe("devices", "check", "board")
    (listed, _) = json.loads(qpipe("devices", "list", "--json")[0])
    assert listed["holder"] is None


def test_a_device_that_is_not_ready_is_status_1_and_the_others_are_checked(qpipe: Runs) -> None:
    with Path("devices.yaml").open("a", encoding="utf-8") as file:
        file.write("dead: {local: {python: /bin/false, folder: dead}}\nnothing: 'null'\n")
    out, err = qpipe("devices", "check", "dead", "nothing", status=1)
    assert "nothing: ok      agent" in out
    assert (
        err
        == "qpipe: dead: not ready: python: '/bin/false' does not run there: it prints nothing; "
        "set python to one of 3.8 or newer\n"
    )


def test_setup_of_what_has_all_sends_nothing_and_proves_it(qpipe: Runs) -> None:
    found = json.loads(qpipe("devices", "setup", "board", "--json")[0])
    assert (found["ready"], found["sent_bytes"], found["error"]) == (True, 0, None)
    assert [step["what"] for step in found["steps"]] == ["python", "runtime", "proof"]


def test_setup_says_in_a_line_why_it_cannot(qpipe: Runs) -> None:
    Path("devices.yaml").write_text("nothing: 'null'\n", encoding="utf-8")
    out, err = qpipe("devices", "setup", "nothing", status=1)
    assert (out, err) == ("", "qpipe: nothing: a device of kind null cannot be set up by qpipe\n")
    assert (
        "leave out --wheels and"
        in qpipe("devices", "setup", "x", "--use-system-runtime", "--runtime", "y", status=2)[1]
    )


def test_list_says_what_the_cpu_does_for_integers() -> None:
    assert describe_integer_support("x86_64", ("avx2", "avx512_vnni")) == "VNNI"
    assert describe_integer_support("x86_64", ("avx2",)) == "no VNNI"
    assert describe_integer_support("aarch64", ("asimd", "asimddp", "i8mm")) == "dot product, i8mm"
    assert describe_integer_support("aarch64", ("asimd",)) == "no dot product"
    assert describe_integer_support("riscv64", ()) == ""

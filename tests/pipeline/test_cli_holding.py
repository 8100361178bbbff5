"""`qpipe devices hold` and `release`: a board for a human; `power`: nobody else's is switched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qpipe.cli.durations import parse_duration
from qpipe.engine import device_health
from qpipe.errors import RecipeError
from qpipe.recipe import inventory
from qpipe.stages import registry
from shell import Shell

Runs = Callable[..., tuple[str, str]]


@pytest.fixture
def qpipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Runs:
    monkeypatch.chdir(tmp_path)
    inventory = f"board: {{local: {{folder: {tmp_path / 'board'}}}}}\nnone: 'null'\n"
    Path("devices.yaml").write_text(inventory, encoding="utf-8")
    return Shell(monkeypatch, capsys).run


def test_a_hold_outlives_its_command_keeps_others_off_and_is_released(qpipe: Runs) -> None:
    said, _ = qpipe("devices", "hold", "board", "--for", "2h", "--reason", "a new fan")
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
    end = "end it with: qpipe devices release board"
    assert re.fullmatch(rf"board: held by \S+@\S+ since {time} until {time}; {end}\n", said)
    (row, _, _) = json.loads(qpipe("devices", "list", "--json")[0])
    assert re.fullmatch(rf"\S+@\S+ since {time} until {time} \(a new fan\)", row["holder"])
    _, error = qpipe("devices", "clean", "board", status=1)
    assert re.fullmatch(
        rf"qpipe: board: busy: held by \S+ since {time} until {time} \(a new fan\)\n", error
    )
    assert json.loads(qpipe("devices", "hold", "board", "--json")[0])["reason"] == ""
    assert qpipe("devices", "release", "board")[0] == "board: released\n"
    assert qpipe("devices", "release", "board")[0] == "board: was not held\n"
    assert json.loads(qpipe("devices", "list", "--json")[0])[0]["holder"] is None
    assert "a new fan" in qpipe("devices", "log", "board")[0]
    expected = "qpipe: bord: there are no records of this device; did you mean 'board'?\n"
    assert qpipe("devices", "log", "bord", status=2)[1] == expected
    assert qpipe("devices", "clean", "board")[1] == ""


def test_what_runs_nothing_cannot_be_held(qpipe: Runs) -> None:
    assert (
        "it runs nothing, there is nothing to hold" in qpipe("devices", "hold", "none", status=1)[1]
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("2h", 7200), ("1.5d", 129600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration("--for", text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "0h", "2 weeks"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(
        RecipeError,
        match=r"^--for '.*': not a duration; give a number and s, m, h or d, such as 2h$",
    ):
        parse_duration("--for", text)


@pytest.fixture
def switched(qpipe: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The board has a switch that leaves a file; it goes on answering."""
    power = "power: {command: {off: touch off, on: touch on}}"
    text = (
        Path("devices.yaml")
        .read_text(encoding="utf-8")
        .replace("board: {", f"board: {{{power}, ", 1)
    )
    Path("devices.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(device_health, "SILENCE_S", 0.1)
    return qpipe


@pytest.mark.parametrize("action", ["off", "cycle"])
def test_the_current_of_a_board_in_use_is_left_on_and_its_user_named(
    action: str, switched: Runs
) -> None:
    file = Path("devices.yaml")
    user = inventory.open_device("board", inventory.load(file, registry.load())["board"])
    try:
        user.capabilities()  # from here on it has the board
        _, error = switched("devices", "power", "board", action, status=1)
    finally:
        user.close()
    fix = "wait for its end, or cut it off with --force"
    assert re.fullmatch(rf"qpipe: board: busy: held by \S+@\S+ [^\n]*; {fix}\n", error)
    assert not Path("off").exists()
    assert not Path("on").exists()


def test_a_board_in_use_is_switched_by_force(switched: Runs) -> None:
    switched("devices", "hold", "board", "--reason", "a new fan")
    assert "a new fan" in switched("devices", "power", "board", "off", status=1)[1]
    _, error = switched("devices", "power", "board", "off", "--force", status=1)
    assert error.startswith("qpipe: board: its power switch does not switch it: ")
    assert Path("off").exists()
    switched("devices", "release", "board")
    log = json.loads(switched("devices", "log", "board", "--json")[0])
    assert [event["why"].partition(", ")[2] for event in log if event["event"] == "power"] == [
        "by force"
    ]

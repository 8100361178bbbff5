"""The progress of a run: lanes on a terminal, a line a step and one a minute elsewhere, nothing where it is quiet."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from scratch_lab import LabShell

from qpipe.cli import progress_display
from qpipe.cli.progress_display import LineDisplay, LiveDisplay
from qpipe.engine.events import Event
from waiting import wait_until


@pytest.fixture
def qpipe(tmp_path, monkeypatch, capsys) -> LabShell:
    return LabShell(tmp_path, monkeypatch, capsys)


def shown_by(display: LiveDisplay) -> list[str]:
    """The lanes as a terminal of 100 columns shows them."""
    console = Console(file=io.StringIO(), width=100)
    console.print(display.render())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def progress(step: str, done: float, total: float, device: str = "") -> Event:
    coordinates = {"device": device} if device else {}
    return Event(
        step, "progress", seconds=10, done=done, total=total, unit="rounds", coordinates=coordinates
    )


def test_a_terminal_shows_a_lane_for_the_host_and_for_each_device() -> None:
    display = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=100))
    display.event(Event("", "planned", total=27))
    display.event(progress("net/log4/compensate", 5, 10))
    display.event(progress("pi4/latency", 6, 24, device="pi4"))
    display.event(Event("net/import", "done", seconds=1.0))
    display.event(Event("pi5/latency", "retry", message="pi5: lost", coordinates={"device": "pi5"}))
    headline, host, board, warning = shown_by(display)
    assert re.match(r"1 of 27 steps, 0:\d\d, [\d.]+ of [\d.]+ GB of memory free$", headline)
    assert host.startswith("host  net/log4/compensate")
    assert host.endswith("5/10 rounds, 0.5 rounds/s, 10 s left")
    assert board.startswith("pi4   pi4/latency")
    assert board.endswith("6/24 rounds, 0.6 rounds/s, 30 s left")
    assert warning == "last warning: pi5/latency: pi5: lost"
    display.event(Event("pi4/latency", "done", coordinates={"device": "pi4"}))
    assert [line for line in shown_by(display) if line.startswith("pi4")] == ["pi4   -"]


def test_a_log_has_one_line_on_all_that_runs_after_a_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress_display, "MAX_SILENCE_S", 0.4)
    monkeypatch.setattr(progress_display, "POLL_S", 0.05)
    file = io.StringIO()
    with LineDisplay(Console(file=file, width=200)) as display:
        display.event(Event("", "planned", total=3))
        display.event(progress("a", 1, 2))
        display.event(progress("b", 3, 4))
        assert wait_until(lambda: file.getvalue().count("\n") >= 1)
    line = file.getvalue().splitlines()[0]
    assert line == (
        "0 of 3 steps; a: 1/2 rounds, 0.1 rounds/s, 10 s left; "
        "b: 3/4 rounds, 0.3 rounds/s, 3 s left"
    )
    assert progress_display.MAX_SILENCE_S < 60


def test_a_silence_is_a_minute() -> None:
    assert progress_display.MAX_SILENCE_S == 60


def test_quiet_prints_the_results_alone_and_verbose_what_steps_log(qpipe: LabShell) -> None:
    qpipe.lab.edit(
        "recipe.yaml", '{snap: {bits: "${bits}"}}', "{snap: {say: hello from the stage}}"
    )
    out, err = qpipe("run recipe.yaml --quiet")
    assert err == ""
    assert "tiny on one" in out
    _, err = qpipe("cache clean")
    _, err = qpipe("run recipe.yaml --new -v")
    lines = err.splitlines()
    assert "  hello from the stage" in lines
    assert lines[lines.index("  hello from the stage") - 1].startswith("tiny/snapped/snap: done")

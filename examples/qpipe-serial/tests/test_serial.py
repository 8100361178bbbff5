"""The driver against a board in a process of its own, behind a pseudo-terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import qpipe
from qpipe import testing
from qpipe_serial import multiplexer, serial

Board = Callable[..., str]


@pytest.fixture
def board() -> Iterator[Board]:
    """Starts boards; returns the port at the host's end of the line."""
    boards: list[subprocess.Popen[str]] = []

    def start(password: str = "") -> str:
        program = Path(__file__).with_name("board.py")
        process = subprocess.Popen(
            [sys.executable, program, password], stdout=subprocess.PIPE, text=True
        )
        boards.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in boards:
        process.kill()  # the shell ends with its terminal
        process.communicate()


def open_device(port: str, folder: Path, **options: object) -> qpipe.Device:
    return serial("board", port=Path(port), python=sys.executable, folder=str(folder), **options)


def test_it_conforms(board: Board, tmp_path: Path) -> None:
    options = {"port": board(), "python": sys.executable, "folder": str(tmp_path / "files")}
    results = [check.result() for check in testing.checks("device", "serial", options=options)]
    assert {result.state for result in results} == {"ok"}, results


def test_it_logs_in(board: Board, tmp_path: Path) -> None:
    device = open_device(board("secret"), tmp_path, user="root", password="secret")
    assert device.capabilities().cores > 0
    device.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "board: the console asks for a login; set user and password"),
        (
            {"baud": 115201},
            "board: 115201 baud is no speed of this system; give one such as 115200",
        ),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    options, message, board: Board, tmp_path: Path
) -> None:
    with pytest.raises(qpipe.DeviceError) as error:
        open_device(board("secret"), tmp_path, **options).capabilities()
    assert str(error.value) == message


def test_a_port_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(qpipe.DeviceError) as error:
        open_device(str(tmp_path), tmp_path).capabilities()
    expected = f"board: {tmp_path} cannot be used: Is a directory; give the port of a line"
    assert str(error.value) == expected


def test_a_host_that_left_without_a_word_is_followed_by_the_next(
    board: Board, tmp_path: Path
) -> None:
    port = board()
    left = open_device(port, tmp_path / "one")
    left.capabilities()
    console = left.transport._console
    console._lose("the host was killed")
    console.reader.join()  # a killed host reads nothing any more
    later = open_device(port, tmp_path / "two")
    assert later.capabilities().cores > 0
    later.close()


def test_lines_are_told_from_noise_and_damage() -> None:
    line = multiplexer.line_of("out", 3, b"\x00\xff")
    assert multiplexer.read_line(line) == ("out", 3, b"\x00\xff")
    assert multiplexer.read_line("[    3.14] usb 1-1: new device\n") is None
    with pytest.raises(ValueError, match="a line arrived damaged"):
        multiplexer.read_line(line.replace("out", "err"))

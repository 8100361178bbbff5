"""Boards for tests: each as it was right after setup, in a second; they are built and set up once, then kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import virtual_board
from building import TOOLS, BoardError, check_tools
from virtual_board import Board, Machine

QPIPE = Path(sys.executable).with_name("qpipe")
Start = Callable[..., Board]


def _missing() -> str:
    """Why there is no board here; nothing where there is one, or can be."""
    built = (virtual_board.home() / "debian/disk.img").exists()
    try:
        check_tools(virtual_board.TOOLS if built else {**virtual_board.TOOLS, **TOOLS})
    except BoardError as error:
        return str(error)
    return (
        ""
        if built or os.getuid() == 0
        else "a board is built by root: run python tests/board/board.py build"
    )


@pytest.fixture
def start_board(tmp_path: Path) -> Iterator[Start]:
    """Starts a board of a machine, by default with a Cortex-A76, set up and ready."""
    if reason := _missing():
        pytest.skip(reason)
    boards: list[Board] = []

    def start(**fields: object) -> Board:
        machine = Machine(**fields)  # type: ignore[arg-type]
        name, snapshot = (
            f"test-{os.getpid()}-{len(boards)}",
            f"test-{machine.cpu}-{machine.cores}-{machine.counted}",
        )
        if virtual_board.saved(snapshot) != machine:
            boards.append(virtual_board.boot(name, machine))
            set_up(boards[-1], tmp_path)
            boards[-1].save(snapshot)
            return boards[-1]
        boards.append(virtual_board.boot(name, snapshot=snapshot))
        return boards[-1]

    yield start
    for board in boards:
        board.remove()


def set_up(board: Board, folder: Path) -> str:
    """What `qpipe devices setup` says of it."""
    inventory = folder / f"{board.folder.name}.yaml"
    inventory.write_text(json.dumps(board.entry("virtual-arm64")), encoding="utf-8")
    command = [
        QPIPE,
        "devices",
        "setup",
        "virtual-arm64",
        "--inventory",
        inventory,
        "--db",
        folder / "setup.db",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout

"""The tool that makes boards: what it says of what is missing, and what qpipe makes of its line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import virtual_board
from building import BoardError, check_tools
from virtual_board import Board, Machine

from qpipe.recipe import inventory
from qpipe.stages import registry

TOOL = Path(__file__).with_name("board.py")


def test_what_is_missing_comes_with_the_command_that_installs_it() -> None:
    with pytest.raises(BoardError) as error:
        check_tools({"no-such-tool": "b-package", "nor-this": "a-package", "sh": "dash"})
    assert (
        str(error.value)
        == "missing: a-package, b-package; run: apt-get install a-package b-package"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["save"], "board: no board 'virtual-arm64' runs; boot it\n"),
        (["--name", "x", "on"], "board: there is no board 'x'; boot it\n"),
    ],
)
def test_a_board_that_is_not_there_is_told_in_one_line(
    words: list[str], line: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, TOOL, *words],
        capture_output=True,
        text=True,
        env={"QPIPE_BOARD": str(tmp_path)},
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", line)


def test_its_line_of_the_inventory_is_one_that_qpipe_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QPIPE_BOARD", str(tmp_path))
    board = Board(virtual_board.home() / "boards/b", Machine(counted=True), 2222)
    (tmp_path / "devices.yaml").write_text(json.dumps(board.entry("b")), encoding="utf-8")
    call = inventory.load(tmp_path / "devices.yaml", registry.load())["b"]
    assert (call.options["port"], call.beside["emulated"]) == (2222, "instructions")


def test_counting_instructions_is_what_qemu_is_told() -> None:
    assert Machine("cortex-a53", 1, 512, counted=True).arguments() == [
        "-cpu", "cortex-a53", "-smp", "1", "-m", "512", "-accel", "tcg,thread=single", "-icount", "shift=0",
    ]  # fmt: skip
    assert "-icount" not in Machine().arguments()

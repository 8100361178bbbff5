"""A virtual ARM64 board to try qpipe on without hardware: `python tests/board/board.py boot > devices.yaml`.

Standard output is the board's entry of devices.yaml, or what was asked for; the rest goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable

import virtual_board
from building import BoardError
from virtual_board import Board, Machine


def main() -> None:
    """One command."""
    given = parser().parse_args()
    try:
        COMMANDS[given.command](given)
    except BoardError as error:
        sys.exit(f"board: {error}")


def parser() -> argparse.ArgumentParser:
    """What can be asked."""
    parser = argparse.ArgumentParser("board.py", description=__doc__)
    parser.add_argument("--name", default="virtual-arm64", help="of several boards, which")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "build", help="its disk and kernel, from Debian packages; root, three minutes"
    )
    boot = commands.add_parser("boot", help="start a new one; built first where it is not")
    boot.add_argument(
        "--cpu",
        default=Machine.cpu,
        help="cortex-a53: no dot product; cortex-a76: dot product; max",
    )
    boot.add_argument("--cores", type=int, default=Machine.cores)
    boot.add_argument("--memory-mb", type=int, default=Machine.memory_mb)
    boot.add_argument(
        "--icount",
        action="store_true",
        help="an instruction takes 1 ns: repeatable, no device's time",
    )
    boot.add_argument("--port", type=int, help="of this computer; a free one unless given")
    save = commands.add_parser("save", help="keep a running board as it is")
    save.add_argument("snapshot", nargs="?", default="ready")
    restore = commands.add_parser(
        "restore", help="start one as it was when it was saved, in a second"
    )
    restore.add_argument("snapshot", nargs="?", default="ready")
    restore.add_argument("--port", type=int)
    commands.add_parser("stop", help="shut it down")
    commands.add_parser("kill", help="cut its power")
    commands.add_parser("on", help="give its power back: start from what its disk holds")
    ssh = commands.add_parser("ssh", help="a shell there, or a command")
    ssh.add_argument("--user", default="root", help="root or edge")
    ssh.add_argument("words", nargs=argparse.REMAINDER)
    qmp = commands.add_parser(
        "qmp", help="a command to QEMU: stop, cont, set_link name=n0 up=false"
    )
    qmp.add_argument("execute")
    qmp.add_argument("arguments", nargs="*", metavar="NAME=VALUE")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _build(_given: argparse.Namespace) -> None:
    virtual_board.prepare(_say)


def _boot(given: argparse.Namespace) -> None:
    machine = Machine(given.cpu, given.cores, given.memory_mb, given.icount)
    _show(virtual_board.boot(given.name, machine, port=given.port))


def _restore(given: argparse.Namespace) -> None:
    _show(virtual_board.boot(given.name, snapshot=given.snapshot, port=given.port))


def _show(board: Board) -> None:
    for name, entry in board.entry(board.folder.name).items():
        print(f"{name}: {json.dumps(entry)}")
    _say(f"{board.machine.cpu} answers on port {board.port}, QEMU is process {board.pid}")


def _found(given: argparse.Namespace) -> Board:
    board = virtual_board.running(given.name)
    if board is None:
        raise BoardError(f"no board '{given.name}' runs; boot it")
    return board


def _known(given: argparse.Namespace) -> Board:
    """It may be switched off: a switch that is off already is no mistake."""
    board = virtual_board.find(given.name)
    if board is None:
        raise BoardError(f"there is no board '{given.name}'; boot it")
    return board


def _on(given: argparse.Namespace) -> None:
    board = _known(given)
    board.kill()
    board.power_on()


def _save(given: argparse.Namespace) -> None:
    _say(f"saved: {_found(given).save(given.snapshot)}")


def _ssh(given: argparse.Namespace) -> None:
    command = [*_found(given).ssh_command(given.user), *given.words]
    os.execvp(command[0], command)


def _qmp(given: argparse.Namespace) -> None:
    pairs = (text.partition("=") for text in given.arguments)
    words = {"true": True, "false": False}
    arguments = {name: words.get(value, value) for name, _, value in pairs}
    print(json.dumps(_found(given).qmp(given.execute, **arguments)))


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "build": _build, "boot": _boot, "save": _save, "restore": _restore, "ssh": _ssh, "qmp": _qmp, "on": _on,
    "stop": lambda given: _known(given).stop(), "kill": lambda given: _known(given).kill(),
}  # fmt: skip

if __name__ == "__main__":
    main()

"""The driver: the options of devices.yaml, and a transport over the console."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

import qpipe
from qpipe.types import Process
from qpipe_devices.board import Board
from qpipe_serial.console import Console, Login

WRITE_FILE = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, open(sys.argv[1], 'wb'))"
READ_FILE = "import shutil, sys; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer)"
TRANSFER_S = 60.0  # that a transfer may stand still

Baud = Annotated[int, Field(ge=1200, le=4_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def serial(
    name: str,
    *,
    port: Path,
    baud: Baud = 115200,
    user: str = "",
    password: str = "",
    python: str = "python3",
    folder: str = ".qpipe",
    deadline_s: Seconds = 120,
    min_free_mb: Annotated[float, Field(ge=0)] = 64,
) -> qpipe.Device:
    """A Linux board on a serial console, with Python 3.8 or newer and numpy.

    `port` is the line at this machine. `user` and `password` answer the console where it asks for a
    login. `python` and `folder` are those on the board; on its disk `min_free_mb` stay free.
    `deadline_s` limits each inference and each load of a model.
    """
    login = Login(user, password, python)
    return Board(
        name,
        SerialTransport(name, port, baud, login),
        python=python,
        folder=folder,
        deadline_s=deadline_s,
        min_free_mb=min_free_mb,
    )


class SerialTransport:
    """Processes and files of the board; paths are relative to the home folder."""

    def __init__(self, name: str, port: Path, baud: int, login: Login) -> None:
        self.name = name
        self.port = port
        self.baud = baud
        self.login = login
        self._console: Console | None = None

    def start(self, argv: Sequence[str]) -> Process:
        """Start a process, connecting first where there is no connection."""
        if self._console is None or self._console.lost:
            self.close()
            self._console = Console(self.name, self.port, self.baud, self.login)
        return self._console.start(argv)

    def put(self, source: Path, path: str, progress: qpipe.Progress) -> None:
        """Copy a file to the board, by a process there that writes what it reads."""
        process = self.start([self.login.python, "-c", WRITE_FILE, path])
        size = source.stat().st_size
        try:
            with source.open("rb") as file:
                while content := file.read(1 << 14):
                    process.stdin.write(content)
                    progress(file.tell(), size, "B")
            process.stdin.close()
            self._check_end(process, path)
        except (OSError, TimeoutError) as error:
            raise self._transfer_error(path, str(error)) from error

    def get(self, path: str, target: Path) -> None:
        """Copy a file from the board."""
        process = self.start([self.login.python, "-c", READ_FILE, path])
        try:
            with target.open("wb") as file:
                shutil.copyfileobj(process.stdout, file)
            self._check_end(process, path)
        except (OSError, TimeoutError) as error:
            raise self._transfer_error(path, str(error)) from error

    def close(self) -> None:
        """Leave the console as it was: at the prompt of the shell."""
        if self._console is not None:
            self._console.close()
        self._console = None

    def _check_end(self, process: Process, path: str) -> None:
        if process.wait(TRANSFER_S) != 0:
            lines = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1] if lines else "it ended without a reason"
            raise self._transfer_error(path, reason)

    def _transfer_error(self, path: str, reason: str) -> qpipe.DeviceError:
        is_full = "No space left" in reason
        fix = "free some space there" if is_full else "look at the line, and run again to continue"
        return qpipe.DeviceError(
            f"{self.name}: {Path(path).name} could not be copied: {reason}; {fix}",
            failure="no room" if is_full else "died",
        )

"""The machine qpipe runs on, behind the same agent as any board."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from qpipe.errors import DeviceError, Failure
from qpipe.stages.bounds import Seconds
from qpipe.types import Device, Process, Progress
from qpipe_devices.agent import failures
from qpipe_devices.board import Board

FOLDER = Path("~/.cache/qpipe/device")


def local(
    name: str,
    *,
    python: str = "",
    folder: Path | None = None,
    deadline_s: Seconds = 120,
    spare_mb: float = 64,
    lock: str = "",
    sysfs: Path | None = None,
) -> Device:
    """This machine, with the Python that runs qpipe unless `python` names another.

    What it stores lies in `folder`, ~/.cache/qpipe/device unless given. Devices that name the same `lock`, a file, are
    used one at a time, whatever their folders. `sysfs` is the folder that holds its sys and
    proc, / unless given.
    """
    own = str((folder or FOLDER).expanduser().absolute())
    transport = LocalTransport(name)
    return Board(
        name,
        transport,
        python=python or sys.executable,
        folder=own,
        deadline_s=deadline_s,
        spare_mb=spare_mb,
        shares_host=True,
        lock=lock,
        sysfs=sysfs,
    )


class LocalTransport:
    """Processes and files of this machine; paths are relative to the home folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, argv: Sequence[str]) -> Process:
        # a session of its own: Ctrl-C ends it by its stdin, after the host has said what it has to say
        try:
            return LocalProcess(
                subprocess.Popen(
                    list(argv),
                    cwd=Path.home(),
                    start_new_session=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        except OSError as error:
            reason = f"'{argv[0]}' does not start: {error.strerror}"
            fix = "set python to one that has numpy"
            raise DeviceError(f"{self.name}: {reason}; {fix}", failure="configuration") from error

    def put(self, source: Path, path: str, progress: Progress) -> None:
        try:
            shutil.copyfile(source, Path.home() / path)
        except OSError as error:
            raise self._not_copied(source.name, error) from error
        progress(source.stat().st_size, source.stat().st_size, "B")

    def get(self, path: str, target: Path) -> None:
        try:
            shutil.copyfile(Path.home() / path, target)
        except OSError as error:
            raise self._not_copied(path, error) from error

    def close(self) -> None:
        """There is no connection to close."""

    def _not_copied(self, file: str, error: OSError) -> DeviceError:
        failure = cast("Failure", failures.of(error))
        return DeviceError(
            f"{self.name}: {file} could not be copied: {error.strerror}", failure=failure
        )


class LocalProcess:
    """A process of this machine and the process group it leads."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self.stderr: IO[bytes] = process.stderr

    def wait(self, timeout: float) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def kill(self) -> None:
        # it may be gone (macOS says PermissionError of a zombie)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

"""The machine that qpipe runs on, behind the same agent as any board."""

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
from qpipe_devices.agent.failures import failure_of
from qpipe_devices.agent.mounts import mount_of
from qpipe_devices.board import Board

DEFAULT_FOLDER = Path("~/.cache/qpipe/device")


def local(
    name: str,
    *,
    python: str = "",
    folder: Path | None = None,
    deadline_s: Seconds = 120,
    min_free_mb: float = 64,
    lock: str = "",
    sysfs: Path | None = None,
) -> Device:
    """This machine, with the Python that runs qpipe unless `python` names another.

    `folder` is the folder for its files, ~/.cache/qpipe/device by default; on its disk
    `min_free_mb` stay free. `deadline_s` limits each inference and each load of a model. Devices
    that name the same file as `lock` are used one at a time, whatever their folders. `sysfs` is the
    folder that contains sys and proc, / by default.
    """
    return Board(
        name,
        LocalTransport(name),
        python=python or sys.executable,
        folder=str((folder or DEFAULT_FOLDER).expanduser().absolute()),
        deadline_s=deadline_s,
        min_free_mb=min_free_mb,
        shares_host=True,
        lock=lock,
        sysfs=sysfs,
    )


class LocalTransport:
    """Processes and files of this machine; paths are relative to the home folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, argv: Sequence[str]) -> Process:
        """Start a process in a session of its own.

        Ctrl-C does not reach it there: it ends with its stdin, after the host's last requests.
        """
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=Path.home(),
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise DeviceError(
                f"{self.name}: '{argv[0]}' does not start: {error.strerror}; "
                "set python to one that has numpy",
                failure="configuration",
            ) from error
        return LocalProcess(process)

    def put(self, source: Path, path: str, progress: Progress) -> None:
        """Copy a file."""
        self._copy(source, Path.home() / path, label=source.name)
        size = source.stat().st_size
        progress(size, size, "B")

    def get(self, path: str, target: Path) -> None:
        """Copy a file."""
        self._copy(Path.home() / path, target, label=path)

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _copy(self, source: Path, target: Path, *, label: str) -> None:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            failure = cast("Failure", failure_of(error))
            raise DeviceError(
                f"{self.name}: {label} could not be copied: {error.strerror} "
                f"(mounted at {mount_of(str(target.parent))})",
                failure=failure,
            ) from error


class LocalProcess:
    """A process of this machine, and the process group that it leads."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self.process = process
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self.stderr: IO[bytes] = process.stderr

    def wait(self, timeout: float) -> int:
        """Return its exit status; raise TimeoutError after `timeout` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def kill(self) -> None:
        """End the process and its group."""
        # it may be gone; macOS reports PermissionError for a zombie
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

"""Processes and files of a board over one SSH connection, every call with a deadline that holds."""

from __future__ import annotations

import secrets
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from paramiko import Channel, Transport
from paramiko.channel import ChannelFile, ChannelStderrFile, ChannelStdinFile
from paramiko.ssh_exception import SSHException

from qpipe.errors import DeviceError, Failure
from qpipe.types import Progress
from qpipe_devices.ssh.connection import Connection
from qpipe_devices.ssh.deadlines import Watch
from qpipe_devices.ssh.error_mapping import configured, mapped
from qpipe_devices.ssh.login import Login

PART = 1 << 18  # bytes a write
STALLED_S = 60.0  # a transfer that moves nothing for so long has failed
SLOWEST = 16e3  # bytes a second; one that crawls below that fails as well
KILLED_S = 3.0  # what may pass until a process is ended, else the line is cut
WINDOW = 1 << 24  # bytes that a download may be ahead: what a delayed link holds
FILE_FOLLOWS = b"qpipe-file-follows "
FULL = ("no space left on device", "disk quota exceeded")


class SshTransport:
    """Processes and files of a board over one SSH connection, opened when first needed and again when it was lost;
    paths are relative to the board's home folder. `find` gives the way in, asked at each connect."""

    def __init__(self, name: str, find: Callable[[], Login], silence_s: float = 30) -> None:
        self.name = name
        self.find = find
        self.silence_s = silence_s
        self.connection: Connection | None = None
        self.transport: Transport | None = None
        self.connecting = threading.Lock()

    def start(self, argv: Sequence[str]) -> SshProcess:
        return self._start(argv)

    def put(self, source: Path, path: str, progress: Progress) -> None:
        """Through `cat` rather than SFTP: as fast, it says why it fails, and small SSH servers have it too."""
        done = 0
        total = source.stat().st_size
        process = self._start(["sh", "-c", 'cat > "$1"', "sh", path])
        with source.open("rb") as file, self._transfer(source.name, process) as watch:
            watch.seconds += total / SLOWEST
            while part := file.read(PART):
                process.channel.sendall(part)
                watch.moved()
                done += len(part)
                progress(done, total, "B")
            process.channel.shutdown_write()
            self._end(source.name, process)

    def get(self, path: str, target: Path) -> None:
        script = f'echo; echo {FILE_FOLLOWS.decode()} $(wc -c < "$1"); cat "$1"'
        process = self._start(["sh", "-c", script, "sh", path], WINDOW)
        aside = target.with_name(f"{target.name}.part")
        try:
            with aside.open("wb") as file, self._transfer(path, process) as watch:
                size = _announced(process.stdout)
                watch.seconds += size / SLOWEST
                while part := process.stdout.read(PART):
                    watch.moved()
                    file.write(part)
                self._end(path, process)
                if file.tell() != size:
                    raise EOFError(f"{file.tell()} of {size} bytes came")
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def close(self) -> None:
        connection = self.connection
        self.connection = None
        self.transport = None
        if connection:
            connection.close()

    def _start(self, argv: Sequence[str], window: int | None = None) -> SshProcess:
        transport = self._connected()
        connection = self.connection
        assert connection is not None
        login = connection.login
        with (
            mapped(self.name, login, f"'{argv[0]}' was not started", connected=True),
            Watch(connection.close, login.timeout),
        ):
            channel = transport.open_session(window_size=window, timeout=login.timeout)
            mark = f"QPIPE_CALL={secrets.token_hex(8)}"
            channel.exec_command(shlex.join(["env", mark, *argv]))
        return SshProcess(channel, mark, connection.close)

    def _connected(self) -> Transport:
        with self.connecting:
            if self.transport is None or not self.transport.is_active():
                self.close()
                with configured(self.name):
                    connection = Connection(self.name, self.find(), self.silence_s)
                self.transport = connection.open()
                self.connection = connection
            return self.transport

    @contextmanager
    def _transfer(self, file: str, process: SshProcess) -> Iterator[Watch]:
        """Around a transfer: it ends in time, and its process with it."""
        try:
            with Watch(process.kill, STALLED_S, STALLED_S) as watch:
                yield watch
        except TimeoutError as error:
            reason = str(error) or f"nothing moved for {STALLED_S:g} s"
            fix = "check the line and the device's disk"
            raise DeviceError(
                f"{self.name}: {file} was not transferred: {reason}; {fix}", failure="timeout"
            ) from error
        except (OSError, EOFError, SSHException) as error:
            raise self._failed(file, process, str(error) or "the other side ended it") from error
        finally:
            process.kill()

    def _end(self, file: str, process: SshProcess) -> None:
        status = process.wait(STALLED_S)
        if status != 0:
            raise self._failed(
                file, process, f"status {status}" if status > 0 else "a signal ended it"
            )

    def _failed(self, file: str, process: SshProcess, reason: str) -> DeviceError:
        """Why: the last line that the board said of it, if it still can."""
        failure: Failure = "died"
        if process.is_lost:
            reason = "the connection was lost"
        else:
            process.channel.settimeout(1)
            with suppress(OSError):
                said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
                reason, failure = (said[-1], "configuration") if said else (reason, failure)
        if reason.lower().endswith(FULL):
            failure = "no room"
        return DeviceError(f"{self.name}: {file} was not transferred: {reason}", failure=failure)


class SshProcess:
    """A process on a board: a channel, the mark in its environment, and the connection that `cut` closes."""

    def __init__(self, channel: Channel, mark: str, cut: Callable[[], None]) -> None:
        self.channel = channel
        self.mark = mark
        self.cut = cut
        self.stdin = cast("IO[bytes]", _Stdin(channel, "wb"))
        self.stdout = cast("IO[bytes]", _Stdout(channel, "rb"))
        self.stderr = cast("IO[bytes]", _Stderr(channel, "rb"))

    @property
    def is_lost(self) -> bool:
        """The connection is gone, so nobody knows how it ended."""
        transport = self.channel.get_transport()
        if self.channel.exit_status < 0:
            transport.join(0.5)  # channels learn of the end a little before
        return self.channel.exit_status < 0 and not transport.is_active()

    def wait(self, timeout: float) -> int:
        """Its exit status, -1 where a signal ended it; ConnectionResetError where the connection was lost before."""
        if not self.channel.status_event.wait(timeout):
            raise TimeoutError
        status = self.channel.recv_exit_status()
        if status < 0 and self.is_lost:
            raise ConnectionResetError("the connection was lost")
        return status

    def kill(self) -> None:
        """End it and all it started, by the mark that they have inherited: SSH itself leaves them running."""
        transport = self.channel.get_transport()
        with suppress(TimeoutError, OSError, EOFError, SSHException), Watch(self.cut, KILLED_S):
            if not self.channel.status_event.is_set() and transport.is_active():
                killer = transport.open_session(timeout=KILLED_S)
                killer.exec_command(
                    f"grep -ls {self.mark} /proc/[0-9]*/environ | tr -dc '0-9\\n' | xargs kill -9"
                )
                killer.status_event.wait(KILLED_S)
                killer.close()
            self.channel.close()


class _Unbuffered:
    """paramiko's files flush when they are thrown away, perhaps from a buffer that was thrown away before; these have
    nothing to flush."""

    def __del__(self) -> None:
        pass


class _Stdin(_Unbuffered, ChannelStdinFile):
    pass


class _Stdout(_Unbuffered, ChannelFile):
    pass


class _Stderr(_Unbuffered, ChannelStderrFile):
    pass


def _announced(stream: IO[bytes]) -> int:
    """The size that stands before the file, after whatever a login shell prints."""
    for line in iter(stream.readline, b""):
        if line.startswith(FILE_FOLLOWS):
            word = line[len(FILE_FOLLOWS) :].strip()
            return int(word) if word.isdigit() else 0
    return 0

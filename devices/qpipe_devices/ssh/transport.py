"""Processes and files of a board over one SSH connection; every call ends within its deadline."""

from __future__ import annotations

import secrets
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from paramiko import Channel, Transport
from paramiko.channel import ChannelFile, ChannelStderrFile, ChannelStdinFile
from paramiko.ssh_exception import SSHException

from qpipe.errors import DeviceError, Failure, printable
from qpipe.types import Progress
from qpipe_devices.ssh.connection import Connection
from qpipe_devices.ssh.deadlines import Watchdog
from qpipe_devices.ssh.error_mapping import mapped_config_errors, mapped_errors
from qpipe_devices.ssh.login import Login

BLOCK_BYTES = 1 << 18  # of a read or write
STALLED_S = 60.0  # a transfer without progress for so long has failed
SLOWEST = 16e3  # bytes a second; a slower transfer has failed
KILLED_S = 3.0  # to end a process on the board; then the connection is closed
WINDOW_BYTES = 1 << 24  # of a download that may be in flight: what a delayed connection holds
LONGEST_LINE = 1 << 16  # bytes
LONGEST_GREETING = 1000  # lines, of a login shell
MOST_DIGITS = 15  # of the size of a file
FILE_FOLLOWS = b"qpipe-file-follows "
DISK_FULL_PHRASES = ("no space left on device", "disk quota exceeded")
# where it fails, its last line names the mount, which df prints last, if it knows one
MOUNT_FOLLOWS = "qpipe-mount:"
RECEIVE_SCRIPT = (
    'cat > "$1" && exit; code=$?; mount=$(df -P "$1" 2>/dev/null | tail -n 1); '
    f'echo "{MOUNT_FOLLOWS}${{mount##* }}" >&2; exit $code'
)
SEND_SCRIPT = f'echo; echo {FILE_FOLLOWS.decode()} $(wc -c < "$1"); cat "$1"'


class SshTransport:
    """Processes and files of a board over one SSH connection.

    The connection is opened when it is first needed, and again after it was lost; `resolve` returns
    the login for it. Paths are relative to the board's home folder.
    """

    def __init__(self, name: str, resolve: Callable[[], Login], silence_s: float = 30) -> None:
        self.name = name
        self.resolve = resolve
        self.silence_s = silence_s
        self.connection: Connection | None = None
        self.transport: Transport | None = None
        self.connecting = threading.Lock()

    def start(self, argv: Sequence[str]) -> SshProcess:
        """Start a process on the board."""
        return self._start(argv)

    def put(self, source: Path, path: str, progress: Progress) -> None:
        """Copy a file to the board by `cat`.

        It is as fast as SFTP, reports why it fails, and works with small SSH servers without SFTP.
        """
        size = source.stat().st_size
        sent = 0
        process = self._start(["sh", "-c", RECEIVE_SCRIPT, "sh", path])
        with source.open("rb") as file, self._transfer(source.name, process) as watchdog:
            watchdog.seconds += size / SLOWEST
            while block := file.read(BLOCK_BYTES):
                process.channel.sendall(block)
                watchdog.note_progress()
                sent += len(block)
                progress(sent, size, "B")
            process.channel.shutdown_write()
            self._check_exit(source.name, process)

    def get(self, path: str, target: Path) -> None:
        """Copy a file from the board; a failure leaves no partial file."""
        process = self._start(["sh", "-c", SEND_SCRIPT, "sh", path], WINDOW_BYTES)
        temporary = target.with_name(f"{target.name}.part")
        try:
            with temporary.open("wb") as file, self._transfer(path, process) as watchdog:
                size = self._read_size(path, process)
                self._check_room(path, size, target.parent)
                watchdog.seconds += size / SLOWEST
                while block := process.stdout.read(BLOCK_BYTES):
                    watchdog.note_progress()
                    file.write(block)
                    if file.tell() > size:
                        raise self._lie(path, f"more arrived than the {size} bytes that it has")
                self._check_exit(path, process)
                if file.tell() != size:
                    raise EOFError(f"only {file.tell()} of {size} bytes arrived")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection where there is one."""
        connection = self.connection
        self.connection = None
        self.transport = None
        if connection:
            connection.close()

    def _start(self, argv: Sequence[str], window_bytes: int | None = None) -> SshProcess:
        transport = self._connected_transport()
        connection = self.connection
        assert connection is not None
        login = connection.login
        action = f"'{argv[0]}' was not started"
        with (
            mapped_errors(self.name, login, action=action, connected=True),
            Watchdog(connection.close, login.timeout),
        ):
            channel = transport.open_session(window_size=window_bytes, timeout=login.timeout)
            mark = f"QPIPE_CALL={secrets.token_hex(8)}"
            channel.exec_command(shlex.join(["env", mark, *argv]))
        return SshProcess(channel, mark, connection.close)

    def _connected_transport(self) -> Transport:
        """Return the transport of the open connection; connect where there is none."""
        with self.connecting:
            if self.transport is None or not self.transport.is_active():
                self.close()
                with mapped_config_errors(self.name):
                    login = self.resolve()
                connection = Connection(self.name, login, self.silence_s)
                self.transport = connection.open()
                self.connection = connection
            return self.transport

    @contextmanager
    def _transfer(self, file_name: str, process: SshProcess) -> Iterator[Watchdog]:
        """End a transfer in time, and its process with it; map its errors to DeviceError."""
        try:
            with Watchdog(process.kill, STALLED_S, STALLED_S) as watchdog:
                yield watchdog
        except TimeoutError as error:
            reason = str(error) or f"nothing moved for {STALLED_S:g} s"
            raise DeviceError(
                f"{self.name}: {file_name} was not transferred: {reason}; "
                "check the connection and the device's disk",
                failure="timeout",
            ) from error
        except (OSError, EOFError, SSHException) as error:
            reason = str(error) or "the device ended the transfer"
            raise self._transfer_error(file_name, process, reason) from error
        finally:
            process.kill()

    def _check_exit(self, file_name: str, process: SshProcess) -> None:
        """Wait for the process of a transfer; raise DeviceError where it failed."""
        status = process.wait(STALLED_S)
        if status > 0:
            raise self._transfer_error(file_name, process, f"it ended with status {status}")
        if status < 0:
            raise self._transfer_error(file_name, process, "a signal ended it")

    def _read_size(self, file_name: str, process: SshProcess) -> int:
        """Return the size that the board announces for a file."""
        announced = _read_announcement(process.stdout)
        if announced.isdigit() and len(announced) <= MOST_DIGITS:
            return int(announced)
        if not announced and process.channel.status_event.wait(KILLED_S):
            self._check_exit(file_name, process)
        raise self._lie(file_name, "its size is not told")

    def _check_room(self, file_name: str, size: int, folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        if size > free:
            reason = f"it has {size // 10**6} MB, and {folder} has room for {free // 10**6} MB"
            message = f"{self.name}: {file_name} was not transferred: {reason}; free space there"
            raise DeviceError(message, failure="no room")

    def _lie(self, file_name: str, reason: str) -> DeviceError:
        message = f"{self.name}: {file_name} was not transferred: {reason}; check the device"
        return DeviceError(message, failure="wrong answer")

    def _transfer_error(self, file_name: str, process: SshProcess, reason: str) -> DeviceError:
        """Return the error of a transfer, with the last line of its process where there is one."""
        failure: Failure = "died"
        if process.is_lost:
            reason = "the connection was lost"
        else:
            lines = _read_last_lines(process)
            mount = ""
            if lines and lines[-1].startswith(MOUNT_FOLLOWS):
                mount = lines.pop().removeprefix(MOUNT_FOLLOWS)
            if lines:
                reason = lines[-1]
                failure = "configuration"
            if reason.lower().endswith(DISK_FULL_PHRASES):
                failure = "no room"
            if mount:
                reason += f" (mounted at {mount})"
        return DeviceError(
            f"{self.name}: {file_name} was not transferred: {reason}", failure=failure
        )


class SshProcess:
    """A process on a board.

    It has a channel, a mark in its environment by which it and its children are found, and
    `close_connection` for when it cannot be ended otherwise.
    """

    def __init__(self, channel: Channel, mark: str, close_connection: Callable[[], None]) -> None:
        self.channel = channel
        self.mark = mark
        self.close_connection = close_connection
        self.stdin = cast("IO[bytes]", _Stdin(channel, "wb"))
        self.stdout = cast("IO[bytes]", _Stdout(channel, "rb"))
        self.stderr = cast("IO[bytes]", _Stderr(channel, "rb"))

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost before the process reported how it ended."""
        transport = self.channel.get_transport()
        if self.channel.exit_status < 0:
            transport.join(0.5)  # channels are closed a little before their transport ends
        return self.channel.exit_status < 0 and not transport.is_active()

    def wait(self, timeout: float) -> int:
        """Return its exit status, -1 where a signal ended it.

        Raise TimeoutError after `timeout` seconds, ConnectionResetError where the connection was
        lost before it ended.
        """
        if not self.channel.status_event.wait(timeout):
            raise TimeoutError
        status = self.channel.recv_exit_status()
        if status < 0 and self.is_lost:
            raise ConnectionResetError("the connection was lost")
        return status

    def kill(self) -> None:
        """End the process and all that it started, by the mark that they inherit.

        SSH itself would leave them running.
        """
        with (
            suppress(TimeoutError, OSError, EOFError, SSHException),
            Watchdog(self.close_connection, KILLED_S),
        ):
            transport = self.channel.get_transport()
            if not self.channel.status_event.is_set() and transport.is_active():
                self._kill_marked(transport)
            self.channel.close()

    def _kill_marked(self, transport: Transport) -> None:
        killer = transport.open_session(timeout=KILLED_S)
        killer.exec_command(
            f"grep -ls {self.mark} /proc/[0-9]*/environ | tr -dc '0-9\\n' | xargs kill -9"
        )
        killer.status_event.wait(KILLED_S)
        killer.close()


class _Unbuffered:
    """A file that does not flush when it is deleted.

    paramiko's files do, possibly from a buffer that was deleted before; these have nothing to
    flush.
    """

    def __del__(self) -> None:
        pass


class _Stdin(_Unbuffered, ChannelStdinFile):
    pass


class _Stdout(_Unbuffered, ChannelFile):
    pass


class _Stderr(_Unbuffered, ChannelStderrFile):
    pass


def _read_announcement(stream: IO[bytes]) -> bytes:
    """Read up to the size of a file, past the output of a login shell; return it, or nothing."""
    for _ in range(LONGEST_GREETING):
        line = stream.readline(LONGEST_LINE)
        if line.startswith(FILE_FOLLOWS):
            return line.removeprefix(FILE_FOLLOWS).strip()
        if not line.endswith(b"\n"):
            break
    return b""


def _read_last_lines(process: SshProcess) -> list[str]:
    """Return the last two lines of a process's stderr; none where it cannot be read."""
    process.channel.settimeout(1)
    try:
        output = process.stderr.read(LONGEST_LINE).decode("utf-8", "replace")
    except OSError:
        return []
    return [printable(line.strip()) for line in output.strip().splitlines()[-2:]]

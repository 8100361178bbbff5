"""The host's end of the line: log in, start the multiplexer, and take apart what it sends."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import select
import termios
import threading
import time
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

import qpipe
from qpipe_serial import multiplexer

ANSWER_S = 20.0  # for the shell, for Python to start, and for each line to be taken
SILENCE_S = 1.0  # after which a console that shows a prompt waits for us
BOOTED = "~boot"
PROMPT = re.compile(rb"[$#>%] ?$")
LOGIN = re.compile(rb"login: ?$", re.IGNORECASE)
PASSWORD = re.compile(rb"password: ?$", re.IGNORECASE)
LINE_LENGTH = 512  # characters of the multiplexer's source
# reads the program up to a line with a point, and runs it
BOOT = (
    "import sys,base64;print('~'+'boot');"
    "exec(base64.b64decode(''.join(iter(lambda:sys.stdin.readline().strip(),'.'))))"
)


class Login(NamedTuple):
    """What to answer a console that asks, and the Python there."""

    user: str
    password: str
    python: str


class Console:
    """A line to a board on which the multiplexer runs; any number of processes over it."""

    def __init__(self, name: str, port: Path, baud: int, login: Login) -> None:
        self.name = name
        self.lost = ""  # why nothing goes over the line any more
        self.file = self._open(port, baud)
        self.processes: dict[int, ConsoleProcess] = {}
        self.sending = threading.Lock()
        self.acknowledged = threading.Semaphore(0)
        self.count = 0
        try:
            self._log_in(login)
            self._start_multiplexer(login.python)
        except BaseException:
            os.close(self.file)
            raise
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def start(self, argv: Sequence[str]) -> ConsoleProcess:
        """Start a process on the board."""
        self.count += 1
        process = ConsoleProcess(self, self.count)
        self.processes[self.count] = process
        try:
            self.send("start", self.count, json.dumps(list(argv)).encode())
        except OSError as error:
            raise self._error(str(error), failure="died") from error
        return process

    def send(self, kind: str, number: int, data: bytes = b"") -> None:
        """Send a line and wait until it is taken; raise ConnectionError where the line is lost."""
        with self.sending:
            if self.lost:
                raise ConnectionError(self.lost)
            self._write(multiplexer.line_of(kind, number, data))
            if not self.acknowledged.acquire(timeout=ANSWER_S) or self.lost:
                self._lose(self.lost or f"the board took nothing for {ANSWER_S:g} s")
                raise ConnectionError(self.lost)

    def close(self) -> None:
        """End all processes and the multiplexer; the shell shows its prompt again."""
        if not self.lost:
            with suppress(OSError):
                self._write(f"\n{multiplexer.BYE}\n")
                time.sleep(0.05)  # for the line to leave this machine
        self._lose("the connection was closed")
        self.reader.join(ANSWER_S)
        os.close(self.file)

    # ---- connecting

    def _open(self, port: Path, baud: int) -> int:
        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise self._error(f"{baud} baud is no speed of this system; give one such as 115200")
        try:
            file = os.open(port, os.O_RDWR | os.O_NOCTTY)
            tty.setraw(file)
            settings = termios.tcgetattr(file)
            settings[4:6] = [speed, speed]
            termios.tcsetattr(file, termios.TCSANOW, settings)
        except (OSError, termios.error) as error:
            reason = error.args[-1]
            raise self._error(
                f"{port} cannot be used: {reason}; give the port of a line"
            ) from error
        return file

    def _log_in(self, login: Login) -> None:
        """Get to the prompt of a shell, from whatever the console shows."""
        self._write(f"\n{multiplexer.BYE}\n")  # an earlier host may not have said it
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            shown = self._read_until_silent()
            if PASSWORD.search(shown):
                self._write(login.password + "\n")
            elif LOGIN.search(shown):
                if not login.user:
                    raise self._error("the console asks for a login; set user and password")
                self._write(login.user + "\n")
            elif PROMPT.search(shown):
                return
            else:
                self._write("\n")
        raise self._error(f"no prompt of a shell within {ANSWER_S:g} s; is the board on?")

    def _start_multiplexer(self, python: str) -> None:
        self._write(f'stty raw -echo; {python} -uc "{BOOT}"; stty sane\n')
        shown = b""
        deadline = time.monotonic() + ANSWER_S
        while BOOTED.encode() not in shown:
            shown += self._read_some(deadline - time.monotonic())
            if time.monotonic() > deadline:
                last = shown.decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing"]
                raise self._error(f"'{python}' does not start there ({last[0]}); set python")
        source = base64.b64encode(Path(multiplexer.__file__).read_bytes()).decode()
        for first in range(0, len(source), LINE_LENGTH):
            self._write(source[first : first + LINE_LENGTH] + "\n")
        self._write(".\n")

    def _read_until_silent(self) -> bytes:
        shown = b""
        while content := self._read_some(SILENCE_S):
            shown += content
            if PROMPT.search(shown) or LOGIN.search(shown) or PASSWORD.search(shown):
                return shown
        return shown

    def _read_some(self, seconds: float) -> bytes:
        readable, _, _ = select.select([self.file], [], [], max(seconds, 0))
        return os.read(self.file, 1 << 16) if readable else b""

    def _write(self, text: str) -> None:
        content = memoryview(text.encode())
        while content:
            content = content[os.write(self.file, content) :]

    # ---- listening

    def _read(self) -> None:
        """Hand each line to its process, until the line is lost."""
        rest = b""
        try:
            while not self.lost:
                *lines, rest = (rest + self._read_some(0.2)).split(b"\n")
                for line in lines:
                    self._take(line.decode("ascii", "replace"))
        except (OSError, ValueError) as error:
            self._lose(str(error))

    def _take(self, line: str) -> None:
        message = multiplexer.read_line(line)
        if message is None:  # the kernel has something to say
            return
        kind, number, data = message
        if kind == "ack":
            self.acknowledged.release()
        elif number in self.processes:
            self.processes[number].take(kind, data)

    def _lose(self, reason: str) -> None:
        self.lost = self.lost or reason
        for process in self.processes.values():
            process.end(None)
        self.acknowledged.release()  # whoever waits sees that it is lost

    def _error(
        self, reason: str, failure: qpipe.errors.Failure = "unreachable"
    ) -> qpipe.DeviceError:
        return qpipe.DeviceError(f"{self.name}: {reason}", failure=failure)


class ConsoleProcess:
    """A process on the board: what qpipe.types.Process asks for."""

    def __init__(self, console: Console, number: int) -> None:
        self.console = console
        self.number = number
        self.status: int | None = None
        self.ended = threading.Event()
        self.output = _ReceivedStream()
        self.errors = _ReceivedStream()
        self.stdin = cast("IO[bytes]", _SentStream(self._send))
        self.stdout = cast("IO[bytes]", io.BufferedReader(self.output))
        self.stderr = cast("IO[bytes]", io.BufferedReader(self.errors))

    def wait(self, timeout: float) -> int:
        """Return its exit status; raise TimeoutError, or ConnectionError where the line is lost."""
        if not self.ended.wait(timeout):
            raise TimeoutError
        if self.status is None:
            raise ConnectionError(self.console.lost)
        return self.status

    def kill(self) -> None:
        """End the process and all that it started."""
        if not self.ended.is_set():
            with suppress(OSError):
                self._send("kill", b"")

    def take(self, kind: str, data: bytes) -> None:
        """Take what the board sends of it."""
        if kind == "out":
            self.output.add(data)
        elif kind == "err":
            self.errors.add(data)
        elif kind == "fail":
            self.errors.add(data + b"\n")
            self.end(127)
        elif kind == "end":
            self.end(int(data))

    def end(self, status: int | None) -> None:
        """End its streams, with its status, or None where the line was lost."""
        if not self.ended.is_set():
            self.status = status
            self.output.finish()
            self.errors.finish()
            self.ended.set()

    def _send(self, kind: str, data: bytes) -> None:
        self.console.send(kind, self.number, data)


class _SentStream(io.RawIOBase):
    """The stdin of a process on the board."""

    def __init__(self, send: Callable[[str, bytes], None]) -> None:
        self.send = send

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        data = bytes(memoryview(content))  # type: ignore[arg-type]
        for first in range(0, len(data), multiplexer.MOST_BYTES):
            self.send("in", data[first : first + multiplexer.MOST_BYTES])
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            with suppress(OSError):
                self.send("eof", b"")


class _ReceivedStream(io.RawIOBase):
    """What arrived of a stream, for whoever reads it, and when; nothing waits for that."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.is_finished = False
        self.changed = threading.Condition()

    def readable(self) -> bool:
        return True

    def add(self, data: bytes) -> None:
        with self.changed:
            self.content += data
            self.changed.notify_all()

    def finish(self) -> None:
        with self.changed:
            self.is_finished = True
            self.changed.notify_all()

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer)  # type: ignore[arg-type]
        with self.changed:
            self.changed.wait_for(lambda: self.content or self.is_finished)
            size = min(len(target), len(self.content))
            target[:size] = self.content[:size]
            del self.content[:size]
            return size

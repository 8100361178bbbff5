"""The board's end of the line: processes by number, their streams as lines of text.

A line is `~CHECKSUM KIND NUMBER BASE64`; anything else on the console is not for us. The host sends
start (argv as JSON), in, eof, kill, and waits for ack before it sends more, as a console has a
small buffer. The board sends out, err, end (the status) or fail (why a process did not start). The
line `~bye` ends this program and all that it started. Python 3.8, and no other module.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from typing import IO

BYE = "~bye"
MOST_BYTES = 1024  # of a stream in a line

_writing = threading.Lock()


def line_of(kind: str, number: int, data: bytes = b"") -> str:
    """Return the line that says something of a process."""
    body = f"{kind} {number} {base64.b64encode(data).decode()}"
    return f"~{zlib.crc32(body.encode()):08x} {body}\n"


def read_line(line: str) -> tuple[str, int, bytes] | None:
    """Return kind, number and data of a line, or None for what is not ours.

    Raise ValueError for a line that is damaged.
    """
    if not line.startswith("~") or line[9:10] != " ":
        return None
    body = line[10:].strip("\r\n")
    if f"{zlib.crc32(body.encode()):08x}" != line[1:9]:
        raise ValueError("a line arrived damaged")
    kind, number, text = body.split(" ")
    return kind, int(number), base64.b64decode(text)


def send(kind: str, number: int, data: bytes = b"") -> None:
    """Write a line to the console."""
    with _writing:
        sys.stdout.write(line_of(kind, number, data))
        sys.stdout.flush()


class Child:
    """A process, and the threads that carry its streams."""

    def __init__(self, number: int, argv: list[str]) -> None:
        self.number = number
        self.input: queue.Queue[bytes] = queue.Queue()
        self.process = subprocess.Popen(
            argv,
            cwd=os.environ.get("HOME"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.stdin = self.process.stdin
        self.pumps = [
            self._thread(self._pump, self.process.stdout, "out"),
            self._thread(self._pump, self.process.stderr, "err"),
        ]
        self._thread(self._feed)
        self._thread(self._watch)

    def kill(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(OSError):  # it may have ended
            os.killpg(self.process.pid, signal.SIGKILL)

    def _thread(self, function: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread

    def _pump(self, stream: IO[bytes], kind: str) -> None:
        while True:
            data = os.read(stream.fileno(), MOST_BYTES)
            if not data:
                return
            send(kind, self.number, data)

    def _feed(self) -> None:
        with contextlib.suppress(OSError):  # it has ended, or reads no more
            for data in iter(self.input.get, b""):
                self.stdin.write(data)
                self.stdin.flush()
            self.stdin.close()

    def _watch(self) -> None:
        status = self.process.wait()
        for pump in self.pumps:
            pump.join(5)
        send("end", self.number, str(status).encode())


def carry_out(kind: str, number: int, data: bytes, children: dict[int, Child]) -> None:
    """Do what a line asks for."""
    child = children.get(number)
    if kind == "start":
        try:
            children[number] = Child(number, json.loads(data.decode()))
        except OSError as error:
            send("fail", number, str(error).encode())
    elif child is not None and kind == "in":
        child.input.put(data)
    elif child is not None and kind == "eof":
        child.input.put(b"")
    elif child is not None and kind == "kill":
        child.kill()


def main() -> None:
    """Serve until the console ends or says bye."""
    children: dict[int, Child] = {}
    try:
        for line in iter(sys.stdin.readline, ""):
            if line.strip() == BYE:
                break
            try:
                message = read_line(line)
            except ValueError:
                break  # the host waits for an ack that does not come
            if message is not None:
                carry_out(*message, children)
                send("ack", message[1])
    finally:
        for child in children.values():
            child.kill()


if __name__ == "__main__":
    main()

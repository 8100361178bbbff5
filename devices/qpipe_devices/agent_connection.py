"""The host's side of one conversation with an agent: starts it, asks, listens, and knows when the line is dead."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import IO, Any, get_args

from qpipe.errors import BusyError, DeviceError, Failure
from qpipe.types import Process, Transport
from qpipe_devices import agent_package
from qpipe_devices.agent import wire
from qpipe_devices.reconnecting import ConnectionLostError

START_S = 60.0  # a slow board imports numpy in seconds
LOST = "the connection was lost"
AGAIN = "run again to continue"
OTHER_VERSION = "version "  # what is made of the magic of another one
# what the last line of a Python that could not start the agent may say
OF_START: Sequence[tuple[str, Failure, str]] = (
    ("No space left", "no room", "free some there"),
    ("Disk quota exceeded", "no room", "free some there"),
    ("Read-only file system", "configuration", "set folder to a place that can be written"),
    ("Permission denied", "configuration", "set folder to a place that can be written"),
)
WINDOW = 16  # messages that wait here for whoever asked; beyond that the device waits

log = logging.getLogger(__name__)


class Conversation:
    """One agent process. One request at a time; messages that belong to an earlier one are skipped."""

    def __init__(
        self, name: str, transport: Transport, start: Sequence[str], silence_s: float
    ) -> None:
        self.name = name
        self.silence_s = silence_s
        self.tail: deque[str] = deque(maxlen=200)
        self.messages: queue.Queue[wire.Message | None] = queue.Queue(WINDOW)
        self.heard = time.monotonic()
        self.sending = threading.Lock()
        self.ended = threading.Event()
        self.last_id = 0
        self.is_lost = False
        self.process: Process = transport.start(start)
        targets = (self._listen, self._log, self._beat)
        self.listener, self.scribe, self.beater = (
            threading.Thread(target=target, daemon=True) for target in targets
        )
        self.listener.start()
        self.scribe.start()
        try:
            hello = self._open(start[0])
        except BaseException:
            self.close()
            raise
        self.root = str(hello["root"])
        self.incoming = str(hello["incoming"])
        self.beater.start()

    def ask(self, do: str, seconds: float, **fields: Any) -> dict[str, Any]:
        """The answer to a request that has one answer; DeviceError with the agent's reason, or after `seconds`."""
        which = self._request(do, fields)
        end = time.monotonic() + seconds
        while True:
            message = self._next(seconds, end=end)
            if message.fields["id"] == which:
                return self._checked(message)

    def stream(self, do: str, seconds: float, **fields: Any) -> Generator[wire.Message]:
        """The messages that answer a request, each within `seconds`; leaving early cancels it on the device."""
        which = self._request(do, fields)
        ended = False
        try:
            while True:
                message = self._next(seconds)
                if message.fields["id"] != which:
                    continue
                ended = bool(message.fields.get("last"))
                self._checked(message)
                if ended:
                    return
                yield message
        finally:
            if not ended and not self.is_lost and not self.ended.is_set():
                self._send({"do": "cancel", "which": which})

    def close(self) -> None:
        """End the agent, and with it all it started."""
        self.ended.set()
        try:
            self.process.stdin.close()
            self.process.wait(0.5 if self.is_lost else 5)
        except (OSError, TimeoutError, EOFError):
            log.debug("%s: the agent did not end by itself", self.name)
        self.process.kill()
        end = time.monotonic() + 5
        while self.listener.is_alive() and time.monotonic() < end:
            self._drain()  # it may be waiting for room
            self.listener.join(0.05)
        self.scribe.join(1)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()

    def _open(self, python: str) -> dict[str, Any]:
        no_start = f"'{python}' does not start the agent", "set python to one that has numpy"
        boot = self._boot(no_start)
        if boot == "send":
            self._write(agent_package.package())
            boot = self._boot(no_start)
        while boot != "ready":
            boot = self._boot(no_start)
        return self._checked(self._next(START_S, no_start))

    def _boot(self, no_start: tuple[str, str]) -> str:
        word = str(self._next(START_S, no_start).fields["boot"])
        if word.startswith(OTHER_VERSION):
            version = word.removeprefix(OTHER_VERSION)
            wrong = f"the agent there speaks version {version} of the protocol, this qpipe version {wire.VERSION}"
            raise DeviceError(
                f"{self.name}: {wrong}; update the older one", failure="configuration"
            )
        return word

    def _request(self, do: str, fields: dict[str, Any]) -> int:
        self.last_id += 1
        self.tail.clear()  # what was said before has nothing to do with it
        self._send({"do": do, "id": self.last_id, **fields})
        return self.last_id

    def _send(self, fields: dict[str, Any]) -> None:
        # who does not read blocks who writes, once the pipe is full
        timer = threading.Timer(self.silence_s, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            with self.sending:
                wire.write(self.process.stdin, fields)
        except (
            OSError,
            ValueError,
            EOFError,
        ) as error:  # broken pipe, closed file, the transport's own end
            raise self._lost(LOST) from error
        finally:
            timer.cancel()

    def _write(self, content: bytes) -> None:
        try:
            self.process.stdin.write(content)
            self.process.stdin.flush()
        except (OSError, EOFError) as error:
            raise self._lost(LOST) from error

    def _next(
        self, seconds: float, ended: tuple[str, str] = (LOST, AGAIN), end: float | None = None
    ) -> wire.Message:
        """The next message; ConnectionLostError at their end, in silence, and after `seconds` or at `end`."""
        deadline = time.monotonic() + seconds if end is None else end
        while True:
            try:
                message = self.messages.get(timeout=0.5)
            except queue.Empty:
                now = time.monotonic()
                if now > deadline:
                    raise self._lost(f"no answer within {seconds:g} s", failure="timeout") from None
                if now - self.heard > max(self.silence_s, 0 if self.last_id else START_S):
                    raise self._lost(f"nothing was heard of it for {self.silence_s:g} s") from None
                continue
            if message is None:
                self.messages.put(None)  # whoever asks again is told again
                raise self._lost(*ended) if self.last_id else self._not_started(*ended)
            return message

    def _checked(self, message: wire.Message) -> dict[str, Any]:
        if "error" in message.fields:
            reason = str(message.fields["error"])
            kind = BusyError if reason.startswith("busy: ") else DeviceError
            failure = message.fields.get("failure")
            raise kind(
                f"{self.name}: {reason}", failure=failure if failure in get_args(Failure) else "bug"
            )
        return message.fields

    def _not_started(self, reason: str, fix: str) -> ConnectionLostError:
        """The end before the first request: by the last line, for that is all there is to know."""
        try:
            failed_by_itself = self.process.wait(2) > 0
        except (TimeoutError, OSError, EOFError):
            failed_by_itself = False
        self.scribe.join(0.5)
        last = self.tail[-1] if self.tail else ""
        for words, failure, remedy in OF_START:
            if words in last:
                return self._lost(reason, remedy, failure)
        return self._lost(reason, fix, "configuration" if failed_by_itself else "died")

    def _lost(
        self, reason: str, fix: str = AGAIN, failure: Failure | None = None
    ) -> ConnectionLostError:
        self.scribe.join(0.5)  # its last words may still be on their way
        last = f" (its last line: {self.tail[-1]})" if self.tail else ""
        self.is_lost = True
        return ConnectionLostError(f"{self.name}: {reason}{last}; {fix}", failure=failure)

    def _listen(self) -> None:
        stream = self.process.stdout
        try:
            for word in _boot_words(stream):
                self.messages.put(wire.Message({"boot": word, "id": 0}, {}))
            while message := wire.read(stream):
                self.heard = time.monotonic()
                if message.fields["id"] >= 0:
                    self.messages.put(message)
                    self.heard = time.monotonic()  # whoever asked may have let it wait for long
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.debug(
                "%s: %r", self.name, error
            )  # cut in the middle, or no message: the same as its end
        self.messages.put(None)

    def _log(self) -> None:
        try:
            for line in iter(self.process.stderr.readline, b""):
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self.tail.append(text)
                    log.info("%s: %s", self.name, text)
        except (OSError, ValueError):  # closed under our hands
            return

    def _beat(self) -> None:
        while not self.ended.wait(self.silence_s / 5):
            try:
                self._send({"do": "beat"})
            except ConnectionLostError:
                return

    def _drain(self) -> None:
        try:
            while True:
                self.messages.get_nowait()
        except queue.Empty:
            return


def _boot_words(stream: IO[bytes]) -> Iterator[str]:
    """What the boot line says, up to "ready"; all that a login shell prints before and between is skipped."""
    for line in iter(stream.readline, b""):
        if line.startswith(wire.MAGIC):
            word = line[len(wire.MAGIC) :].decode().strip()
            yield word
            if word == "ready":
                return
        elif other := wire.ANY_MAGIC.match(line):
            yield OTHER_VERSION + other[1].decode()

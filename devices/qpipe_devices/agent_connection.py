"""The host's side of one conversation with an agent: it starts it, requests, and listens."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from typing import IO, Any, NamedTuple, cast, get_args

from qpipe.errors import BusyError, DeviceError, Failure, printable
from qpipe.types import Process, Transport
from qpipe_devices import agent_package, answers
from qpipe_devices.agent import wire
from qpipe_devices.agent.messages import Greeting
from qpipe_devices.agent_package import RemoteProgram
from qpipe_devices.inbox import Inbox
from qpipe_devices.reconnecting import ConnectionLostError

START_S = 60.0  # a slow board takes seconds to import numpy
OTHER_VERSION = "version "  # stands before the number where an agent has another magic
LONGEST_BOOT_LINE = 1 << 16  # bytes
LONGEST_LOG_LINE = 1 << 13  # bytes; a longer line is several
LARGEST_ARRAYS = 1 << 28  # bytes of the outputs for one sample
LARGEST_LOG = 1 << 20  # bytes of the agent's stderr that are logged
LONGEST_LAST_LINE = 500  # characters of it that an error quotes
BROKEN = (OSError, ValueError, EOFError)  # a broken pipe, a closed file, the transport's own end
BEATS = 5  # so many in the time that either side may be silent


class Loss(NamedTuple):
    """Why a conversation ended, and what would help."""

    reason: str
    fix: str = "run again to continue"


CONNECTION_LOST = Loss("the connection was lost")


class StartFailure(NamedTuple):
    """A failure to start the agent, by a phrase in the last line of Python."""

    phrase: str
    failure: Failure
    fix: str


START_FAILURES = (
    StartFailure("No space left", "no room", "free some there"),
    StartFailure("Disk quota exceeded", "no room", "free some there"),
    StartFailure(
        "could change what is run", "configuration", "set folder to one of your own, or correct it"
    ),
    StartFailure("is mounted noexec", "configuration", "set folder to a place on another mount"),
    StartFailure(
        "Read-only file system", "configuration", "set folder to a place that can be written"
    ),
    StartFailure("Permission denied", "configuration", "set folder to a place that can be written"),
)

log = logging.getLogger(__name__)


class Conversation:
    """One agent process: one request at a time; messages for an earlier request are skipped."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        program: RemoteProgram,
        silence_s: float,
        purpose: str = "",
    ) -> None:
        self.name = name
        self.purpose = purpose  # what the device is used for, which the agent shows to others
        self.silence_s = silence_s
        self.last_line = b""  # of the agent's stderr, since the last request
        self.messages = Inbox()
        self.nonsense = ""  # what came in place of a message, if anything did
        self.last_message_at = time.monotonic()
        self.sending = threading.Lock()
        self.closed = threading.Event()
        self.last_id = 0
        self.is_lost = False
        self.others_wait = False  # whether another agent waits for the device
        self.process: Process = transport.start(program.command)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.log_thread = threading.Thread(target=self._forward_log, daemon=True)
        self.beater = threading.Thread(target=self._beat, daemon=True)
        self.listener.start()
        self.log_thread.start()
        try:
            greeting = self._open(program)
        except BaseException:
            self.close()
            raise
        self.root = str(greeting["root"])
        self.incoming = str(greeting["incoming"])
        self.beater.start()

    def request(self, verb: str, seconds: float, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request that has one answer.

        Raise DeviceError with the agent's reason, or after `seconds`.
        """
        request_id = self._send_request(verb, fields)
        deadline = time.monotonic() + seconds
        while True:
            message = self._next_message(seconds, deadline=deadline)
            if message.fields["id"] == request_id:
                return answers.check_answer(self.name, verb, self._checked_fields(message))

    def stream(self, verb: str, seconds: float, **fields: Any) -> Generator[wire.Message]:
        """Yield the messages that answer a request, each within `seconds`.

        Closing the generator early cancels the request on the device.
        """
        request_id = self._send_request(verb, fields)
        is_complete = False
        try:
            while True:
                message = self._next_message(seconds)
                if message.fields["id"] != request_id:
                    continue
                is_complete = bool(message.fields.get("last"))
                self._checked_fields(message)
                if is_complete:
                    return
                yield message
        finally:
            if not is_complete and not self.is_lost and not self.closed.is_set():
                self._send({"do": "cancel", "which": request_id})

    def close(self) -> None:
        """End the agent, and with it all it started."""
        self.closed.set()
        try:
            self.process.stdin.close()
            self.process.wait(0.5 if self.is_lost else 5)
        except (OSError, TimeoutError, EOFError):
            log.debug("%s: the agent did not end by itself", self.name)
        self.process.kill()
        deadline = time.monotonic() + 5
        while self.listener.is_alive() and time.monotonic() < deadline:
            self.messages.drop()  # the listener may be waiting for room
            self.listener.join(0.05)
        self.log_thread.join(1)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()

    # ---- starting

    def _open(self, program: RemoteProgram) -> Greeting:
        # where it has ended already, its last line says why
        with contextlib.suppress(*BROKEN), self._time_to_write():
            self._write(program.source)
        python = program.command[0]
        no_start = Loss(f"'{python}' does not start the agent", "set python to one that has numpy")
        state = self._next_boot_state(no_start)
        if state == "send":
            with self._lost_where_broken():
                self._write(agent_package.package())
        while state != "ready":
            state = self._next_boot_state(no_start)
        fields = self._checked_fields(self._next_message(START_S, loss=no_start))
        return cast("Greeting", answers.check_answer(self.name, "greeting", fields))

    def _next_boot_state(self, no_start: Loss) -> str:
        """Return have, send or ready; raise DeviceError where the agent has another protocol."""
        state = str(self._next_message(START_S, loss=no_start).fields["boot"])
        if state.startswith(OTHER_VERSION):
            version = state.removeprefix(OTHER_VERSION)
            raise DeviceError(
                f"{self.name}: the agent there speaks version {version} of the protocol, "
                f"this qpipe version {wire.VERSION}; update the older one",
                failure="configuration",
            )
        return state

    def _start_error(self, loss: Loss) -> ConnectionLostError:
        """Return the error of an agent that ended before the first request.

        It goes by the last line on stderr, which is all there is to know.
        """
        try:
            has_failed = self.process.wait(2) > 0
        except (TimeoutError, OSError, EOFError):
            has_failed = False
        self.log_thread.join(0.5)
        last_line = self._last_line()
        for start_failure in START_FAILURES:
            if start_failure.phrase in last_line:
                known_loss = Loss(loss.reason, start_failure.fix)
                return self._loss_error(known_loss, start_failure.failure)
        return self._loss_error(loss, "configuration" if has_failed else "died")

    # ---- sending

    def _send_request(self, verb: str, fields: Mapping[str, Any]) -> int:
        """Send a request; return its id."""
        self.last_id += 1
        self.last_line = b""  # earlier lines have nothing to do with it
        self._send({"do": verb, "id": self.last_id, **fields})
        return self.last_id

    def _send(self, fields: Mapping[str, Any]) -> None:
        with self._lost_where_broken(), self.sending:
            wire.write_message(self.process.stdin, fields)

    def _write(self, content: bytes) -> None:
        self.process.stdin.write(content)
        self.process.stdin.flush()

    @contextlib.contextmanager
    def _lost_where_broken(self) -> Iterator[None]:
        """Raise ConnectionLostError where what is written cannot arrive."""
        try:
            with self._time_to_write():
                yield
        except BROKEN as error:
            raise self._loss_error(CONNECTION_LOST) from error

    @contextlib.contextmanager
    def _time_to_write(self) -> Iterator[None]:
        """Kill an agent that does not read, and so blocks a write once the pipe is full."""
        timer = threading.Timer(self.silence_s, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _beat(self) -> None:
        while not self.closed.wait(self.silence_s / BEATS):
            try:
                self._send({"do": "beat", "purpose": self.purpose})
            except ConnectionLostError:
                return

    # ---- receiving

    def _next_message(
        self, seconds: float, *, loss: Loss = CONNECTION_LOST, deadline: float | None = None
    ) -> wire.Message:
        """Return the next message.

        Raise ConnectionLostError at the end of the messages, where the agent is silent for too
        long, and at the `deadline`, by default in `seconds`.
        """
        if deadline is None:
            deadline = time.monotonic() + seconds
        while True:
            message = self.messages.get(0.5)
            if message is not None:
                return message
            if not self.messages.is_closed:
                self._check_time(seconds, deadline)
                continue
            if self.nonsense:
                reason = f"a wrong answer: '{self.nonsense}' is no message of the agent"
                raise self._loss_error(Loss(reason, answers.REMEDY), failure="wrong answer")
            if self.last_id:
                raise self._loss_error(loss)
            raise self._start_error(loss)

    def _check_time(self, seconds: float, deadline: float) -> None:
        """Raise ConnectionLostError after the deadline, and after too long a silence."""
        now = time.monotonic()
        if now > deadline:
            late = Loss(f"no answer within {seconds:g} s")
            raise self._loss_error(late, failure="timeout") from None
        silence_s = self.silence_s
        if not self.last_id:  # it is starting
            silence_s = max(silence_s, START_S)
        if now - self.last_message_at > silence_s:
            silent = Loss(f"no message came for {self.silence_s:g} s")
            raise self._loss_error(silent) from None

    def _checked_fields(self, message: wire.Message) -> dict[str, Any]:
        """Return the fields of an answer; raise DeviceError where it is an error."""
        if "error" not in message.fields:
            return message.fields
        reason = printable(str(message.fields["error"])[: answers.LONGEST_TEXT])
        failure = message.fields.get("failure")
        if failure not in get_args(Failure):
            failure = "bug"
        error_class = BusyError if reason.startswith("busy: ") else DeviceError
        raise error_class(f"{self.name}: {reason}", failure=failure)

    def _last_line(self) -> str:
        text = self.last_line.decode("utf-8", "replace").strip()
        return printable(text[:LONGEST_LAST_LINE])

    def _loss_error(self, loss: Loss, failure: Failure | None = None) -> ConnectionLostError:
        self.log_thread.join(0.5)  # its last lines may still be on their way
        last_line = self._last_line()
        quoted = f" (its last line: {last_line})" if last_line else ""
        self.is_lost = True
        return ConnectionLostError(
            f"{self.name}: {loss.reason}{quoted}; {loss.fix}", failure=failure
        )

    def _listen(self) -> None:
        stream = self.process.stdout
        try:
            for state in _boot_states(stream):
                self.messages.put(wire.Message({"boot": state, "id": 0}, {}))
            while message := wire.read_message(stream, largest_arrays=LARGEST_ARRAYS):
                self.last_message_at = time.monotonic()
                if not isinstance(message.fields.get("id"), int):
                    raise ValueError(str(message.fields)[: wire.LONGEST_QUOTE])
                if message.fields["id"] < 0:
                    self.others_wait = message.fields.get("others_wait") is True
                else:
                    self.messages.put(message)
                    self.last_message_at = time.monotonic()  # its reader may have let it wait
        except ValueError as error:
            if not self.closed.is_set():  # which closes the stream, at last
                self.nonsense = printable(str(error))
        except (OSError, EOFError) as error:  # cut in the middle: the same as the end
            log.debug("%s: %r", self.name, error)
        self.messages.close()

    def _forward_log(self) -> None:
        logged = 0
        try:
            while line := self.process.stderr.readline(LONGEST_LOG_LINE):
                if not line.strip():
                    continue
                self.last_line = line
                logged += len(line)
                if logged > LARGEST_LOG:
                    continue  # to look at every character of a flood would keep answers waiting
                text = printable(line.decode("utf-8", "replace").rstrip())
                log.info("%s: %s", self.name, text)
        except (OSError, ValueError):  # it was closed meanwhile
            return


def _boot_states(stream: IO[bytes]) -> Iterator[str]:
    """Yield what the boot program reports, up to "ready".

    What a login shell prints before and between is skipped.
    """
    while line := stream.readline(LONGEST_BOOT_LINE):
        if line.startswith(wire.MAGIC):
            state = line[len(wire.MAGIC) :].decode().strip()
            yield state
            if state == "ready":
                return
        else:
            other_version = wire.MAGIC_OF_ANY_VERSION.match(line)
            if other_version:
                yield OTHER_VERSION + other_version[1].decode()

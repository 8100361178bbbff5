"""Calls of bare_board.py on a device that may have nothing but Python."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from qpipe.errors import DeviceError, Failure, printable
from qpipe.types import Process
from qpipe_devices import agent_package
from qpipe_devices.answers import check_answer, wrong_answer
from qpipe_devices.link import Link
from qpipe_devices.setup import bare_board
from qpipe_devices.setup.bare_board import Deselected, Installed, Missing, Probe

PROBE_S = 300.0  # three imports from a card that was not read yet
INSTALL_S = 900.0  # 150 MB unpacked onto a slow card
LONGEST_LINE = 1 << 16  # bytes
LONGEST_QUOTE = 100  # characters of what is no answer
MOST_BYTES = 1 << 20  # of each stream that are read
ANSWERS: Mapping[str, type] = {
    "probe": Probe,
    "missing": Missing,
    "install": Installed,
    "deselect": Deselected,
}


class NoPythonError(DeviceError):
    """The device was reached, but its Python does not run."""


class _Output(NamedTuple):
    """What a call printed: its answer as JSON, or "", and its last line on stderr, or ""."""

    answer: str
    last_error_line: str


def probe(link: Link, modules: Sequence[str], *, system: bool = False) -> Probe:
    """Return what the device has, by `bare_board.probe`.

    Raise NoPythonError where its Python does not run.
    """
    answer = _call(link, "probe", PROBE_S, modules=list(modules), lock=link.lock, system=system)
    board = cast("Probe", answer)
    for module in () if board["holder"] else modules:
        if not board["imports"].get(module, {}).keys() & {"version", "error"}:
            raise wrong_answer(link.name, f"imports of probe: nothing of {module}")
    return board


def missing_wheels(link: Link, runtime_digest: str, wheel_digests: Sequence[str]) -> list[str]:
    """Return the sha256 of the wheels that must be sent, by `bare_board.missing`."""
    answer = _call(link, "missing", INSTALL_S, digest=runtime_digest, wheels=list(wheel_digests))
    return list(answer["missing"])


def install(link: Link, runtime_digest: str, wheel_digests: Sequence[str]) -> Installed:
    """Install the wheels that were sent, by `bare_board.install`."""
    answer = _call(link, "install", INSTALL_S, digest=runtime_digest, wheels=list(wheel_digests))
    return cast("Installed", answer)


def deselect(link: Link) -> None:
    """Have the system's own runtime used, by `bare_board.deselect`."""
    _call(link, "deselect", PROBE_S)


def _call(link: Link, verb: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
    """Return the answer to a verb.

    Raise NoPythonError where there is none, DeviceError where it is an error, where it takes longer
    than `timeout_s`, and where the connection is lost.
    """
    code = Path(bare_board.__file__).read_text(encoding="utf-8")
    program = agent_package.remote_program(link.python, code, [link.folder, verb])
    process = link.transport.start(program.command)
    started_at = time.monotonic()
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        output = _exchange(process, program.source + json.dumps(arguments).encode())
        with contextlib.suppress(TimeoutError):
            process.wait(5)
    except ConnectionError as error:
        raise DeviceError(
            f"{link.name}: the connection was lost; run again to continue", failure="died"
        ) from error
    finally:
        timer.cancel()
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
    if not output.answer:
        if time.monotonic() - started_at > timeout_s:
            raise DeviceError(
                f"{link.name}: no answer within {timeout_s:g} s; run again to continue",
                failure="timeout",
            )
        raise _no_python_error(link, output.last_error_line)
    return _parse_answer(link, verb, output.answer)


def _parse_answer(link: Link, verb: str, text: str) -> dict[str, Any]:
    """Return the fields of an answer; raise DeviceError where it is an error, or a wrong one."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise wrong_answer(link.name, f"'{text[:LONGEST_QUOTE]}' is no answer to {verb}")
    if "error" in fields:
        message = check_answer(link.name, "error", {"error": str(fields["error"])})["error"]
        failure: Failure | None = "no room" if "No space" in message else None
        raise DeviceError(f"{link.name}: {message}", failure=failure)
    return check_answer(link.name, verb, fields, ANSWERS)


def _no_python_error(link: Link, last_error_line: str) -> NoPythonError:
    reason = last_error_line or "it prints nothing"
    return NoPythonError(
        f"{link.name}: '{link.python}' does not run there: {reason}; "
        "set python to one of 3.8 or newer",
        failure="configuration",
    )


def _exchange(process: Process, request: bytes) -> _Output:
    """Write to a process, then read both of its streams, past what a login shell prints."""
    error_lines: deque[str] = deque(maxlen=1)
    reader = threading.Thread(
        target=lambda: error_lines.extend(_read_lines(process.stderr)), daemon=True
    )
    reader.start()
    # where it has ended already, its last line says why
    with contextlib.suppress(OSError, EOFError, ValueError):
        process.stdin.write(request)
        process.stdin.close()
    answer = ""
    for line in _read_lines(process.stdout):
        if line.startswith(bare_board.MAGIC):
            answer = line.removeprefix(bare_board.MAGIC)
    reader.join(5)
    return _Output(answer, error_lines[-1] if error_lines else "")


def _read_lines(stream: IO[bytes]) -> Iterator[str]:
    """Yield the lines of a stream that are not empty, up to MOST_BYTES, or until it breaks off."""
    size = 0
    try:
        while size < MOST_BYTES and (line := stream.readline(LONGEST_LINE)):
            size += len(line)
            text = printable(line.decode("utf-8", "replace").strip())
            if text:
                yield text
    except (OSError, EOFError, ValueError):  # killed, lost, or closed meanwhile
        return

"""Calls of bare_board.py on a device that may have nothing but Python."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from qpipe.errors import DeviceError, Failure
from qpipe.types import Process
from qpipe_devices import agent_package
from qpipe_devices.link import Link
from qpipe_devices.setup import bare_board
from qpipe_devices.setup.bare_board import Installed, Probe

PROBE_S = 300.0  # three imports from a card that was not read yet
INSTALL_S = 900.0  # 150 MB unpacked onto a slow card


class NoPythonError(DeviceError):
    """The device was reached, but its Python does not run."""


class _Output(NamedTuple):
    """What a call printed: its answer, or None, and its last line on stderr, or ""."""

    answer: dict[str, Any] | None
    last_error_line: str


def probe(link: Link, modules: Sequence[str], *, system: bool = False) -> Probe:
    """Return what the device has, by `bare_board.probe`.

    Raise NoPythonError where its Python does not run.
    """
    answer = _call(link, "probe", PROBE_S, modules=list(modules), lock=link.lock, system=system)
    return cast("Probe", answer)


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
    command = _command(link.python, link.folder, verb, arguments)
    process = link.transport.start(command)
    started_at = time.monotonic()
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        output = _read_output(process)
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
    if output.answer is None:
        if time.monotonic() - started_at > timeout_s:
            raise DeviceError(
                f"{link.name}: no answer within {timeout_s:g} s; run again to continue",
                failure="timeout",
            )
        raise _no_python_error(link, output.last_error_line)
    if "error" in output.answer:
        raise _error_of_answer(link, str(output.answer["error"]))
    return output.answer


def _command(python: str, folder: str, verb: str, arguments: dict[str, Any]) -> list[str]:
    """Return the argv that runs a verb of bare_board.py, which it contains."""
    source = agent_package.base64_text(Path(bare_board.__file__).read_bytes())
    start = f'exec(compile(base64.b64decode("{source}"), "bare_board.py", "exec"))\n'
    program = agent_package.one_line_program(agent_package.PYTHON_CHECK + start)
    return [python, "-c", program, folder, verb, json.dumps(arguments)]


def _no_python_error(link: Link, last_error_line: str) -> NoPythonError:
    reason = last_error_line or "it prints nothing"
    return NoPythonError(
        f"{link.name}: '{link.python}' does not run there: {reason}; "
        "set python to one of 3.8 or newer",
        failure="configuration",
    )


def _error_of_answer(link: Link, message: str) -> DeviceError:
    failure: Failure | None = "no room" if "No space" in message else None
    return DeviceError(f"{link.name}: {message}", failure=failure)


def _read_output(process: Process) -> _Output:
    """Read both streams to their ends, past what a login shell prints."""
    error_lines: list[str] = []
    reader = threading.Thread(
        target=lambda: error_lines.extend(_read_lines(process.stderr)), daemon=True
    )
    reader.start()
    answer = None
    for line in _read_lines(process.stdout):
        if line.startswith(bare_board.MAGIC):
            answer = json.loads(line.removeprefix(bare_board.MAGIC))
    reader.join(5)
    return _Output(answer, error_lines[-1] if error_lines else "")


def _read_lines(stream: IO[bytes]) -> list[str]:
    """Return the lines of a stream that are not empty; none where it breaks off."""
    try:
        return [line.decode("utf-8", "replace").strip() for line in stream if line.strip()]
    except (OSError, EOFError, ValueError):  # killed, lost, or closed meanwhile
        return []

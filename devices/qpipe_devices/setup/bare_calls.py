"""Asking bare.py on a board that may have nothing but Python."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

from qpipe.errors import DeviceError
from qpipe.types import Process
from qpipe_devices import agent_package
from qpipe_devices.link import Link
from qpipe_devices.setup import bare_board

LOST = "the connection was lost; run again to continue"
LOOKING_S = 300.0  # three imports from a cold card


class NoPythonError(DeviceError):
    """The device was reached, but its Python does not do what it should."""


def ask(link: Link, do: str, seconds: float, **asked: Any) -> dict[str, Any]:
    """What bare.py answers there; NoPythonError where it gives none, DeviceError where it says why it cannot."""
    process = link.transport.start(
        agent_package.bare_command(link.python, link.folder, do, **asked)
    )
    began = time.monotonic()
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        answer, last = _answer(process)
        with contextlib.suppress(TimeoutError):
            process.wait(5)
    except ConnectionError as error:
        raise DeviceError(f"{link.name}: {LOST}", failure="died") from error
    finally:
        late.cancel()
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
    if answer is None and time.monotonic() - began > seconds:
        raise DeviceError(
            f"{link.name}: no answer within {seconds:g} s; run again to continue", failure="timeout"
        )
    if answer is None:
        fix = "set python to one of 3.8 or newer"
        said = f"'{link.python}' does not run there: {last or 'it says nothing'}"
        raise NoPythonError(f"{link.name}: {said}; {fix}", failure="configuration")
    if "error" in answer:
        failure = "no room" if "No space" in answer["error"] else None
        raise DeviceError(f"{link.name}: {answer['error']}", failure=failure)  # type: ignore[arg-type]
    return answer


def look(link: Link, modules: Sequence[str], *, system: bool = False) -> dict[str, Any]:
    """What bare.py's `probe` answers there."""
    return ask(link, "probe", LOOKING_S, modules=list(modules), lock=link.lock, system=system)


def _answer(process: Process) -> tuple[dict[str, Any] | None, str]:
    """Its answer, whatever a login shell prints around it, and its last word on stderr."""
    said: list[str] = []
    scribe = threading.Thread(target=lambda: said.extend(_lines(process.stderr)), daemon=True)
    scribe.start()
    marked = [
        line[len(bare_board.MAGIC) :]
        for line in _lines(process.stdout)
        if line.startswith(bare_board.MAGIC)
    ]
    scribe.join(5)
    return json.loads(marked[-1]) if marked else None, said[-1] if said else ""


def _lines(stream: Any) -> list[str]:
    try:
        return [line.decode("utf-8", "replace").strip() for line in stream if line.strip()]
    except (OSError, EOFError, ValueError):  # killed, lost, or closed under our hands
        return []

"""Waiting for what happens, rather than for a time in which it should have."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

LONGEST_S = 60.0  # however busy the machine is: what has not come by then never comes
LOOK_S = 0.02


def wait_until(condition: Callable[[], object], seconds: float = LONGEST_S) -> bool:
    """Say whether the condition holds: as soon as it does, or at the end of these seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(LOOK_S)
    return bool(condition())


@contextmanager
def ended_at_last(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """End a process and close its pipes, whatever becomes of the test."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with suppress(OSError):  # what was written and never read
                    pipe.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let what is started within be interrupted, also where the tests themselves are deaf to it: a
    shell starts its background jobs with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

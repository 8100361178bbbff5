"""The log of a step: what it, and the device it ran on, said by the logging module meanwhile."""

from __future__ import annotations

import hashlib
import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "log.txt"
LONGEST = 200  # characters of a folder's name; file systems take 255 bytes


def folder_of(runs: Path, step: str) -> Path:
    """The folder that a step of a run has to itself, and in it its log."""
    name = step.replace("/", "+")
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return runs / name


def append_traceback(folder: Path, error: BaseException) -> None:
    """Keep where a stage broke."""
    with (folder / NAME).open("a", encoding="utf-8") as log:
        traceback.print_exception(error, file=log)


@contextmanager
def step_log(folder: Path, device: str) -> Iterator[None]:
    """Append to the step's log what this thread logs, and what is logged as `<device>: ...` by whichever thread: the
    reader of a board's standard error is another one."""
    thread = threading.get_ident()
    handler = logging.FileHandler(folder / NAME, encoding="utf-8", delay=True)
    handler.addFilter(lambda record: record.thread == thread or record.getMessage().startswith(f"{device}: "))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()

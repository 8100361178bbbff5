"""The log of a step: what it, and the device it ran on, said by the logging module meanwhile."""

from __future__ import annotations

import hashlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
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
def step_log(folder: Path, device: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Append to the step's log what this thread logs, and what is logged as `<device>: ...` by whichever thread: the
    reader of a board's standard error is another one. A warning of the device is for `warn`, too."""
    thread = threading.get_ident()
    handlers = (
        logging.FileHandler(folder / NAME, encoding="utf-8", delay=True),
        _Warnings(device, warn),
    )
    handlers[0].addFilter(
        lambda record: record.thread == thread or record.getMessage().startswith(f"{device}: ")
    )
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _Warnings(logging.Handler):
    """Passes on the warnings of a device."""

    def __init__(self, device: str, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.device = device
        self.warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(f"{self.device}: "):
            self.warn(record.getMessage())

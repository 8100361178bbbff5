"""The log of a step: what it, and the device it ran on, wrote by the logging module meanwhile."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qpipe.digests import digest_text

NAME = "log.txt"
LONGEST_NAME = 200  # characters of a folder's name; file systems take 255 bytes


def step_folder(run_folder: Path, step: str) -> Path:
    """Return the folder of one step of a run; its log lies in it.

    It is a folder in that of the run, whatever the name of the step is.
    """
    name = step.replace("/", "+").replace("\0", "")
    if name.strip(".") == "":
        name = f"{name}+"
    if len(name) > LONGEST_NAME:
        digest = digest_text(name)[:16]
        name = f"{name[: LONGEST_NAME - 17]}-{digest}"
    return run_folder / name


def read_log(run_folder: Path, step: str) -> str:
    """Return the log of a step; empty where there is none."""
    try:
        return (step_folder(run_folder, step) / NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def append_traceback(folder: Path, error: BaseException) -> None:
    """Append the traceback of an error to the log in a step's folder."""
    with (folder / NAME).open("a", encoding="utf-8") as log:
        traceback.print_exception(error, file=log)


@contextmanager
def write_step_log(folder: Path, device: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Append to the step's log what this thread logs, and what any thread logs of the device.

    Messages of a device begin with `<device>: `; the thread that reads a board's standard error is
    not the one that carries out the step. Warnings of the device are passed to `warn` too.
    """
    thread = threading.get_ident()

    def belongs_to_step(record: logging.LogRecord) -> bool:
        return record.thread == thread or record.getMessage().startswith(f"{device}: ")

    log_file = logging.FileHandler(folder / NAME, encoding="utf-8", delay=True)
    log_file.addFilter(belongs_to_step)
    handlers = (log_file, _DeviceWarnings(device, warn))
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _DeviceWarnings(logging.Handler):
    """Passes on the warnings of one device."""

    def __init__(self, device: str, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.device = device
        self.warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(f"{self.device}: "):
            self.warn(message)

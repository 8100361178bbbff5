"""The lock of a run: one process carries it out, and its end, in whatever way, ends the lock."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

NAME = "lock"  # in the folder of the run


def lock_run(folder: Path) -> IO[str] | None:
    """Return a lock on a run that ends with this process; None where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / NAME).open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def is_carried_out(folder: Path) -> bool:
    """Return whether a process carries out the run of this folder now."""
    if not (folder / NAME).exists():
        return False
    lock = lock_run(folder)
    if lock is None:
        return True
    lock.close()
    return False

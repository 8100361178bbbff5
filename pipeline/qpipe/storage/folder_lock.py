"""A folder that one process has to itself, until it ends in whatever way."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path


def lock_folder(folder: Path, stack: ExitStack) -> bool:
    """Lock a folder until the stack unwinds or this process ends; return whether that succeeded.

    It fails where another process has the lock or removed the folder, and for a link.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except OSError:
        return False

"""The folder for qpipe's files on a device: its owner's alone.

It needs nothing but Python: it also travels with the programs that start before the agent.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

PRIVATE_UMASK = 0o077
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_private(path: str) -> str:
    """Make a folder where it is missing; return why it must not be used, or "".

    What this process makes from now on is its owner's alone. Raise OSError where the folder cannot
    be made.
    """
    os.umask(PRIVATE_UMASK)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        return f"{path} belongs to user {status.st_uid}, who could change what is run"
    if status.st_mode & WRITABLE_BY_OTHERS:
        return f"{path} may be written by others, who could change what is run"
    return ""

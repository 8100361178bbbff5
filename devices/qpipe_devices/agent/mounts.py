"""On which mount a folder lies, and whether programs may run from there.

It needs nothing but Python: it also travels with the programs that start before the agent.
"""

from __future__ import annotations

import os

MOUNTS = "/proc/self/mountinfo"
SPACE = "\\040"  # as the kernel writes it there


def mount_of(path: str) -> str:
    """Return the folder at which the file system of a path is mounted; "/" where nobody tells."""
    place = os.path.realpath(path)
    mount = "/"
    try:
        with open(MOUNTS, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            points = [line.split(" ")[4].replace(SPACE, " ") for line in file]
    except (OSError, IndexError):  # not Linux
        return mount
    for point in points:
        is_around = place == point or place.startswith(point.rstrip("/") + "/")
        if is_around and len(point) >= len(mount):
            mount = point
    return mount


def is_noexec(path: str) -> bool:
    """Return whether nothing may be run from the mount of a path that exists."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except (OSError, AttributeError):  # AttributeError: not Linux
        return False

"""What kind of failure it was, in the words of qpipe.errors.Failure: the host decides by them what to do next."""

from __future__ import annotations

import errno
from pathlib import Path

# of what the operating system says; all else is of what was asked for
OF_ERRNO = {
    errno.ENOSPC: "no room",
    errno.EDQUOT: "no room",
    errno.ENOMEM: "out of memory",
    errno.EIO: "died",
    errno.EROFS: "configuration",
    errno.EACCES: "configuration",
    errno.EPERM: "configuration",
}
# how allocators, numpy and the runtimes word it
NO_MEMORY = (
    "bad_alloc",
    "memoryerror",
    "out of memory",
    "cannot allocate memory",
    "unable to allocate",
    "failed to allocate",
    "memory allocation still failed",
)


class AgentError(Exception):
    """What the host's user is told, without the device's name."""

    def __init__(self, message: str, failure: str = "artifact") -> None:
        super().__init__(message)
        self.failure = failure


class RuntimeMissingError(ValueError):
    """The runtime that a build is for cannot be imported."""


def of(error: BaseException) -> str:
    """The failure that an exception stands for."""
    if isinstance(error, AgentError):
        return error.failure
    if isinstance(error, RuntimeMissingError):
        return "configuration"
    if isinstance(error, OSError):
        return OF_ERRNO.get(error.errno or 0, "artifact")
    return "out of memory" if isinstance(error, MemoryError) else of_text(str(error))


def said(error: BaseException) -> str:
    """An exception in words."""
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.filename}: {error.strerror.lower()}"
            if error.filename
            else error.strerror.lower()
        )
    return str(error) or type(error).__name__


def of_text(text: str) -> str:
    """The failure that a runtime's last words stand for: of the build, unless they are about memory."""
    return "out of memory" if any(words in text.lower() for words in NO_MEMORY) else "artifact"


def oom_kills() -> int | None:
    """How often the kernel has killed a process for want of memory since it started; None where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return None

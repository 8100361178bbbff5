"""The type of a failure, as qpipe.errors.Failure names it; a host decides by it on a retry."""

from __future__ import annotations

import errno
from pathlib import Path

from .mounts import mount_of

BUILD_FAILURE = "build"  # the fault of what was requested, such as the build
# failures that the operating system reports; any other error is the fault of what was requested
FAILURE_OF_ERRNO = {
    errno.ENOSPC: "no room",
    errno.EDQUOT: "no room",
    errno.ENOMEM: "out of memory",
    errno.EIO: "died",
    errno.EROFS: "configuration",
    errno.EACCES: "configuration",
    errno.EPERM: "configuration",
    errno.ELOOP: "configuration",
}
ERRNOS_OF_MOUNTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# phrases of allocators, numpy and the runtimes, in lower case
OUT_OF_MEMORY_PHRASES = (
    "bad_alloc",
    "memoryerror",
    "out of memory",
    "cannot allocate memory",
    "unable to allocate",
    "failed to allocate",
    "memory allocation still failed",
)


class AgentError(Exception):
    """An error for the user of the host, without the name of the device."""

    def __init__(self, message: str, *, failure: str = BUILD_FAILURE) -> None:
        super().__init__(message)
        self.failure = failure


class RuntimeMissingError(ValueError):
    """The runtime of a build cannot be imported."""


def failure_of(error: BaseException) -> str:
    """Return the type of failure of an exception."""
    if isinstance(error, AgentError):
        return error.failure
    if isinstance(error, RuntimeMissingError):
        return "configuration"
    if isinstance(error, OSError):
        return FAILURE_OF_ERRNO.get(error.errno or 0, BUILD_FAILURE)
    if isinstance(error, MemoryError):
        return "out of memory"
    return failure_of_text(str(error))


def failure_of_text(text: str) -> str:
    """Return the type of failure of a runtime's message: the build's, unless it is about memory."""
    lowered = text.lower()
    if any(phrase in lowered for phrase in OUT_OF_MEMORY_PHRASES):
        return "out of memory"
    return BUILD_FAILURE


def message_of(error: BaseException) -> str:
    """Return an exception as a message for the user."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    reason = error.strerror.lower()
    if error.filename and error.errno in ERRNOS_OF_MOUNTS:
        return f"{error.filename}, mounted at {mount_of(str(error.filename))}: {reason}"
    if error.filename:
        return f"{error.filename}: {reason}"
    return reason


def count_oom_kills() -> int | None:
    """Return how many processes the kernel has killed for lack of memory since it booted.

    None where the kernel does not report it.
    """
    try:
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return None

"""Retries after a connection was lost: how many, after what pauses, and when to give up."""

from __future__ import annotations

import logging
import threading
import time

from qpipe.errors import TRANSIENT, DeviceError, Failure

PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before the first retry, the second ...; then the last one

log = logging.getLogger(__name__)


class ConnectionLostError(DeviceError):
    """The conversation is over, whatever was requested; a new one may succeed."""

    failure: Failure = "died"


class Retries:
    """The retries of one request.

    They go on for `seconds` after the connection was first lost, unless `given_up` is set.
    """

    def __init__(self, seconds: float, given_up: threading.Event) -> None:
        self.seconds = seconds
        self.given_up = given_up
        self.count = 0
        self.deadline = 0.0

    def reset(self) -> None:
        """Note progress: the next loss counts as the first."""
        self.count = 0

    def wait_or_raise(self, error: DeviceError) -> None:
        """Wait before the next retry; raise the error where there is to be none.

        There is none where the error cannot pass by itself, where the retries have taken too long,
        and where they were given up.
        """
        is_first = self.count == 0
        if is_first:
            self.deadline = time.monotonic() + self.seconds
        if not _may_pass(error, is_first=is_first):
            raise error
        pause_s = PAUSES_S[min(self.count, len(PAUSES_S) - 1)]
        self.count += 1
        if time.monotonic() + pause_s >= self.deadline or self.given_up.wait(pause_s):
            raise error
        log.warning("%s; trying again", error)


def _may_pass(error: DeviceError, *, is_first: bool) -> bool:
    """Return whether a retry may succeed: at first only after a loss of the connection."""
    if isinstance(error, ConnectionLostError):
        # any other failure: the deadline of the request ended the conversation, and it is over
        return error.failure in ("died", "unreachable")
    return not is_first and error.failure in TRANSIENT

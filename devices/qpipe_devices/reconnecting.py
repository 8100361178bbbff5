"""Going on after a line was lost: how often, after what pauses, and when to give up."""

from __future__ import annotations

import logging
import threading
import time

from qpipe.errors import TRANSIENT, DeviceError, Failure

PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before the first try, the second ...; then always the last


log = logging.getLogger(__name__)


class ConnectionLostError(DeviceError):
    """The conversation is over, whatever was asked; a new one may succeed."""

    failure: Failure = "died"


class Patience:
    """For one request: it is asked again for `seconds` after the line was first lost, unless `given_up` is set."""

    def __init__(self, seconds: float, given_up: threading.Event) -> None:
        self.seconds = seconds
        self.given_up = given_up
        self.tries = 0
        self.end = 0.0

    def renew(self) -> None:
        """There was progress: what comes is a loss of its own."""
        self.tries = 0

    def take(self, error: DeviceError) -> None:
        """Wait before the next try; raises the error where there is to be none: it is no loss, or it has lasted."""
        is_first = self.tries == 0
        passes = isinstance(error, ConnectionLostError) if is_first else error.failure in TRANSIENT
        # the deadline of the request is over when it ends a conversation
        overdue = isinstance(error, ConnectionLostError) and error.failure not in (
            "died",
            "unreachable",
        )
        if is_first:
            self.end = time.monotonic() + self.seconds
        pause = PAUSES_S[min(self.tries, len(PAUSES_S) - 1)]
        self.tries += 1
        if (
            not passes
            or overdue
            or time.monotonic() + pause >= self.end
            or self.given_up.wait(pause)
        ):
            raise error
        log.warning("%s; trying again", error)

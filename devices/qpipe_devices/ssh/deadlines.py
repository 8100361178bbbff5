"""Ends calls that take too long: a silent peer is waited for without end, unless the connection is closed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], cut: Callable[[], None]) -> T:
    """What `call` gives, or TimeoutError once the seconds are over: then `cut` closes what it opened.

    It runs in a thread of its own, for name servers and SSH agents cannot be hurried; what it opens too late is closed
    as well, so `cut` may be called twice.
    """
    future: Future[T] = Future()
    given_up = threading.Event()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (it belongs to who waits)
            future.set_exception(error)
        if given_up.is_set():
            cut()

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except BaseException:  # the interrupt of whoever waits, too
        given_up.set()
        cut()
        raise


class Watch:
    """A context that may take `seconds`, and `stalled` of them without `moved` being called; then it is cut off.

    What is cut off raises something or other; here it becomes a TimeoutError that says which of the two it was.
    """

    def __init__(
        self, cut: Callable[[], None], seconds: float, stalled: float | None = None
    ) -> None:
        self.cut = cut
        self.seconds = seconds
        self.stalled = stalled or seconds
        self.began = self.last = time.monotonic()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.reason = ""

    def moved(self) -> None:
        """Say that it goes on."""
        self.last = time.monotonic()

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        if self.reason and isinstance(error, Exception):
            raise TimeoutError(self.reason) from error

    def overdue(self, now: float) -> str:
        """Say why it is to be cut off at a moment of the monotonic clock; "" while it may go on."""
        if now >= self.began + self.seconds:
            return f"not done within {self.seconds:g} s"
        return f"nothing moved for {self.stalled:g} s" if now >= self.last + self.stalled else ""

    def _look(self) -> None:
        while not self.over.wait(
            max(0.0, min(self.began + self.seconds, self.last + self.stalled) - time.monotonic())
        ):
            self.reason = self.overdue(time.monotonic())
            if self.reason:
                self.cut()
                return

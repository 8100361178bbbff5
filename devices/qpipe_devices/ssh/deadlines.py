"""Deadlines for calls that may block for ever, such as those that wait for a silent peer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


def call_within(seconds: float, call: Callable[[], T], *, cancel: Callable[[], None]) -> T:
    """Return what `call` returns; raise TimeoutError where it takes longer than `seconds`.

    `call` runs in a thread of its own, because name servers and SSH agents cannot be interrupted.
    `cancel` closes what it has opened. It is called at the deadline, and again where `call` ends
    after it: what was opened too late is closed as well.
    """
    future: Future[T] = Future()
    cancelled = threading.Event()

    def call_and_store() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits)
            future.set_exception(error)
        if cancelled.is_set():
            cancel()

    threading.Thread(target=call_and_store, daemon=True).start()
    try:
        return future.result(seconds)
    except BaseException:  # including KeyboardInterrupt
        cancelled.set()
        cancel()
        raise


class Watchdog:
    """A context manager that cancels its block when it takes too long or stalls.

    The block may take `seconds`, and `stalled_s` of them without a call of `note_progress`. Then
    `cancel` is called, and the exception that this raises in the block becomes a TimeoutError that
    says which of the two limits was reached.
    """

    def __init__(
        self, cancel: Callable[[], None], seconds: float, stalled_s: float | None = None
    ) -> None:
        self.cancel = cancel
        self.seconds = seconds
        self.stalled_s = stalled_s or seconds
        self.started_at = time.monotonic()
        self.last_progress_at = self.started_at
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.reason = ""

    def note_progress(self) -> None:
        """Restart the time that the block may stall."""
        self.last_progress_at = time.monotonic()

    def reason_to_cancel(self, now: float) -> str:
        """Return which limit is exceeded at `now`, by the monotonic clock; "" where none is."""
        if now >= self.started_at + self.seconds:
            return f"not done within {self.seconds:g} s"
        if now >= self.last_progress_at + self.stalled_s:
            return f"nothing moved for {self.stalled_s:g} s"
        return ""

    def __enter__(self) -> Watchdog:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finished.set()
        if self.reason and isinstance(error, Exception):
            raise TimeoutError(self.reason) from error

    def _watch(self) -> None:
        while not self.finished.wait(self._seconds_to_next_limit()):
            self.reason = self.reason_to_cancel(time.monotonic())
            if self.reason:
                self.cancel()
                return

    def _seconds_to_next_limit(self) -> float:
        next_limit = min(self.started_at + self.seconds, self.last_progress_at + self.stalled_s)
        return max(0.0, next_limit - time.monotonic())

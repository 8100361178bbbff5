"""How a run is steered from outside, and what runs of one process share of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from qpipe.engine.resources import fits, total
from qpipe.types import Resources


class SharedHost:
    """This machine, as the steps of all runs of this process use it.

    One result is made by one run at a time, and what measures the moment here is alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: list[Resources] = []
        self._making: set[tuple[str, str]] = set()  # kind and key
        self.running = 0  # steps, also on boards
        self._is_quiet = False  # for a step that measures the moment here

    def take(self, share: Resources, capacity: Resources) -> bool:
        """Take a share where it is free; return whether it was."""
        with self._lock:
            has_room = fits(total([*self._taken, share]), capacity)
            if has_room:
                self._taken.append(share)
            return has_room

    def give_back(self, share: Resources) -> None:
        """Give back a share that was taken."""
        with self._lock:
            self._taken.remove(share)

    def begin(self, result: tuple[str, str] | None, *, is_quiet: bool = False) -> bool:
        """Note that a step begins; return whether it may.

        `result` is the kind and key of what it makes on this machine. A quiet step begins where
        nothing runs, and nothing else begins before its end.
        """
        with self._lock:
            if self._is_quiet or (is_quiet and self.running) or result in self._making:
                return False
            if result is not None:
                self._making.add(result)
            self.running += 1
            self._is_quiet = is_quiet
            return True

    def end(self, result: tuple[str, str] | None, *, is_quiet: bool = False) -> None:
        """Note that a step which had begun has ended."""
        with self._lock:
            if result is not None:
                self._making.discard(result)
            self.running -= 1
            if is_quiet:
                self._is_quiet = False


@dataclass(frozen=True)
class RunControl:
    """When a run has to end before its time, and which machine it shares with others."""

    is_over: Callable[[], bool] = lambda: False  # no step begins any more, and what runs is cut
    stop: threading.Event = field(default_factory=threading.Event)  # ends it, as Ctrl-C does
    host: SharedHost = field(default_factory=SharedHost)

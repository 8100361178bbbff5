"""The steps that could start at one place, in the order of the plan."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from qpipe.engine.plan import Step


class Lane:
    """The steps that could start at one place: at this machine, or on a board.

    A board may be several devices of the inventory.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.running = 0  # steps
        self._ready: dict[str | None, list[tuple[int, str]]] = {}  # by device

    @property
    def is_free(self) -> bool:
        """Whether one more step may run there."""
        return self.running < self.slots

    def add(self, step: Step, position: int) -> None:
        """Add a step that is ready, with its position in the plan."""
        heappush(self._ready.setdefault(step.device, []), (position, step.id))

    def take(self, is_in_turn: Callable[[str | None], bool]) -> str | None:
        """Remove and return the first step of a device in turn, else of any; None without any."""
        if not self._ready:
            return None
        device = min(self._ready, key=lambda name: (not is_in_turn(name), self._ready[name]))
        _, step = heappop(self._ready[device])
        if not self._ready[device]:
            del self._ready[device]
        return step

    def note_end(self, step: str) -> None:
        """Note that a step which was taken does not run any more: a place has no shares."""

    def has_ready(self, device: str) -> bool:
        """Return whether a step is ready on a device."""
        return device in self._ready

    def drop(self, device: str) -> None:
        """Drop the steps of a device, which is lost."""
        self._ready.pop(device, None)

    def clear(self) -> None:
        """Drop all steps."""
        self._ready.clear()

"""The steps of the host that could start, and what those that run there take."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from qpipe.engine.plan import Step
from qpipe.engine.resources import resources_of, within
from qpipe.engine.run_control import SharedHost
from qpipe.types import Resources

# so often a step that finds no room lets smaller ones start that come after it in the plan
MOST_OVERTAKINGS = 32


class HostLane:
    """Starts a step where its share of memory, threads and GPUs is free.

    Steps start in the order of the plan. One that finds no room lets smaller ones go first, a
    number of times: then the others wait until there is room for it.
    """

    def __init__(self, capacity: Callable[[], Resources], shared: SharedHost | None = None) -> None:
        self.capacity = capacity
        self.shared = shared or SharedHost()  # with other runs of this process
        self.running = 0  # steps
        self._taken: dict[str, Resources] = {}  # by running step
        # by what they take, of which there are few: looking for one costs the same however many
        self._ready: dict[Resources, list[tuple[int, str]]] = {}
        self._first_waiting = ""  # the first step in the order of the plan, while it finds no room
        self._overtakings = 0

    @property
    def is_free(self) -> bool:
        """Whether one more step may start there, if there is room for it."""
        return bool(self._ready)

    def add(self, step: Step, position: int) -> None:
        """Add a step that is ready, with its position in the plan."""
        heappush(self._ready.setdefault(resources_of(step), []), (position, step.id))

    def take(self, is_in_turn: Callable[[str | None], bool]) -> str | None:  # noqa: ARG002  (as of a Lane)
        """Remove and return the first step that there is room for; None where there is none."""
        if not self._ready:
            return None
        capacity = self.capacity()
        candidates = sorted(self._ready, key=self._ready.__getitem__)
        _, first = self._ready[candidates[0]][0]
        for resources in candidates:
            share = within(resources, capacity)
            if self.shared.take(share, capacity):
                return self._start(resources, share)
            if resources is candidates[0] and self._must_wait_for(first):
                return None
        return None

    def _must_wait_for(self, first: str) -> bool:
        """Return whether the first step was overtaken so often that others wait for it now."""
        if first != self._first_waiting:
            self._first_waiting = first
            self._overtakings = 0
        return self._overtakings >= MOST_OVERTAKINGS

    def _start(self, resources: Resources, share: Resources) -> str:
        _, step = heappop(self._ready[resources])
        if not self._ready[resources]:
            del self._ready[resources]
        if self._first_waiting and step != self._first_waiting:
            self._overtakings += 1
        self._taken[step] = share
        return step

    def note_end(self, step: str) -> None:
        """Note that a step which was taken does not run any more."""
        self.shared.give_back(self._taken.pop(step))

    def drop(self, device: str) -> None:
        """Drop the steps of a device, of which there are none here."""

    def clear(self) -> None:
        """Drop all steps that do not run."""
        self._ready.clear()

"""What happens to the steps of a run, as one stream of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from qpipe.errors import Failure

# "retry" ends an attempt that another one follows, which is "started" after a pause;
# a "notice" is a message about a step that goes on; "planned" is of no step: `total` is the number
# of all, `done` of those that have ended
EventKind = Literal[
    "planned", "started", "progress", "notice", "retry", "done", "cached", "failed", "skipped"
]
ENDINGS: tuple[EventKind, ...] = ("done", "cached", "failed", "skipped")


@dataclass(frozen=True)
class Event:
    """One thing that happened to one step, or the plan of all."""

    step: str
    what: EventKind
    seconds: float = 0.0  # since this attempt of the step started
    done: float = 0.0  # progress, in `unit`
    total: float | None = None  # of `done`, where it is known
    unit: str = ""
    message: str = ""  # the reason of a failure or a skip; the text of a notice
    failure: Failure | None = None  # the type of the failure
    coordinates: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ending(self) -> bool:
        """Whether the step has ended with it."""
        return self.what in ENDINGS


Listener = Callable[[Event], None]
Notify = Callable[[str], None]  # shows the user a message that belongs to no step

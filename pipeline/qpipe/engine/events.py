"""What happens in a run, as one stream: the display, the store and plugins listen to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from qpipe.errors import Failure

# an attempt ends with "retry" where another follows: that is "started" after a while; a "notice" is something to know
# of a step that goes on
What = Literal["started", "progress", "notice", "retry", "done", "cached", "failed", "skipped"]
ENDINGS: tuple[What, ...] = ("done", "cached", "failed", "skipped")


@dataclass(frozen=True)
class Event:
    """One thing that happened to one step."""

    step: str
    what: What
    seconds: float = 0.0  # since this attempt of the step began
    done: float = 0.0  # progress, in `unit`; total is None where nobody knows
    total: float | None = None
    unit: str = ""
    message: str = ""  # why it failed or was skipped; the notice
    failure: Failure | None = None  # the type of why it failed
    coordinates: Mapping[str, str] = field(default_factory=dict)


Listener = Callable[[Event], None]

"""Every error qpipe raises on purpose, and how it is worded.

QpipeError
├── RecipeError     what the user wrote is wrong (a recipe, an option, an inventory); exit status 2
├── PluginError     a plugin does not load, clashes, or broke its contract
├── StageError      a stage could not do its work on this input
│   └── IncompleteError  it did a part, which is kept
└── DeviceError     a device, or the way to it, failed
    └── BusyError       another run is at it

A message is one line: `<where>: <what is wrong>; <what would be right>`, lower case, naming the value given and the
values allowed. Where is file:line, a step or a device. Several wrong things are several arguments, a line each.
Anything that is not a QpipeError is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal

# what a failure is the fault of; only the transient ones may pass by themselves
Failure = Literal[
    "configuration",
    "artifact",
    "unreachable",
    "died",
    "timeout",
    "no room",
    "out of memory",
    "wrong answer",
    "throttled",
    "bug",
]
TRANSIENT: frozenset[Failure] = frozenset({"unreachable", "died", "timeout", "throttled"})

LONGEST = 2000  # characters of a line: what a user gave may be of any length


class QpipeError(Exception):
    """The one class to catch; its text is a sentence for the user, or several in a line each.

    `failure` is its type: that of its class, unless who raises it knows better.
    """

    failure: Failure = "bug"

    def __init__(self, *lines: str, failure: Failure | None = None) -> None:
        super().__init__(*lines)
        if failure:
            self.failure = failure

    def __str__(self) -> str:
        return "\n".join(_line(str(argument)) for argument in self.args)


def _line(text: str) -> str:
    """Fit for a terminal, whatever is quoted in it: one line, its end kept."""
    text = printable(text)
    return (
        text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[6 - LONGEST // 2 :]}"
    )


def printable(text: str) -> str:
    """One line with nothing in it that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


class RecipeError(QpipeError):
    """What the user wrote cannot be meant; nothing has run yet."""

    failure: Failure = "configuration"


class PluginError(QpipeError):
    """A plugin does not load, clashes with another, or broke the contract of its kind."""

    failure: Failure = "configuration"


class StageError(QpipeError):
    """A stage cannot do its work on this input; its branch of the run stops here."""

    failure: Failure = "artifact"


class IncompleteError(StageError):
    """A measuring stage could not do all of its work: what it has is kept, and the step counts as failed."""

    def __init__(
        self, message: str, measurements: list[Any], failure: Failure | None = None
    ) -> None:
        super().__init__(message, failure=failure)
        self.measurements = measurements


class DeviceError(QpipeError):
    """A device, or the way to it, failed; it says nothing about the network."""

    failure: Failure = "unreachable"


class BusyError(DeviceError):
    """Another run is at the device; it will be free when that ends."""


def suggest(given: str, known: Iterable[str]) -> str:
    """The second half of a message about an unknown name: the near miss, or all that there is."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.75)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there is {', '.join(names)}" if names else "there is none"

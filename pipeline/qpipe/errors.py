"""Every error that qpipe raises on purpose, and how it is worded.

QpipeError
├── RecipeError     the user's input is wrong (a recipe, an option, an inventory); exit status 2
├── PluginError     a plugin does not load, clashes, or broke its contract
├── StageError      a stage cannot do its work on this input
│   └── IncompleteError  a part of the work was done, and is kept
└── DeviceError     a device, or the connection to it, failed
    └── BusyError       another run uses the device

A message is one line: `<where>: <what is wrong>; <what would be right>`, lower case, naming the
value given and the values allowed. <where> is file:line, a step or a device. Several faults are
several arguments, one line each. Anything that is not a QpipeError is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

# the cause of a failure; only transient failures may pass by themselves
Failure = Literal[
    "configuration",
    "build",
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

MAX_SUGGESTIONS = 3
MIN_SIMILARITY = 0.8
LONGEST_LINE = 2000  # characters; quoted input may be of any length


class QpipeError(Exception):
    """The base class to catch; its text is one sentence for the user, or several, a line each.

    `failure` is the type of the failure: that of the class, unless the raiser gives another.
    """

    failure: Failure = "bug"

    def __init__(self, *lines: str, failure: Failure | None = None) -> None:
        super().__init__(*lines)
        if failure:
            self.failure = failure

    def __str__(self) -> str:
        return "\n".join(_one_line(str(argument)) for argument in self.args)


def _one_line(text: str) -> str:
    """Return text as one printable line; a long one loses its middle."""
    line = printable(text)
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} ... {line[6 - half :]}"


def printable(text: str) -> str:
    """Return text as one line without control characters, so that a terminal only shows it."""
    if text.isprintable():
        return text
    return "".join(_printable_character(character) for character in text)


def _printable_character(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return ascii(character)[1:-1]


class RecipeError(QpipeError):
    """The user's input is wrong; nothing has run yet."""

    failure: Failure = "configuration"


class PluginError(QpipeError):
    """A plugin does not load, clashes with another, or broke the contract of its kind."""

    failure: Failure = "configuration"


class StageError(QpipeError):
    """A stage cannot do its work on this input; its branch of the run stops here."""

    failure: Failure = "build"


class IncompleteError(StageError):
    """A measuring stage did a part of its work: its measurements are kept, and the step failed."""

    def __init__(
        self, message: str, measurements: list[Any], failure: Failure | None = None
    ) -> None:
        super().__init__(message, failure=failure)
        self.measurements = measurements


class DeviceError(QpipeError):
    """A device, or the connection to it, failed; it says nothing about the network."""

    failure: Failure = "unreachable"


class BusyError(DeviceError):
    """Another run uses the device; it is free when that run ends."""


def suggest(name: str, known_names: Iterable[str]) -> str:
    """Return the second half of a message about an unknown name: a near miss, or all names."""
    names = sorted(known_names)
    near_misses = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    if near_misses:
        return f"did you mean '{near_misses[0]}'?"
    if names:
        return f"there is {', '.join(names)}"
    return "there is none"


def unknown_step(step: str, steps: Iterable[str], *, where: str, list_command: str) -> QpipeError:
    """Return the error for a step that a plan or a run does not have.

    It names similar steps, or the command that lists all of the many.
    """
    similar = difflib.get_close_matches(step, list(steps), n=MAX_SUGGESTIONS, cutoff=MIN_SIMILARITY)
    if similar:
        names = " or ".join(repr(name) for name in similar)
        hint = f"did you mean {names}?"
    else:
        hint = f"see them with: {list_command}"
    return QpipeError(f"{where}: no step '{step}'; {hint}")


def shown(path: Path) -> str:
    """Return a path as the user would type it: relative to the working directory if below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)

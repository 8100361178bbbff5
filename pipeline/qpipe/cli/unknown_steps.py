"""The error for a step that a plan or a run does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from qpipe.errors import QpipeError

MAX_SUGGESTIONS = 3
MIN_SIMILARITY = 0.8


def unknown_step(step: str, steps: Iterable[str], *, where: str, list_command: str) -> QpipeError:
    """Return the error: it names similar steps, or the command that lists all of the many."""
    similar = difflib.get_close_matches(step, list(steps), n=MAX_SUGGESTIONS, cutoff=MIN_SIMILARITY)
    if similar:
        names = " or ".join(repr(name) for name in similar)
        hint = f"did you mean {names}?"
    else:
        hint = f"see them with: {list_command}"
    return QpipeError(f"{where}: no step '{step}'; {hint}")

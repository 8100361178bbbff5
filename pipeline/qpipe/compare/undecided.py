"""What the data cannot tell of two rows, and how much more data would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qpipe.compare.evidence import (
    MARGINS,
    Goal,
    difference,
    is_better,
    is_no_worse,
    most_lost,
    samples_to_tell,
)
from qpipe.compare.measured_rows import Candidate
from qpipe.types import SHARE, Measurement

LEAST_DISTANCE = 0.5  # of a margin: a difference at the very margin needs endless samples


def undecided_note(
    row: Candidate,
    others: Mapping[str, Candidate],
    objectives: Mapping[str, Goal],
    margins: Mapping[str, float],
) -> str:
    """Return which other row may do away with this one for all that is known, and what would tell.

    That is a row which this one is shown to be better than in no objective. `others` are those of
    the front, by name. Empty where there is none, or where both are shown to be the same.
    """
    notes = []
    for name, other in others.items():
        unknown = _unknown_metrics(row, other, objectives, margins)
        if unknown:
            metric = max(unknown, key=lambda metric: unknown[metric])
            goal = objectives[metric]
            margin = margins.get(metric, MARGINS[goal])
            text = _note(row.metrics[metric], other.metrics[metric], name, goal, margin)
            notes.append((unknown[metric], text))
    return max(notes)[1] if notes else ""


def _unknown_metrics(
    row: Candidate,
    other: Candidate,
    objectives: Mapping[str, Goal],
    margins: Mapping[str, float],
) -> dict[str, float]:
    """Return how far the other may be worse, in margins, by metric where it is not known.

    Empty where this row is shown to be better in any.
    """
    unknown = {}
    for metric, goal in objectives.items():
        margin = margins.get(metric, MARGINS[goal])
        number = row.metrics[metric]
        other_number = other.metrics[metric]
        if is_better(number, other_number, goal, margin):
            return {}
        if is_better(other_number, number, goal, margin):
            continue
        if not is_no_worse(other_number, number, goal, margin):
            allowed = margin * abs(number.value)
            lost = most_lost(other_number, number, goal)
            unknown[metric] = lost / allowed if allowed else math.inf
    return unknown


def _note(
    number: Measurement, other_number: Measurement, other: str, goal: Goal, margin: float
) -> str:
    unit = "rounds" if number.raw == "rounds" else "samples"
    metric = number.metric
    lost = most_lost(other_number, number, goal)
    if not math.isfinite(lost):
        return f"cannot be told apart from {other} in {metric}: it was measured only once"
    beginning = f"cannot be told apart from {other} in {metric}"
    if number.n < 2:
        return f"{beginning} ({other} {_loss_phrase(number, lost, goal)})"
    note = f"{beginning} {_on(number, unit)} ({other} {_loss_phrase(number, lost, goal)})"
    needed = _needed(number, other_number, margin)
    return f"{note}; about {needed} {unit} would tell" if needed else note


def _on(number: Measurement, unit: str) -> str:
    return f"{'in' if unit == 'rounds' else 'on'} {number.n} {unit}"


def _loss_phrase(number: Measurement, lost: float, goal: Goal) -> str:
    if number.unit == SHARE:
        points = 100 * lost
        return f"may lose up to {points:.{0 if points >= 2 else 1}f} points"
    verb = "add" if goal == "min" else "lose"
    if number.value:
        return f"may {verb} up to {100 * lost / abs(number.value):.1f} %"
    return f"may {verb} up to {lost:.3g} {number.unit}".rstrip()


def _needed(number: Measurement, other_number: Measurement, margin: float) -> int | None:
    """Return about how many samples or rounds tell whether the difference is within the margin."""
    low, high = difference(number, other_number)
    half = (high - low) / 2
    allowed = margin * abs(number.value)
    apart = abs(number.value - other_number.value)
    distance = apart if apart > allowed else max(allowed - apart, LEAST_DISTANCE * allowed)
    needed = samples_to_tell(number.n, distance=distance, half=half)
    return None if needed is None else rounded(needed)


def rounded(count: int) -> int:
    """Return a count with two digits, rounded up: more would claim too much."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return math.ceil(count / unit) * unit

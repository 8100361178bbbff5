"""Which trials are worth a measurement on the device: the fronts of what few samples say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qpipe.storage.rows import Goal, TrialRow

FRONTS = 2  # few samples may put a trial behind the front that is on it
STEP = 0.03  # of a cost: a few rounds do not tell smaller differences


def losses(trial: TrialRow, objectives: Mapping[str, Goal]) -> tuple[float, ...]:
    """Return what is to be as small as possible; all trials have all objectives, or failed.

    Costs are rounded to steps of 3 %: a trial is not better for less.
    """
    metrics = trial["metrics"]
    assert metrics is not None
    values = []
    for metric, goal in objectives.items():
        value = metrics[metric]
        if goal == "max":
            values.append(-value)
        else:
            values.append(round(math.log(max(value, 1e-9)) / math.log1p(STEP)))
    return tuple(values)


def survivors(
    trials: Sequence[TrialRow], objectives: Mapping[str, Goal], most: int
) -> list[TrialRow]:
    """Return the trials of the first two fronts, at most so many.

    Of the last front that has room for some of its trials alone these are spread evenly.
    """
    remaining = [trial for trial in trials if trial["metrics"] is not None]
    kept: list[TrialRow] = []
    for _ in range(FRONTS):
        front = _front(remaining, objectives)
        kept += _spread(front, objectives, most - len(kept))
        remaining = [trial for trial in remaining if trial not in front]
    return kept


def _front(trials: Sequence[TrialRow], objectives: Mapping[str, Goal]) -> list[TrialRow]:
    """Return the trials that no other is better than in all objectives; of equals the first."""
    all_losses = [losses(trial, objectives) for trial in trials]
    front = []
    for number, trial_losses in enumerate(all_losses):
        is_double = trial_losses in all_losses[:number]
        if not is_double and not any(_dominates(other, trial_losses) for other in all_losses):
            front.append(trials[number])
    return front


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def _spread(
    front: Sequence[TrialRow], objectives: Mapping[str, Goal], most: int
) -> Sequence[TrialRow]:
    """Return so many trials of a front, evenly spread between both ends."""
    if len(front) <= most:
        return front
    if most < 1:
        return []
    ordered = sorted(front, key=lambda trial: losses(trial, objectives)[::-1])
    last = len(ordered) - 1
    positions = [round(number * last / max(1, most - 1)) for number in range(most)]
    return [ordered[position] for position in positions]

"""The row of a front that is nearest to the best of each objective, for those who ask for it.

How often it is chosen in resamples tells how sure the nearest is, not whether it may be shipped:
that is for `recommend`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import place_title
from qpipe.compare.intervals import Z
from qpipe.compare.json_rows import ParetoRow, groups
from qpipe.compare.row_phrases import (
    OPERATORS,
    best_values,
    certainty_of_limits,
    doubts,
    interval_of,
    keeps,
    limit_text,
    number,
    single_metrics,
)
from qpipe.types import Array, Limits

RESAMPLES = 1000


@dataclass(frozen=True)
class _Criteria:
    """What to choose by."""

    objectives: Mapping[str, Goal]
    limits: Limits

    @property
    def metrics(self) -> list[str]:
        """The metrics of objectives and limits."""
        return list(dict.fromkeys([*self.objectives, *self.limits]))

    @property
    def free_objectives(self) -> Mapping[str, Goal]:
        """The objectives without a limit, which decide among rows within the limits.

        All objectives where each has a limit.
        """
        free = {
            metric: goal for metric, goal in self.objectives.items() if metric not in self.limits
        }
        return free or self.objectives


def choose(
    rows: Sequence[ParetoRow], objectives: Mapping[str, Goal], limits: Limits | None = None
) -> ParetoRow | None:
    """Return the row within the limits that is nearest to the best of each other objective.

    `rows` are those of one model and device. Objectives are scaled to the span of the rows on the
    front. Where numbers are not exact, it is the row that is the nearest most often when all are
    resampled within their intervals: a tiny difference, scaled to the whole span, must not decide.
    None where no row is within the limits.
    """
    criteria = _Criteria(objectives, limits or {})
    candidates = _candidates(rows, criteria)
    times_chosen = _times_chosen(rows, criteria)
    return min(
        candidates,
        key=lambda row: (-times_chosen.get(row["name"], 0), _distance(row, candidates, criteria)),
        default=None,
    )


def _candidates(rows: Sequence[ParetoRow], criteria: _Criteria) -> list[ParetoRow]:
    """Return the rows within the limits that have all objectives; those on the front if any is."""
    eligible = [row for row in rows if keeps(row, criteria.limits)]
    complete = [row for row in eligible if criteria.objectives.keys() <= row["metrics"].keys()]
    on_front = [row for row in complete if row["on_front"]]
    return on_front or complete


def _distance(row: ParetoRow, rows: Sequence[ParetoRow], criteria: _Criteria) -> float:
    """Return how far a row is from the best of each objective, scaled to the span of the rows."""
    distances = []
    for metric, goal in criteria.free_objectives.items():
        values = [other["metrics"][metric]["value"] for other in rows]
        low = min(values)
        high = max(values)
        if high > low:
            best = low if goal == "min" else high
            distances.append(abs(row["metrics"][metric]["value"] - best) / (high - low))
    return math.hypot(*distances)


# ---- the sentence


def describe_knees(
    rows: Sequence[ParetoRow], objectives: Mapping[str, Goal], limits: Limits | None = None
) -> list[str]:
    """Return a sentence for each model and device; the objectives are those measured there."""
    criteria = _Criteria(objectives, limits or {})
    return [_sentence(group, criteria) for group in groups(rows).values()]


def _sentence(rows: Sequence[ParetoRow], criteria: _Criteria) -> str:
    where = place_title(rows)
    if not criteria.metrics:
        return f"{where}: nothing to choose by was measured"
    chosen_row = choose(rows, criteria.objectives, criteria.limits)
    limits = " and ".join(limit_text(metric, criteria.limits) for metric in criteria.limits)
    if chosen_row is None:
        required = limits or " and ".join(criteria.objectives)
        return f"{where}: no scheme has {required}{best_values(rows, criteria.limits)}"
    reason = "the nearest to the best of each objective"
    if limits:
        reason = f"the best with {limits}"
    numbers = ", ".join(number(chosen_row, metric, rows) for metric in criteria.metrics)
    parts = [
        f"{where}: ship {chosen_row['name']}, {reason}: {numbers}",
        doubts(chosen_row, criteria.metrics),
        certainty_of_limits(chosen_row, criteria.limits),
        _certainty_of_choice(chosen_row, rows, criteria),
    ]
    return "; ".join(part for part in parts if part)


def _certainty_of_choice(
    chosen_row: ParetoRow, rows: Sequence[ParetoRow], criteria: _Criteria
) -> str:
    """Return how often the choice is the same when all numbers are resampled, and what it is else.

    Which rows are on the front is not resampled: that was decided by paired evidence, which says
    more than intervals do.
    """
    metrics = criteria.metrics
    single = single_metrics(_complete(rows, metrics), metrics)
    if single:
        verb = "was" if len(single) == 1 else "were"
        return f"its certainty is not known: {' and '.join(single)} {verb} measured only once"
    times_chosen = _times_chosen(rows, criteria)
    if len(times_chosen) < 2:
        return ""
    percent = 100 * times_chosen.pop(chosen_row["name"], 0) / RESAMPLES
    text = f"chosen in {percent:.0f} % of {RESAMPLES} resamples"
    runner_up = max(times_chosen, key=lambda name: times_chosen[name])
    if not times_chosen[runner_up]:
        return text
    return f"{text}, else mostly {runner_up or 'none keeps the limits'}"


# ---- resampling


def _complete(rows: Sequence[ParetoRow], metrics: Sequence[str]) -> list[ParetoRow]:
    """Return the rows that have all these metrics."""
    return [row for row in rows if all(metric in row["metrics"] for metric in metrics)]


def _times_chosen(rows: Sequence[ParetoRow], criteria: _Criteria) -> dict[str, int]:
    """Return in how many resamples each row is chosen, by name, and "" for none.

    Empty where nothing can be resampled: there are fewer than two rows, or one was measured only
    once.
    """
    metrics = criteria.metrics
    complete = _complete(rows, metrics)
    if len(complete) < 2 or not metrics or single_metrics(complete, metrics):
        return {}
    choices = _resampled_choices(complete, criteria)
    counts = np.bincount(choices, minlength=len(complete) + 1).tolist()
    names = [row["name"] for row in complete]
    return dict(zip([*names, ""], counts, strict=True))


def _resampled_choices(rows: Sequence[ParetoRow], criteria: _Criteria) -> Array:
    """Return the row that `choose` would take in each resample, [RESAMPLES].

    It is the number of the row, or that of rows where none is within the limits.
    """
    metrics = criteria.metrics
    random = np.random.default_rng(0)
    values = _resampled_values(rows, metrics, random)
    eligible = _eligible(values, rows, criteria)
    jitter: Array = np.asarray(random.random(eligible.shape))
    distances = 1e-9 * jitter  # of two that are equally near, either
    for metric, goal in criteria.free_objectives.items():
        costs = values[..., metrics.index(metric)]
        if goal == "max":
            costs = -costs
        distances += _scaled_costs(costs, eligible) ** 2
    nearest = np.where(eligible, distances, np.inf).argmin(1)
    choices: Array = np.where(eligible.any(1), nearest, len(rows))
    return choices


def _eligible(values: Array, rows: Sequence[ParetoRow], criteria: _Criteria) -> Array:
    """Return which rows are within the limits and, if any of these is, on the front.

    values: [RESAMPLES, rows, metrics]; returns [RESAMPLES, rows].
    """
    within_limits = np.ones(values.shape[:2], bool)
    for metric, (sign, bound) in criteria.limits.items():
        column = criteria.metrics.index(metric)
        within_limits &= OPERATORS[sign](values[..., column], bound)
    on_front = within_limits & np.array([row["on_front"] for row in rows])
    has_front = on_front.any(1, keepdims=True)
    eligible: Array = np.where(has_front, on_front, within_limits)
    return eligible


def _resampled_values(
    rows: Sequence[ParetoRow], metrics: Sequence[str], random: np.random.Generator
) -> Array:
    """Return values drawn from the intervals of numbers, [RESAMPLES, rows, metrics]."""
    values = np.array([[row["metrics"][metric]["value"] for metric in metrics] for row in rows])
    ends = np.array([[interval_of(row["metrics"][metric]) for metric in metrics] for row in rows])
    deviations = (ends[..., 1] - ends[..., 0]) / 2 / Z
    normal = random.standard_normal((RESAMPLES, *values.shape))
    drawn: Array = values + deviations * normal
    return drawn


def _scaled_costs(costs: Array, eligible: Array) -> Array:
    """Return costs scaled so that the least of the eligible rows is 0 and the most 1."""
    low = np.where(eligible, costs, np.inf).min(1, keepdims=True)
    span = np.where(eligible, costs, -np.inf).max(1, keepdims=True) - low
    has_span = np.isfinite(span) & (span > 0)
    scaled: Array = np.divide(costs - low, span, out=np.zeros_like(costs), where=has_span)
    return scaled

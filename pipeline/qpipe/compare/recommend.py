"""From a front to one sentence: what to ship on this device."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import groups, is_emulated, is_share, phrase, place
from qpipe.compare.intervals import Z
from qpipe.types import Array, Limits

Row = Mapping[str, Any]  # as pareto_rows has them

OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
DRAWS = 1000


def choose(
    rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits | None = None
) -> Row | None:
    """Of one model and device's rows that keep the limits, the one nearest to the best of each other objective.

    Objectives are scaled to what the rows on the front span. Where numbers are not exact, it is the row that is the
    nearest most often when all are drawn anew within their intervals: a hair's breadth, scaled to the whole span, is
    not to decide. None where no row keeps the limits.
    """
    limits = limits or {}
    kept = [
        row for row in rows if keeps(row, limits) and objectives.keys() <= row["metrics"].keys()
    ]
    kept = [row for row in kept if row["on_front"]] or kept
    free = {
        metric: goal for metric, goal in objectives.items() if metric not in limits
    } or objectives
    times = _times(rows, objectives, limits)
    return min(
        kept, key=lambda row: (-times.get(row["name"], 0), _distance(row, kept, free)), default=None
    )


def recommend(
    rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits | None = None
) -> list[str]:
    """A sentence for each model and device; the objectives are those of their verdicts, which were measured there."""
    return [_sentence(group, objectives, limits or {}) for group in groups(rows).values()]


def _sentence(rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits) -> str:
    chosen = choose(rows, objectives, limits)
    where = place(rows)
    if not objectives and not limits:
        return f"{where}: nothing to choose by was measured"
    asked = " and ".join(f"{metric} {sign} {bound:g}" for metric, (sign, bound) in limits.items())
    if chosen is None:
        best = ", ".join(
            filter(None, (_best(rows, metric, sign) for metric, (sign, _) in limits.items()))
        )
        return f"{where}: no scheme has {asked}" + (f"; the best is {best}" if best else "")
    why = f"the best with {asked}" if limits else "the nearest to the best of each objective"
    by = [*dict.fromkeys([*objectives, *limits])]
    metrics = ", ".join(_shown(chosen, metric, rows) for metric in by)
    doubts = (
        _doubted(chosen, by),
        _held(chosen, limits),
        _chosen_again(chosen, rows, objectives, limits),
    )
    return "; ".join([f"{where}: ship {chosen['name']}, {why}: {metrics}", *filter(None, doubts)])


def keeps(row: Row, limits: Limits) -> bool:
    """Whether all of them were measured of the row and are kept."""
    return all(
        metric in row["metrics"] and OPERATORS[sign](row["metrics"][metric]["value"], bound)
        for metric, (sign, bound) in limits.items()
    )


def _doubted(row: Row, metrics: Sequence[str]) -> str:
    """Which of the numbers that speak for it are not to be believed, and why."""
    told = {metric: row["metrics"][metric].get("detail", {}).get("doubt") for metric in metrics}
    by_reason: dict[str, list[str]] = {}
    for metric, why in told.items():
        if why:
            by_reason.setdefault(why, []).append(metric)
    said = [
        f"{' and '.join(own)} {'is' if len(own) == 1 else 'are'} in doubt: {why}"
        for why, own in by_reason.items()
    ]
    return f"but {'; '.join(said)}" if said else ""


def _held(row: Row, limits: Limits) -> str:
    """Whether the limits are kept by the whole interval, too; nothing where that is in doubt or not known."""
    if not limits or _doubted(row, [*limits]) or _once([row], [*limits]):
        return ""
    tight = [
        f"{metric} {sign} {bound:g}"
        for metric, (sign, bound) in limits.items()
        if not all(OPERATORS[sign](each, bound) for each in _bounds(row["metrics"][metric]))
    ]
    return f"but barely: the interval reaches beyond {' and '.join(tight)}" if tight else "surely"


def _once(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Which of the numbers have no interval because they were taken but once: they cannot be drawn anew."""
    once = [
        metric for metric in metrics if any(row["metrics"][metric].get("single") for row in rows)
    ]
    was = "was" if len(once) == 1 else "were"
    return (
        f"nobody knows how sure that is: {' and '.join(once)} {was} taken but once" if once else ""
    )


def _bounds(measured: Mapping[str, Any]) -> tuple[float, float]:
    low = measured["low"]
    high = measured["high"]
    return (measured["value"], measured["value"]) if low is None or high is None else (low, high)


def _chosen_again(
    chosen: Row, rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits
) -> str:
    """How often the choice is the same, and what it is else, where each number is drawn anew as its interval has it.

    Which rows the front has is left as it is: that was decided by paired evidence, which says more than intervals do.
    """
    metrics = [*dict.fromkeys([*objectives, *limits])]
    if once := _once(_whole(rows, metrics), metrics):
        return once
    times = _times(rows, objectives, limits)
    if len(times) < 2:
        return ""
    said = f"chosen in {100 * times.pop(chosen['name'], 0) / DRAWS:.0f} % of {DRAWS} resamples"
    other = max(times, key=lambda name: times[name])
    return f"{said}, else mostly {other or 'none keeps the limits'}" if times[other] else said


def _times(rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits) -> dict[str, int]:
    """In how many draws each row is chosen, by name, and "" for none; nothing where one cannot draw: there are fewer
    than two, or one was measured but once."""
    metrics = [*dict.fromkeys([*objectives, *limits])]
    whole = _whole(rows, metrics)
    if len(whole) < 2 or not metrics or _once(whole, metrics):
        return {}
    times = np.bincount(_draw(whole, metrics, objectives, limits), minlength=len(whole) + 1)
    return dict(zip([*(str(row["name"]) for row in whole), ""], times.tolist(), strict=True))


def _whole(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """Those of which all was measured."""
    return [row for row in rows if all(metric in row["metrics"] for metric in metrics)]


def _draw(
    rows: Sequence[Row], metrics: Sequence[str], objectives: Mapping[str, Goal], limits: Limits
) -> Array:
    """Which of the rows each draw chooses, by `choose`'s rule; their number where it chooses none."""
    values = np.array([[row["metrics"][metric]["value"] for metric in metrics] for row in rows])
    ends = np.array([[_bounds(row["metrics"][metric]) for metric in metrics] for row in rows])
    random = np.random.default_rng(0)
    drawn = values + (ends[..., 1] - ends[..., 0]) / 2 / Z * random.standard_normal(
        (DRAWS, *values.shape)
    )
    kept = np.ones(drawn.shape[:2], bool)
    for metric, (sign, bound) in limits.items():
        kept &= OPERATORS[sign](drawn[..., metrics.index(metric)], bound)
    front = kept & np.array([row["on_front"] for row in rows])
    kept = np.where(front.any(1, keepdims=True), front, kept)
    free = {
        metric: goal for metric, goal in objectives.items() if metric not in limits
    } or objectives
    apart = 1e-9 * random.random(kept.shape)  # of two that are as near, either
    for metric, goal in free.items():
        own = drawn[..., metrics.index(metric)] * (1 if goal == "min" else -1)
        low = np.where(kept, own, np.inf).min(1, keepdims=True)
        span = np.where(kept, own, -np.inf).max(1, keepdims=True) - low
        apart += np.square(
            np.divide(own - low, span, out=np.zeros_like(own), where=np.isfinite(span) & (span > 0))
        )
    found: Array = np.where(kept.any(1), np.where(kept, apart, np.inf).argmin(1), len(rows))
    return found


def _distance(row: Row, rows: Sequence[Row], objectives: Mapping[str, Goal]) -> float:
    parts = []
    for metric, goal in objectives.items():
        values = [other["metrics"][metric]["value"] for other in rows]
        low = min(values)
        high = max(values)
        best = low if goal == "min" else high
        parts.append(
            abs(row["metrics"][metric]["value"] - best) / (high - low) if high > low else 0.0
        )
    return math.hypot(*parts)


def _best(rows: Sequence[Row], metric: str, sign: str) -> str:
    measured = [row for row in rows if metric in row["metrics"]]
    if not measured:
        return f"{metric} not measured"
    choice = min if sign.startswith("<") else max
    row = choice(measured, key=lambda each: float(each["metrics"][metric]["value"]))
    return f"{_shown(row, metric, rows)} ({row['name']})"


def _shown(row: Row, metric: str, rows: Sequence[Row]) -> str:
    measured = row["metrics"][metric]
    text = phrase(metric, measured, is_share(metric, rows))
    return (
        f"emulated {text}" if is_emulated(metric, measured["unit"], row.get("emulated")) else text
    )

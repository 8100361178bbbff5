"""From a front to one sentence: what to ship on this device."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from qpipe.compare.pareto import Goal
from qpipe.compare.wording import is_share, phrase

Row = Mapping[str, Any]  # as pareto_rows has them
Limits = Mapping[str, tuple[Literal["<", "<=", ">", ">="], float]]

OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
SLOWER = 1.01  # this many times the time of float is worth a word


def choose(rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits | None = None) -> Row | None:
    """Of one model and device's rows that keep the limits, the one nearest to the best of each other objective.

    Objectives are scaled to what the rows on the front span. None where no row keeps the limits.
    """
    limits = limits or {}
    kept = [row for row in rows if keeps(row, limits) and objectives.keys() <= row["metrics"].keys()]
    kept = [row for row in kept if row["on_front"]] or kept
    free = {metric: goal for metric, goal in objectives.items() if metric not in limits} or objectives
    return min(kept, key=lambda row: _distance(row, kept, free), default=None)


def recommend(rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits | None = None) -> list[str]:
    """A sentence for each model and device; the objectives are those of their verdicts, which were measured there."""

    def place(row: Row) -> tuple[str, str]:
        return row["model"], row["device"]

    groups = [list(group) for _, group in groupby(sorted(rows, key=place), key=place)]
    return [_sentence(group, objectives, limits or {}) for group in groups]


def _sentence(rows: Sequence[Row], objectives: Mapping[str, Goal], limits: Limits) -> str:
    chosen = choose(rows, objectives, limits)
    where = f"{rows[0]['model']} on {rows[0]['device']}"
    if not objectives and not limits:
        return f"{where}: nothing to choose by was measured"
    asked = " and ".join(f"{metric} {sign} {bound:g}" for metric, (sign, bound) in limits.items())
    if chosen is None:
        best = ", ".join(filter(None, (_best(rows, metric, sign) for metric, (sign, _) in limits.items())))
        return f"{where}: no scheme has {asked}" + (f"; the best is {best}" if best else "")
    why = f"the best with {asked}" if limits else "the nearest to the best of each objective"
    metrics = ", ".join(_shown(chosen, metric, rows) for metric in {**objectives, **dict.fromkeys(limits)})
    slower = "".join(f"; {note}" for note in _slower(rows))
    return f"{where}: ship {_name(chosen, rows)}, {why}: {metrics}{slower}"


def keeps(row: Row, limits: Limits) -> bool:
    """Whether all of them were measured of the row and are kept."""
    return all(
        metric in row["metrics"] and OPERATORS[sign](row["metrics"][metric]["value"], bound)
        for metric, (sign, bound) in limits.items()
    )


def _distance(row: Row, rows: Sequence[Row], objectives: Mapping[str, Goal]) -> float:
    parts = []
    for metric, goal in objectives.items():
        values = [other["metrics"][metric]["value"] for other in rows]
        low, high = min(values), max(values)
        best = low if goal == "min" else high
        parts.append(abs(row["metrics"][metric]["value"] - best) / (high - low) if high > low else 0.0)
    return math.hypot(*parts)


def _best(rows: Sequence[Row], metric: str, sign: str) -> str:
    measured = [row for row in rows if metric in row["metrics"]]
    if not measured:
        return f"{metric} not measured"
    choice = min if sign.startswith("<") else max
    row = choice(measured, key=lambda each: float(each["metrics"][metric]["value"]))
    return f"{_shown(row, metric, rows)} ({_name(row, rows)})"


def _slower(rows: Sequence[Row]) -> list[str]:
    """Quantized rows that take longer than float in the same build."""
    timed = [(row, float(row["metrics"]["latency_ms"]["value"])) for row in rows if "latency_ms" in row["metrics"]]
    floats = {row["build"]: time for row, time in timed if row["is_float"]}
    notes = []
    for row, own in timed:
        base = floats.get(row["build"])
        if base and own > SLOWER * base and not row["is_float"]:
            notes.append(f"{_name(row, rows)} is slower than float here ({own / base:.2f}x)")
    return notes


def _name(row: Row, rows: Sequence[Row]) -> str:
    several = len({other["build"] for other in rows}) > 1
    return f"{row['scheme']}/{row['build']}" if several else str(row["scheme"])


def _shown(row: Row, metric: str, rows: Sequence[Row]) -> str:
    return phrase(metric, row["metrics"][metric], is_share(metric, rows))

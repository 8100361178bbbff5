"""Which schemes are worth having on a device: the Pareto front, decided by evidence, not by the third digit.

Of two rows one is better in a metric where the difference is significant (its 95 % interval leaves out zero) and
beyond a margin, a part of the other's value. The difference is paired wherever both were measured alike: on the same
samples, resamples or interleaved rounds; else the two intervals must not overlap; a number without one is exact.
A row is dominated when another of its model and device is better in an objective and worse in none. Evidence is not
transitive, so that rows may dominate each other in a circle: then it takes one from outside to keep them off the front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from qpipe.compare import statistics
from qpipe.store import COORDINATES, Store
from qpipe.types import Measurement

Goal = Literal["min", "max"]
# a part of the value: what costs is seldom worth a per cent, what is right is worth half of one
MARGINS: Mapping[Goal, float] = {"min": 0.01, "max": 0.005}


@dataclass(frozen=True)
class Candidate:
    """A deployed build and all that was measured of it."""

    model: str
    scheme: str
    build: str
    device: str
    extra: Mapping[str, str]  # the coordinates a sweep added
    runtime: str
    is_float: bool
    metrics: Mapping[str, Measurement]

    @property
    def name(self) -> str:
        return "/".join([self.scheme, self.build, *(f"{key}={value}" for key, value in sorted(self.extra.items()))])


def candidates(store: Store, run: str) -> list[Candidate]:
    """All rows of a run with their raw values, in the order of its steps, which is the recipe's."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    planned = [tuple(step[name] for name in COORDINATES) for step in store.steps(run) if step["kind"] == "deploy"]
    place = {coordinates: number for number, coordinates in enumerate(planned)}
    measured = store.measurements(run)
    for row in sorted(measured, key=lambda row: place.get(tuple(row[name] for name in COORDINATES), len(place))):
        found.setdefault((*(row[name] for name in COORDINATES), *sorted(row["extra"].items())), []).append(row)
    return [
        Candidate(
            **{name: rows[0][name] for name in COORDINATES},
            extra=rows[0]["extra"],
            runtime=rows[0]["runtime"] or "",
            is_float=bool(rows[0]["is_float"]),
            metrics={row["metric"]: _measurement(row, store.values(row["id"])) for row in rows},
        )
        for rows in found.values()
    ]


def _measurement(row: Mapping[str, Any], values: Sequence[Sequence[float]]) -> Measurement:
    names = ("metric", "value", "unit", "low", "high", "n", "better", "raw")
    return Measurement(**{name: row[name] for name in names}, rounds=values, detail=row["detail"] or {})


def difference(one: Measurement, other: Measurement) -> statistics.Interval:
    """The interval of one - other."""
    ones, others = _series(one), _series(other)
    if ones and others and one.raw == other.raw and one.n == other.n and len(ones) == len(others):
        if one.raw == "resamples":
            return statistics.percentiles(np.subtract(ones, others).tolist(), one.value - other.value, one.n)
        apart, interval = statistics.paired_difference(ones, others)
        return interval or (apart, apart)
    one_low, one_high = _interval(one)
    other_low, other_high = _interval(other)
    return one_low - other_high, one_high - other_low


def _series(measurement: Measurement) -> Sequence[float] | None:
    """The values that pair up with another scheme's; None where they do not stand for the number measured."""
    rounds = [list(values) for values in measurement.rounds if len(values)]
    if not rounds:
        return None
    if measurement.raw == "resamples":
        return rounds[0]
    pooled = np.concatenate(rounds)
    medians = [float(np.median(values)) for values in rounds]
    if measurement.raw == "samples":
        series, middles = rounds[0], [np.mean(pooled)]
    else:  # whichever middle a plugin takes of its rounds
        series, middles = medians, [np.median(pooled), np.median(medians), np.mean(medians)]
    stands = any(math.isclose(float(each), measurement.value, rel_tol=1e-6, abs_tol=1e-9) for each in middles)
    return series if stands else None


def _interval(measurement: Measurement) -> statistics.Interval:
    low, high = measurement.low, measurement.high
    return (measurement.value if low is None else low), (measurement.value if high is None else high)


def is_better(one: Measurement, other: Measurement, goal: Goal, margin: float | None = None) -> bool:
    """Whether one is better significantly and beyond the margin, a part of the other's value."""
    low, high = difference(one, other)
    significant = low > 0 if goal == "max" else high < 0
    margin = MARGINS[goal] if margin is None else margin
    gain = one.value - other.value if goal == "max" else other.value - one.value
    return significant and gain > margin * abs(other.value)


def dominates(
    one: Candidate, other: Candidate, objectives: Mapping[str, Goal], margins: Mapping[str, float] | None = None
) -> bool:
    """Whether one is better in an objective and worse in none; both have all of them."""
    better = False
    for metric, goal in objectives.items():
        margin = (margins or {}).get(metric)
        if is_better(other.metrics[metric], one.metrics[metric], goal, margin):
            return False
        better = better or is_better(one.metrics[metric], other.metrics[metric], goal, margin)
    return better


def verdicts(
    rows: Sequence[Candidate], objectives: Mapping[str, Goal], margins: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """For the store: of each row, against all of its model and device, whether it is on the front, and why not.

    An objective that was measured of no row there is left out; `objectives` of the verdicts are those that were used.
    """
    found = []
    asked = objectives
    for group in _groups(rows):
        objectives = {m: goal for m, goal in asked.items() if any(m in row.metrics for row in group)}
        whole = [row for row in group if objectives.keys() <= row.metrics.keys()]
        by = {
            row.name: [other for other in whole if other is not row and dominates(other, row, objectives, margins)]
            for row in whole
        }
        beaten = _beaten(by)
        for row in group:
            place = {name: getattr(row, name) for name in (*COORDINATES, "extra")}
            reason = _reason(row, by, beaten, objectives, group)
            used = {metric: (margins or {}).get(metric, MARGINS[goal]) for metric, goal in objectives.items()}
            found.append({
                **place, "on_front": not reason, "reason": reason, "objectives": dict(objectives), "margins": used,
            })  # fmt: skip
    return found


def _groups(rows: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    for _, group in groupby(sorted(rows, key=_place), key=_place):
        yield list(group)


def _place(row: Candidate) -> tuple[str, str]:
    return row.model, row.device


def _beaten(by: Mapping[str, Sequence[Candidate]]) -> dict[str, set[str]]:
    """Of each row, those that dominate it, directly or through others, and are not dominated by it in the same way."""
    above: dict[str, set[str]] = {}
    for name in by:
        above[name], left = set(), [name]
        while left:
            new = {other.name for other in by[left.pop()]} - above[name]
            above[name] |= new
            left += new
    return {name: {other for other in others if name not in above[other]} for name, others in above.items()}


def _reason(
    row: Candidate,
    by: Mapping[str, Sequence[Candidate]],
    beaten: Mapping[str, set[str]],
    objectives: Mapping[str, Goal],
    group: Sequence[Candidate],
) -> str:
    if row.name not in by:
        return f"{next(metric for metric in objectives if metric not in row.metrics)} was not measured"
    if not beaten[row.name]:
        return ""
    # rather one that does so directly, and is itself on the front
    direct = {other.name for other in by[row.name]}
    winners = [other for other in group if other.name in beaten[row.name]]
    winner = min(winners, key=lambda other: (other.name not in direct, len(beaten[other.name])))
    one_build = len({other.build for other in group}) == 1 and not winner.extra
    return f"dominated by {winner.scheme if one_build else winner.name}"


def pareto_rows(store: Store, run: str) -> list[dict[str, Any]]:
    """What `qpipe pareto --json` prints: one object a row, its coordinates, whether it is on the front and why not, its
    metrics."""
    recipe, run = store.run(run)["recipe"], store.run(run)["id"]
    rows = candidates(store, run)
    judged = {_key(verdict): verdict for verdict in _verdicts_of(store, run, rows)}
    verdict_of = {id(row): judged.get(_key(vars(row)), {"on_front": False, "reason": "not judged"}) for row in rows}
    return [
        {
            "recipe": recipe, "run": run, "model": row.model, "scheme": row.scheme, "build": row.build,
            "runtime": row.runtime, "device": row.device, **row.extra, "is_float": row.is_float,
            "on_front": bool(verdict_of[id(row)]["on_front"]), "reason": verdict_of[id(row)]["reason"],
            "metrics": {
                name: {
                    **{key: getattr(measured, key) for key in ("value", "unit", "low", "high", "n")},
                    **({"detail": measured.detail} if measured.detail else {}),
                }
                for name, measured in row.metrics.items()
            },
        }
        for group in _groups(rows)
        for row in group
    ]  # fmt: skip


def objectives_of(store: Store, run: str) -> dict[tuple[str, str], dict[str, Goal]]:
    """What the front of each model and device was drawn over, in the recipe's order."""
    judged = _verdicts_of(store, run, candidates(store, run))
    return {(verdict["model"], verdict["device"]): verdict["objectives"] for verdict in judged}


def _verdicts_of(store: Store, run: str, rows: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Those the run left; of one that has not come to its end, those of what it has measured by now."""
    return store.verdicts(run) or verdicts(rows, store.run(run)["objectives"])


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(row[name] for name in COORDINATES), *sorted(row["extra"].items()))

"""Which schemes are worth having on a device: the Pareto front, decided by evidence, not by the third digit.

Of two rows one is better in a metric where the difference is significant (its 95 % interval leaves out zero) and
beyond a margin, a part of the other's value. The difference is paired wherever both were measured alike: on the same
samples, resamples or interleaved rounds; else the two intervals must not overlap. A number of one round differs from
none, for nobody knows its interval; one of which no values were taken, such as a size, is exact.
A row is dominated when another of its model and device is better in an objective and worse in none. Evidence is not
transitive, so that rows may dominate each other in a circle: then it takes one from outside to keep them off the front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qpipe.compare.evidence import MARGINS, Goal, is_better, is_single
from qpipe.compare.measured_rows import Candidate, Place, candidates, grouped
from qpipe.compare.notes import notes
from qpipe.storage.results import COORDINATES, Store
from qpipe.types import Measurement


def dominates(
    one: Candidate,
    other: Candidate,
    objectives: Mapping[str, Goal],
    margins: Mapping[str, float] | None = None,
) -> bool:
    """Whether one is better in an objective and worse in none; both have all of them."""
    better = False
    for metric, goal in objectives.items():
        margin = (margins or {}).get(metric)
        if is_better(other.metrics[metric], one.metrics[metric], goal, margin):
            return False
        better = better or is_better(one.metrics[metric], other.metrics[metric], goal, margin)
    return better


def is_tied(
    one: Candidate,
    other: Candidate,
    objectives: Mapping[str, Goal],
    margins: Mapping[str, float] | None = None,
) -> bool:
    """Whether neither is better in any objective: evidence and margins do not tell them apart."""
    return not any(
        is_better(a.metrics[metric], b.metrics[metric], goal, (margins or {}).get(metric))
        for metric, goal in objectives.items()
        for a, b in ((one, other), (other, one))
    )


def verdicts(
    rows: Sequence[Candidate],
    objectives: Mapping[str, Goal],
    margins: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """For the store: of each row, against all of its model and device, whether it is on the front, and why not; with
    which others there it is tied; what else to know of it (`notes`).

    An objective that was measured of no row there is left out; `objectives` of the verdicts are those that were used.
    """
    found = []
    asked = objectives
    for group in grouped(rows, _place).values():
        objectives = {
            m: goal for m, goal in asked.items() if any(m in row.metrics for row in group)
        }
        whole = [row for row in group if objectives.keys() <= row.metrics.keys()]
        # where all are in doubt they are so alike, and still tell more than nothing
        whole = [row for row in whole if not _doubt(row, objectives)] or whole
        by = {
            row.name: [
                other
                for other in whole
                if other is not row and dominates(other, row, objectives, margins)
            ]
            for row in whole
        }
        beaten = _beaten(by)
        front = [row for row in whole if not beaten[row.name] and objectives]
        for row in group:
            place = {name: getattr(row, name) for name in (*COORDINATES, "extra")}
            reason = _reason(row, by, beaten, objectives, group)
            others = [other for other in front if other is not row and row in front]
            ties = [other for other in others if is_tied(row, other, objectives, margins)]
            used = {
                metric: (margins or {}).get(metric, MARGINS[goal])
                for metric, goal in objectives.items()
            }
            found.append(
                {
                    **place,
                    "on_front": not reason,
                    "reason": reason,
                    "objectives": dict(objectives),
                    "margins": used,
                    "ties": [_short(other, group) for other in ties],
                    "notes": notes(row, group, objectives),
                }
            )
    return found


def _place(row: Candidate) -> Place:
    return row.model, row.device


def _beaten(by: Mapping[str, Sequence[Candidate]]) -> dict[str, set[str]]:
    """Of each row, those that dominate it, directly or through others, and are not dominated by it in the same way."""
    above: dict[str, set[str]] = {}
    for name in by:
        above[name] = set()
        left = [name]
        while left:
            new = {other.name for other in by[left.pop()]} - above[name]
            above[name] |= new
            left += new
    return {
        name: {other for other in others if name not in above[other]}
        for name, others in above.items()
    }


def _reason(
    row: Candidate,
    by: Mapping[str, Sequence[Candidate]],
    beaten: Mapping[str, set[str]],
    objectives: Mapping[str, Goal],
    group: Sequence[Candidate],
) -> str:
    if row.name not in by:
        missing = next((metric for metric in objectives if metric not in row.metrics), None)
        if missing is None:
            return _doubt(row, objectives)
        why = [each.detail.get("withheld", {}).get(missing) for each in row.metrics.values()]
        return next(
            (f"{missing} is withheld: {said}" for said in why if said),
            f"{missing} was not measured",
        )
    if not beaten[row.name]:
        return ""
    # rather one that does so directly, and is itself on the front
    direct = {other.name for other in by[row.name]}
    winners = [other for other in group if other.name in beaten[row.name]]
    winner = min(winners, key=lambda other: (other.name not in direct, len(beaten[other.name])))
    return f"dominated by {_short(winner, group)}"


def _doubt(row: Candidate, objectives: Mapping[str, Goal]) -> str:
    """Why one of its numbers is not to be believed; nothing where all are."""
    told = (
        (metric, row.metrics[metric].detail.get("doubt"))
        for metric in objectives
        if metric in row.metrics
    )
    return next((f"{metric} is in doubt: {why}" for metric, why in told if why), "")


def _short(row: Candidate, group: Sequence[Candidate]) -> str:
    """What a row is called among those of its group."""
    one_build = len({other.build for other in group}) == 1 and not row.extra
    return row.scheme if one_build else row.name


def pareto_rows(store: Store, run: str) -> list[dict[str, Any]]:
    """What `qpipe pareto --json` prints: one object a row, its coordinates, whether it is on the front and why not, its
    metrics."""
    recipe = store.run(run)["recipe"]
    run = store.run(run)["id"]
    rows = candidates(store, run)
    judged = {_key(verdict): verdict for verdict in _verdicts_of(store, run, rows)}
    verdict_of = {
        id(row): judged.get(_key(vars(row)), {"on_front": False, "reason": "not judged"})
        for row in rows
    }
    return [
        {
            "recipe": recipe,
            "run": run,
            "model": row.model,
            "scheme": row.scheme,
            "build": row.build,
            "runtime": row.runtime,
            "device": row.device,
            "emulated": row.emulated,
            **row.extra,
            "name": _short(row, group),
            "is_float": row.is_float,
            "on_front": bool(verdict_of[id(row)]["on_front"]),
            "reason": verdict_of[id(row)]["reason"],
            "ties": verdict_of[id(row)].get("ties") or [],
            "notes": verdict_of[id(row)].get("notes") or {},
            "metrics": {name: _told(measured) for name, measured in row.metrics.items()},
        }
        for group in grouped(rows, _place).values()
        for row in group
    ]


def _told(measured: Measurement) -> dict[str, Any]:
    """`raw` says what a score is of; `single` is of what was tried but once: nobody knows its interval."""
    return {
        **{key: getattr(measured, key) for key in ("value", "unit", "low", "high", "n")},
        **({"raw": measured.raw} if measured.raw != "rounds" else {}),
        **({"single": True} if is_single(measured) else {}),
        **({"detail": measured.detail} if measured.detail else {}),
    }


def objectives_of(store: Store, run: str) -> dict[tuple[str, str], dict[str, Goal]]:
    """What the front of each model and device was drawn over, in the recipe's order."""
    judged = _verdicts_of(store, run)
    return {(verdict["model"], verdict["device"]): verdict["objectives"] for verdict in judged}


def _verdicts_of(
    store: Store, run: str, rows: Sequence[Candidate] | None = None
) -> list[dict[str, Any]]:
    """Those the run left; of one that has not come to its end, those of what it has measured by now."""
    asked = store.run(run)
    left = store.verdicts(run)
    return left or verdicts(
        candidates(store, run) if rows is None else rows, asked["objectives"], asked["margins"]
    )


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(row[name] for name in COORDINATES), *sorted(row["extra"].items()))

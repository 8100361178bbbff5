"""Which schemes are worth having on a device: the Pareto front, decided by evidence.

Of two rows one is shown to be better in a metric where the 95 % interval of the difference excludes
zero and the difference exceeds a margin, a part of the other's value. One is shown to be no worse
where the whole interval of what it loses lies within the margin (non-inferiority). The difference
is paired wherever both were measured alike: on the same samples, resamples or interleaved rounds;
otherwise the intervals of both count. A number of one round shows nothing, as its interval is not
known; one without raw values, such as a size, is exact.

A row is dominated when another of its model and device is shown to be better in an objective and no
worse in all others. What the data cannot tell stays on the front, with a note on what would tell.
Each comparison holds with 95 % by itself; those behind a recommendation hold together.

Margins add up, so that rows may dominate each other in a circle: then only a row from outside the
circle keeps them off the front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from qpipe.compare.evidence import MARGINS, Goal, is_better, is_no_worse, is_single
from qpipe.compare.json_rows import MetricValue, ParetoRow, Place, group_by_place
from qpipe.compare.measured_rows import Candidate, candidates, row_key
from qpipe.compare.notes import notes
from qpipe.compare.undecided import undecided_note
from qpipe.errors import QpipeError
from qpipe.storage.results import Store
from qpipe.storage.rows import Verdict
from qpipe.types import Measurement

Margins = Mapping[str, float]  # by metric, where it is not the default


def dominates(
    row: Candidate,
    other: Candidate,
    objectives: Mapping[str, Goal],
    margins: Margins | None = None,
) -> bool:
    """Return whether a row is shown to be no worse in all objectives and better in one.

    Both rows have all of them.
    """
    is_better_in_any = False
    for metric, goal in objectives.items():
        margin = (margins or {}).get(metric)
        number = row.metrics[metric]
        other_number = other.metrics[metric]
        is_better_here = is_better(number, other_number, goal, margin)
        if not is_better_here and not is_no_worse(number, other_number, goal, margin):
            return False
        is_better_in_any = is_better_in_any or is_better_here
    return is_better_in_any


def is_tied(
    row: Candidate,
    other: Candidate,
    objectives: Mapping[str, Goal],
    margins: Margins | None = None,
) -> bool:
    """Return whether both rows are shown to be the same, within the margins, in all objectives."""
    for metric, goal in objectives.items():
        margin = (margins or {}).get(metric)
        number = row.metrics[metric]
        other_number = other.metrics[metric]
        if not is_no_worse(number, other_number, goal, margin):
            return False
        if not is_no_worse(other_number, number, goal, margin):
            return False
    return True


# ---- verdicts


@dataclass(frozen=True)
class _Front:
    """The rows of one place, and which of them dominate which."""

    group: Sequence[Candidate]
    objectives: Mapping[str, Goal]  # those that any row of the group has
    margins: Margins
    complete_rows: Sequence[Candidate]  # that have all objectives, and are not in doubt
    dominators: Mapping[str, Sequence[Candidate]]  # of each complete row
    decisive_dominators: Mapping[str, set[str]]  # those that it does not dominate in turn
    front_rows: Sequence[Candidate]


def verdicts(
    rows: Sequence[Candidate],
    objectives: Mapping[str, Goal],
    margins: Margins | None = None,
) -> list[Verdict]:
    """Judge each row against all of its model and device.

    An objective that no row there has is left out; `objectives` of a verdict are those that were
    used.
    """
    all_verdicts: list[Verdict] = []
    for group in group_by_place(rows, _place).values():
        front = _front(group, objectives, margins or {})
        all_verdicts += [_verdict(row, front) for row in group]
    return all_verdicts


def _place(row: Candidate) -> Place:
    return row.model, row.device


def _front(group: Sequence[Candidate], objectives: Mapping[str, Goal], margins: Margins) -> _Front:
    measured_metrics = {metric for row in group for metric in row.metrics}
    used = {metric: goal for metric, goal in objectives.items() if metric in measured_metrics}
    complete_rows = _complete_rows(group, used)
    dominators = {}
    for row in complete_rows:
        dominators[row.name] = [
            other
            for other in complete_rows
            if other is not row and dominates(other, row, used, margins)
        ]
    decisive = _decisive_dominators(dominators)
    front_rows = [row for row in complete_rows if used and not decisive[row.name]]
    return _Front(group, used, margins, complete_rows, dominators, decisive, front_rows)


def _complete_rows(
    group: Sequence[Candidate], objectives: Mapping[str, Goal]
) -> Sequence[Candidate]:
    """Return the rows that have all objectives, without those in doubt unless all are."""
    complete = [row for row in group if objectives.keys() <= row.metrics.keys()]
    trusted = [row for row in complete if not _doubt(row, objectives)]
    # where all are in doubt they are so alike, and still tell more than nothing
    return trusted or complete


def _decisive_dominators(dominators: Mapping[str, Sequence[Candidate]]) -> dict[str, set[str]]:
    """Return the rows that dominate each row, directly or through others, and not the reverse."""
    above = {name: _all_above(name, dominators) for name in dominators}
    return {
        name: {other for other in others_above if name not in above[other]}
        for name, others_above in above.items()
    }


def _all_above(name: str, dominators: Mapping[str, Sequence[Candidate]]) -> set[str]:
    """Return the rows that dominate a row, directly or through others."""
    above: set[str] = set()
    pending = [name]
    while pending:
        direct = {dominator.name for dominator in dominators[pending.pop()]}
        pending += direct - above
        above |= direct
    return above


def _verdict(row: Candidate, front: _Front) -> Verdict:
    objectives = front.objectives
    reason = _reason(row, front)
    margins = {
        metric: front.margins.get(metric, MARGINS[goal]) for metric, goal in objectives.items()
    }
    return {
        "model": row.model,
        "scheme": row.scheme,
        "build": row.build,
        "device": row.device,
        "extra": dict(row.extra),
        "on_front": not reason,
        "reason": reason,
        "objectives": dict(objectives),
        "margins": margins,
        "ties": _ties(row, front),
        "notes": notes(row, front.group, objectives) | _undecided_notes(row, front),
    }


def _ties(row: Candidate, front: _Front) -> list[str]:
    """Return the other rows of the front that a row of the front is tied with."""
    if not any(row is member for member in front.front_rows):
        return []
    names = []
    for other in front.front_rows:
        if other is not row and is_tied(row, other, front.objectives, front.margins):
            names.append(_short_name(other, front.group))
    return names


def _undecided_notes(row: Candidate, front: _Front) -> dict[str, str]:
    """Return the note on the row that may do away with a row of the front, by its topic."""
    if not any(row is member for member in front.front_rows):
        return {}
    others = {
        _short_name(other, front.group): other for other in front.front_rows if other is not row
    }
    note = undecided_note(row, others, front.objectives, front.margins)
    return {"undecided": note} if note else {}


def _reason(row: Candidate, front: _Front) -> str:
    """Return why a row is not on the front; empty where it is."""
    if row.name not in front.dominators:
        return _why_not_judged(row, front.objectives)
    beaten_by = front.decisive_dominators[row.name]
    if not beaten_by:
        return ""
    # name a row that dominates it directly if there is one, and that is itself on the front
    direct = {dominator.name for dominator in front.dominators[row.name]}
    winners = [other for other in front.group if other.name in beaten_by]
    winner = min(
        winners,
        key=lambda other: (other.name not in direct, len(front.decisive_dominators[other.name])),
    )
    return f"dominated by {_short_name(winner, front.group)}"


def _why_not_judged(row: Candidate, objectives: Mapping[str, Goal]) -> str:
    missing_metric = next((metric for metric in objectives if metric not in row.metrics), None)
    if missing_metric is None:
        return _doubt(row, objectives)
    for measurement in row.metrics.values():
        withheld = measurement.detail.get("withheld", {}).get(missing_metric)
        if withheld:
            return f"{missing_metric} is withheld: {withheld}"
    return f"{missing_metric} was not measured"


def _doubt(row: Candidate, objectives: Mapping[str, Goal]) -> str:
    """Return why a number of a row is not to be trusted; empty where all are."""
    for metric in objectives:
        measurement = row.metrics.get(metric)
        doubt = measurement.detail.get("doubt") if measurement else None
        if doubt:
            return f"{metric} is in doubt: {doubt}"
    return ""


def _short_name(row: Candidate, group: Sequence[Candidate]) -> str:
    """Return the shortest name of a row that is unique in its group."""
    builds = {other.build for other in group}
    return row.scheme if len(builds) == 1 and not row.extra else row.name


# ---- the rows and objectives of a run


@dataclass(frozen=True)
class JudgedRow:
    """A row as `pareto --json` prints it, and its measurements with their raw values."""

    row: ParetoRow
    candidate: Candidate


def pareto_rows(store: Store, run: str) -> list[ParetoRow]:
    """Return the rows of a run with their metrics and verdicts, as `pareto --json` prints them."""
    return [judged.row for judged in judged_rows(store, run)]


def judged_rows(store: Store, run: str) -> list[JudgedRow]:
    """Return the rows of a run with their verdicts and with what these rest on."""
    run_row = store.run(run)
    rows = candidates(store, run_row["id"])
    verdict_of = {row_key(verdict): verdict for verdict in _verdicts_of(store, run, rows)}
    result = []
    for group in group_by_place(rows, _place).values():
        for row in group:
            name = _short_name(row, group)
            verdict = verdict_of.get(row.key)
            pareto_row = _pareto_row(row, run_row["recipe"], run_row["id"], name, verdict)
            result.append(JudgedRow(pareto_row, row))
    return result


def _pareto_row(
    row: Candidate, recipe: str, run: str, name: str, verdict: Verdict | None
) -> ParetoRow:
    fields = {
        "recipe": recipe,
        "run": run,
        "model": row.model,
        "scheme": row.scheme,
        "build": row.build,
        "runtime": row.runtime,
        "device": row.device,
        "emulated": row.emulated,
        **row.extra,
        "name": name,
        "is_float": row.is_float,
        **_judgement(verdict),
        "metrics": {metric: _metric_value(number) for metric, number in row.metrics.items()},
    }
    return cast("ParetoRow", fields)  # with the coordinates of a sweep as further keys


def _judgement(verdict: Verdict | None) -> dict[str, object]:
    """Return what a verdict says of its row; it has none where it was measured since."""
    if verdict is None:
        return {"on_front": False, "reason": "not judged", "ties": [], "notes": {}}
    return {
        "on_front": verdict["on_front"],
        "reason": verdict["reason"],
        "ties": verdict["ties"],
        "notes": verdict["notes"],
    }


def _metric_value(measurement: Measurement) -> MetricValue:
    value: MetricValue = {
        "value": measurement.value,
        "unit": measurement.unit,
        "low": measurement.low,
        "high": measurement.high,
        "n": measurement.n,
    }
    if measurement.raw != "rounds":
        value["raw"] = measurement.raw
    if is_single(measurement):
        value["single"] = True
    if measurement.detail:
        value["detail"] = measurement.detail
    return value


def objectives_of(store: Store, run: str) -> dict[Place, dict[str, Goal]]:
    """Return the objectives of each model and device that were measured there, in their order."""
    objectives: dict[Place, dict[str, Goal]] = {}
    for verdict in _verdicts_of(store, run):
        objectives[verdict["model"], verdict["device"]] = verdict["objectives"]
    for measurement in store.measurements(run):
        objectives.setdefault((measurement["model"], measurement["device"]), {})
    return objectives


def judge_run(store: Store, run: str) -> Sequence[Verdict]:
    """Judge what a run has measured by now; store the verdicts, and with them their basis."""
    run_row = store.run(run)
    basis = store.verdict_basis(run_row["id"])
    rows = candidates(store, run_row["id"])
    run_verdicts = verdicts(rows, run_row["objectives"], run_row["margins"])
    store.record_verdicts(run_row["id"], run_verdicts, judged_on=basis)
    return run_verdicts


def _verdicts_of(
    store: Store, run: str, rows: Sequence[Candidate] | None = None
) -> Sequence[Verdict]:
    """Return the verdicts of a run.

    A run that has not ended is judged by what it has measured when it is first read, and again
    only once it has measured more.
    """
    run_row = store.run(run)
    stored = store.verdicts(run_row["id"])
    basis = store.verdict_basis(run_row["id"])
    if stored and stored[0]["judged_on"] in ("", basis):
        return stored
    if rows is None:
        rows = candidates(store, run_row["id"])
    run_verdicts = verdicts(rows, run_row["objectives"], run_row["margins"])
    with suppress(QpipeError):  # a database that cannot be written can still be read
        store.record_verdicts(run_row["id"], run_verdicts, judged_on=basis)
    return run_verdicts

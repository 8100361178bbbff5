"""What a run measured and what follows from it: rows, objectives, recommendations, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import is_share, place_title
from qpipe.compare.json_rows import MetricValue, ParetoRow, Place, groups
from qpipe.compare.knee import choose as choose_knee
from qpipe.compare.knee import describe_knees
from qpipe.compare.pareto import JudgedRow, judged_rows, objectives_of
from qpipe.compare.recommend import advise, choose, recommend
from qpipe.errors import QpipeError, shown, suggest
from qpipe.recipe import limits as limit_options
from qpipe.storage.results import Store
from qpipe.storage.rows import RunRow, is_smoke_run
from qpipe.types import Limits

EXPORT_FOLDER = "shipped"
# metrics that are always shown, after the objectives of the recipe and its scores
STANDARD_METRICS = (
    "latency_ms",
    "size_mb",
    "agreement",
    "latency_ratio",
    "memory_mb",
    "sqnr_db",
    "effective_bits",
    "int8_nodes",
)


@dataclass(frozen=True)
class RunResults:
    """What a run measured, its objectives, and the limits that a recommendation must keep."""

    run: RunRow
    judged: list[JudgedRow]
    objectives: Mapping[Place, Mapping[str, Goal]]  # those that were measured there
    limits: Limits
    keep: float | None = None  # points that may be lost against float; None for the default
    unreachable: Mapping[str, str] = field(default_factory=dict)  # device -> why it was left out
    is_knee: bool = False  # names the nearest to the best of each objective instead

    @property
    def rows(self) -> list[ParetoRow]:
        """The rows as `qpipe pareto --json` prints them."""
        return [judged.row for judged in self.judged]

    @property
    def places(self) -> list[Place]:
        """The models and devices that were measured."""
        return list(groups(self.rows))

    @property
    def is_smoke(self) -> bool:
        """Whether the run had a handful of samples, whose numbers do not count."""
        return is_smoke_run(self.run)

    def judged_at(self, where: Place) -> list[JudgedRow]:
        """Return the rows of a model on a device."""
        return [each for each in self.judged if (each.row["model"], each.row["device"]) == where]

    def recommended_row(self, where: Place) -> ParetoRow | None:
        """Return the row to ship of a model on a device; None where nothing is recommended."""
        objectives = self.objectives[where]
        if self.is_smoke or self.unmeasured_objectives(where):
            return None
        if not self.is_knee:
            return choose(self.judged_at(where), objectives, self.limits, self.keep)
        if not objectives and not self.limits:
            return None
        return choose_knee([each.row for each in self.judged_at(where)], objectives, self.limits)

    def recommendation(self, where: Place) -> list[str]:
        """Return the lines that say what to ship of a model on a device."""
        judged = self.judged_at(where)
        rows = [each.row for each in judged]
        objectives = self.objectives[where]
        unmeasured = self.unmeasured_objectives(where)
        if unmeasured:
            return [explain_unmeasured(unmeasured, rows)]
        if self.is_smoke:
            return [f"{place_title(rows)}: nothing is recommended by a smoke run"]
        if self.is_knee:
            return describe_knees(rows, objectives, self.limits)
        return recommend(judged, objectives, self.limits, self.keep, self.command)

    def advice(self, where: Place) -> list[str]:
        """Return the clauses that say what to ship of a model on a device: first what, then why."""
        unmeasured = self.unmeasured_objectives(where)
        judged = self.judged_at(where)
        if unmeasured:
            return explain_unmeasured(unmeasured, [each.row for each in judged]).split("; ")
        if self.is_smoke:
            return ["nothing is recommended by a smoke run"]
        return advise(judged, self.objectives[where], self.limits, self.keep, self.command)

    @property
    def command(self) -> str:
        """The command that runs the recipe again."""
        path = self.run["recipe_path"]
        return shlex.join(["qpipe", "run", shown(Path(path))]) if path else "qpipe run RECIPE"

    def unmeasured_objectives(self, where: Place) -> list[str]:
        """Return the objectives that were not measured for a model on a device."""
        measured = self.objectives[where]
        return [metric for metric in self.run["objectives"] if metric not in measured]

    def on_device(self, device: str) -> RunResults:
        """Return the results of one device; raise QpipeError where the run has no such device."""
        devices = sorted({row["device"] for row in self.rows} | self.unreachable.keys())
        if device not in devices:
            raise QpipeError(
                f"run {self.run['id']}: no device '{device}'; {suggest(device, devices)}"
            )
        reasons = {name: why for name, why in self.unreachable.items() if name == device}
        judged = [each for each in self.judged if each.row["device"] == device]
        return replace(self, judged=judged, unreachable=reasons)

    def limit_problems(self) -> list[str]:
        """Return a line for each limit that nothing can be compared with."""
        measured = {metric for row in self.rows for metric in row["metrics"]}
        shares = {metric for metric in measured if is_share(metric, self.rows)}
        return limit_options.limit_errors(self.limits, measured=measured, shares=shares)


def read_results(
    store: Store,
    run_id: str,
    limits: Limits | None = None,
    keep: float | None = None,
    *,
    is_knee: bool = False,
) -> RunResults:
    """Read the results of a run.

    Limits, and what is to be kept, are by default those that the run was started with.
    """
    run = store.run(run_id)
    return RunResults(
        run=run,
        judged=judged_rows(store, run["id"]),
        objectives=objectives_of(store, run["id"]),
        limits=limits or limit_options.stored_limits(run),
        keep=limit_options.stored_keep(run) if keep is None else keep,
        unreachable=store.unreachable(run["id"]),
        is_knee=is_knee,
    )


def export_command(row: ParetoRow, rows: Sequence[ParetoRow], options: Sequence[str] = ()) -> str:
    """Return the command that hands over the file of a row; `options` name the run."""
    words = ["qpipe", "export", *_export_options(row, rows), "-o", EXPORT_FOLDER, *options]
    return shlex.join(words)


def _export_options(row: ParetoRow, rows: Sequence[ParetoRow]) -> list[str]:
    """Return the options of `qpipe export` that distinguish a row from all others."""
    options = []
    candidates = rows
    for name in ("device", "scheme", "model", "build"):
        is_required = name in ("device", "scheme")
        if is_required or len({candidate[name] for candidate in candidates}) > 1:
            options += [f"--{name}", row[name]]
        candidates = [candidate for candidate in candidates if candidate[name] == row[name]]
    return options


def explain_unmeasured(objectives: Sequence[str], rows: Sequence[ParetoRow]) -> str:
    """Return why nothing is recommended: the best in the rest may be the worst in these."""
    measured = sorted({metric for row in rows for metric in row["metrics"]})
    names = " and ".join(objectives)
    verb = "was" if len(objectives) == 1 else "were"
    return (
        f"nothing is recommended: {names} {verb} not measured; measure it, or set pareto to "
        f"some of {', '.join(measured)}"
    )


def metric_columns(rows: Sequence[ParetoRow], objectives: Iterable[str]) -> list[str]:
    """Return the metrics to show: objectives, scores, then the standard metrics."""
    measured: dict[str, MetricValue] = {}
    for row in rows:
        measured |= row["metrics"]
    scores = [
        metric
        for metric, number in measured.items()
        if "raw" in number and metric not in STANDARD_METRICS
    ]
    ordered = dict.fromkeys([*objectives, *scores, *STANDARD_METRICS])
    return [metric for metric in ordered if metric in measured]


def describe_verdict(row: ParetoRow, objectives: Mapping[str, Goal]) -> str:
    """Return what a row is worth, in words."""
    if row["reason"]:
        return row["reason"]
    words = []
    if row["on_front"] and objectives:
        words.append("on the front")
    if row["ties"]:
        words.append(f"tied with {', '.join(row['ties'])}")
    return ", ".join(words)


def absence_reason(device: str, reason: str) -> str:
    """Return why a device was left out, without its name, which most reasons begin with."""
    return reason.removeprefix(f"{device}: ")

"""The results of a run as tables: one for each model and device, with what to ship."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qpipe.cli.results_database import is_smoke_run
from qpipe.cli.row_notes import note_lines
from qpipe.cli.tables import print_table, print_text
from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import cell, heading, is_share, place_title
from qpipe.compare.json_rows import MetricValue, ParetoRow, Place, groups
from qpipe.compare.knee import choose as choose_knee
from qpipe.compare.knee import describe_knees
from qpipe.compare.pareto import JudgedRow, judged_rows, objectives_of
from qpipe.compare.recommend import choose, recommend
from qpipe.errors import QpipeError, suggest
from qpipe.recipe import limits as limit_options
from qpipe.recipe.yaml_document import shown
from qpipe.storage.results import Store
from qpipe.storage.rows import RunRow
from qpipe.types import Limits

SMOKE_NOTE = (
    "a smoke run shows that everything works; its numbers come from too few samples to decide by"
)
DOMINATED_NOTE = (
    "(dominated: another is shown to be better in one objective, and in none worse by more than "
    "a small margin)"
)
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
    is_knee: bool = False  # names the nearest to the best of each objective instead

    @property
    def rows(self) -> list[ParetoRow]:
        """The rows as `qpipe pareto --json` prints them."""
        return [judged.row for judged in self.judged]

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
        devices = sorted({row["device"] for row in self.rows})
        if device not in devices:
            raise QpipeError(
                f"run {self.run['id']}: no device '{device}'; {suggest(device, devices)}"
            )
        return replace(self, judged=[each for each in self.judged if each.row["device"] == device])

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
        is_knee=is_knee,
    )


def print_pareto(results: RunResults) -> None:
    """Print a table for each model and device, each with its recommendation."""
    if not results.rows:
        print_text("nothing was measured")
        return
    for where, rows in groups(results.rows).items():
        objectives = results.objectives[where]
        _print_heading(rows, objectives)
        _print_rows(rows, objectives, is_smoke=results.is_smoke)
        print_text("\n" + "\n".join(results.recommendation(where)))
    for line in results.limit_problems():
        print_text(line)


def _print_heading(rows: Sequence[ParetoRow], objectives: Mapping[str, Goal]) -> None:
    legend = ""
    if objectives:
        legend = f"  (* = on the Pareto front of {', '.join(objectives)})"
    print_text(f"\n{place_title(rows)}{legend}")


def _print_rows(
    rows: Sequence[ParetoRow], objectives: Mapping[str, Goal], *, is_smoke: bool
) -> None:
    metrics = metric_columns(rows, objectives)
    metric_headings = [heading(metric, rows) for metric in metrics]
    table = []
    for row in rows:
        mark = "*" if row["on_front"] else ""
        values = [row["metrics"].get(metric) for metric in metrics]
        if is_smoke:
            values = [_without_interval(value) for value in values]
        shares = [is_share(metric, rows) for metric in metrics]
        numbers = [cell(value, share) for value, share in zip(values, shares, strict=True)]
        verdict = _describe_verdict(row, objectives)
        table.append([mark, _row_name(row, rows), *numbers, verdict])
    omitted = print_table(
        ["", "scheme", *metric_headings, "verdict"],
        table,
        right=metric_headings,
        optional=["verdict", *metric_headings[len(objectives) :]],
    )
    if omitted:
        print_text(f"(too narrow for {', '.join(omitted)}: widen the terminal, or use --json)")
    if any(row["reason"].startswith("dominated") for row in rows):
        print_text(DOMINATED_NOTE)
    for line in note_lines(rows):
        print_text(line)


def _without_interval(value: MetricValue | None) -> MetricValue | None:
    """Return a number as if it was measured once: the interval of so few samples says nothing."""
    if value is None or value["low"] is None:
        return value
    once: MetricValue = {**value, "low": None, "high": None, "single": True}
    return once


def _row_name(row: ParetoRow, rows: Sequence[ParetoRow]) -> str:
    """Return the scheme, with the build where the rows have several."""
    has_several_builds = len({table_row["build"] for table_row in rows}) > 1
    return f"{row['scheme']} {row['build']}" if has_several_builds else row["scheme"]


def _describe_verdict(row: ParetoRow, objectives: Mapping[str, Goal]) -> str:
    """Return what a row is worth, in words."""
    if row["reason"]:
        return row["reason"]
    words = []
    if row["on_front"] and objectives:
        words.append("on the front")
    if row["ties"]:
        words.append(f"tied with {', '.join(row['ties'])}")
    return ", ".join(words)


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

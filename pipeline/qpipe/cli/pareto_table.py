"""The results of a run as tables: one for each model and device, with what to ship."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from qpipe.cli.row_notes import note_lines
from qpipe.cli.tables import print_table, print_text
from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import cell, heading, is_share, place_title
from qpipe.compare.json_rows import MetricValue, ParetoRow, Place, groups
from qpipe.compare.pareto import objectives_of, pareto_rows
from qpipe.compare.recommend import recommend
from qpipe.errors import QpipeError, suggest
from qpipe.recipe import limits as limit_options
from qpipe.storage.results import Store
from qpipe.storage.rows import RunRow
from qpipe.types import Limits

SMOKE_NOTE = (
    "a smoke run shows that everything works; its numbers come from too few samples to decide by"
)
DOMINATED_NOTE = (
    "(dominated: another is better in one objective and worse in none, "
    "beyond noise and a small margin)"
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
    rows: list[ParetoRow]  # as `qpipe pareto --json` prints them
    objectives: Mapping[Place, Mapping[str, Goal]]  # those that were measured there
    limits: Limits

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
        return replace(self, rows=[row for row in self.rows if row["device"] == device])

    def limit_problems(self) -> list[str]:
        """Return a line for each limit that nothing can be compared with."""
        measured = {metric for row in self.rows for metric in row["metrics"]}
        shares = {metric for metric in measured if is_share(metric, self.rows)}
        return limit_options.limit_errors(self.limits, measured=measured, shares=shares)


def read_results(store: Store, run_id: str, limits: Limits | None = None) -> RunResults:
    """Read the results of a run; the limits are by default those that the run was started with."""
    run = store.run(run_id)
    return RunResults(
        run=run,
        rows=pareto_rows(store, run["id"]),
        objectives=objectives_of(store, run["id"]),
        limits=limits or limit_options.stored_limits(run),
    )


def print_pareto(results: RunResults) -> None:
    """Print a table for each model and device, each with its recommendation."""
    if not results.rows:
        print_text("nothing was measured")
        return
    for where, rows in groups(results.rows).items():
        objectives = results.objectives[where]
        _print_heading(rows, objectives)
        _print_rows(rows, objectives)
        unmeasured = results.unmeasured_objectives(where)
        if unmeasured:
            lines = [explain_unmeasured(unmeasured, rows)]
        else:
            lines = recommend(rows, objectives, results.limits)
        print_text("\n" + "\n".join(lines))
    for line in results.limit_problems():
        print_text(line)


def _print_heading(rows: Sequence[ParetoRow], objectives: Mapping[str, Goal]) -> None:
    legend = ""
    if objectives:
        legend = f"  (* = on the Pareto front of {', '.join(objectives)})"
    print_text(f"\n{place_title(rows)}{legend}")


def _print_rows(rows: Sequence[ParetoRow], objectives: Mapping[str, Goal]) -> None:
    metrics = metric_columns(rows, objectives)
    metric_headings = [heading(metric, rows) for metric in metrics]
    table = []
    for row in rows:
        mark = "*" if row["on_front"] else ""
        numbers = [cell(row["metrics"].get(metric), is_share(metric, rows)) for metric in metrics]
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

"""The results of a run as tables: one for each model and device, with what to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qpipe.cli.tables import print_table, print_text
from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import cell, heading, is_share, place_title
from qpipe.compare.json_rows import MetricValue, ParetoRow, groups
from qpipe.report.row_notes import note_lines
from qpipe.report.run_results import (
    RunResults,
    absence_reason,
    describe_verdict,
    metric_columns,
)

SMOKE_NOTE = (
    "a smoke run shows that everything works; its numbers come from too few samples to decide by"
)
DOMINATED_NOTE = (
    "(dominated: another is shown to be better in one objective, and in none worse by more than "
    "a small margin)"
)


def print_pareto(results: RunResults) -> None:
    """Print a table for each model and device, each with its recommendation."""
    if not results.rows:
        print_text("nothing was measured")
    for where, rows in groups(results.rows).items():
        objectives = results.objectives[where]
        _print_heading(rows, objectives)
        _print_rows(rows, objectives, is_smoke=results.is_smoke)
        print_text("\n" + "\n".join(results.recommendation(where)))
    for device, reason in results.unreachable.items():
        print_text(f"\n{device}: not measured: {absence_reason(device, reason)}")
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
        verdict = describe_verdict(row, objectives)
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

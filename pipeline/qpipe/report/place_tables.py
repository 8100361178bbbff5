"""The results of a run as tables of text: one for each model and device, with what to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qpipe.compare.evidence import Goal
from qpipe.compare.formatting import cell, heading, is_share, place_title
from qpipe.compare.json_rows import MetricValue, ParetoRow, Place, groups
from qpipe.report.row_notes import note_lines
from qpipe.report.run_results import (
    RunResults,
    absence_reason,
    describe_verdict,
    metric_columns,
)
from qpipe.report.text_table import TextTable

SMOKE_NOTE = (
    "a smoke run shows that everything works; its numbers come from too few samples to decide by"
)
DOMINATED_NOTE = (
    "(dominated: another is shown to be better in one objective, and in none worse by more than "
    "a small margin)"
)


def place_tables(results: RunResults) -> list[TextTable]:
    """Return a table for each model and device, each with its recommendation below."""
    return [_place_table(results, place, rows) for place, rows in groups(results.rows).items()]


def closing_lines(results: RunResults) -> list[str]:
    """Return what no table says: devices and limits that are absent, and that a run was small."""
    lines: list[str] = []
    for device, reason in results.unreachable.items():
        lines += ["", f"{device}: not measured: {absence_reason(device, reason)}"]
    lines += results.limit_problems()
    if results.is_smoke:
        lines.append(SMOKE_NOTE)
    return lines


def _place_table(results: RunResults, place: Place, rows: Sequence[ParetoRow]) -> TextTable:
    objectives = results.objectives[place]
    metrics = metric_columns(rows, objectives)
    headings = [heading(metric, rows) for metric in metrics]
    lines = note_lines(rows)
    if any(row["reason"].startswith("dominated") for row in rows):
        lines.insert(0, DOMINATED_NOTE)
    return TextTable(
        title=f"{place_title(rows)}{_legend(objectives)}",
        columns=["", "scheme", *headings, "verdict"],
        rows=[_cells(row, rows, metrics, objectives, results.is_smoke) for row in rows],
        right=headings,
        optional=["verdict", *headings[len(objectives) :]],
        lines=[*lines, "", *results.recommendation(place)],
    )


def _legend(objectives: Mapping[str, Goal]) -> str:
    if not objectives:
        return ""
    return f"  (* = on the Pareto front of {', '.join(objectives)})"


def _cells(
    row: ParetoRow,
    rows: Sequence[ParetoRow],
    metrics: Sequence[str],
    objectives: Mapping[str, Goal],
    is_smoke: bool,
) -> list[str]:
    values = [row["metrics"].get(metric) for metric in metrics]
    if is_smoke:
        values = [_without_interval(value) for value in values]
    shares = [is_share(metric, rows) for metric in metrics]
    numbers = [cell(value, share) for value, share in zip(values, shares, strict=True)]
    mark = "*" if row["on_front"] else ""
    return [mark, _row_name(row, rows), *numbers, describe_verdict(row, objectives)]


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

"""The rows of one model and device as the data of charts.

Metrics are named m0, m1, ... in a specification, so that no name of a metric is ever read as a part
of an expression; shares are in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from qpipe.compare.decision import latency_metric, quality_metric
from qpipe.compare.formatting import cell, heading, is_share
from qpipe.compare.json_rows import MetricValue, ParetoRow, Place
from qpipe.compare.pareto import JudgedRow
from qpipe.report.chart_style import State
from qpipe.report.run_results import RunResults, describe_verdict, metric_columns
from qpipe.storage.rows import Goal
from qpipe.types import Limits


class ChartRow(TypedDict):
    """A row; its numbers by the key of the metric, where it was measured."""

    name: str
    state: State
    is_front: bool
    verdict: str
    value: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    text: dict[str, str]


@dataclass(frozen=True)
class PlaceData:
    """All that charts and tables show of one model and device."""

    where: Place
    title: str
    judged: Sequence[JudgedRow]
    metrics: Sequence[str]  # objectives first
    shipped: str  # the name of the row to ship; empty where there is none
    objectives: Mapping[str, Goal]
    limits: Limits

    @property
    def rows(self) -> list[ParetoRow]:
        """The rows as `qpipe pareto --json` prints them."""
        return [judged.row for judged in self.judged]

    def row_of(self, name: str) -> ParetoRow | None:
        """Return the row of a name; None where there is none."""
        return next((row for row in self.rows if row["name"] == name), None)

    @property
    def keys(self) -> dict[str, str]:
        """The key of each metric."""
        return {metric: f"m{number}" for number, metric in enumerate(self.metrics)}

    @property
    def titles(self) -> dict[str, str]:
        """The title of each metric by its key."""
        return {key: heading(metric, self.rows) for metric, key in self.keys.items()}

    @property
    def goals(self) -> dict[str, Goal]:
        """Whether the least or the most of a metric is best, by its key."""
        return {key: self._goal(metric) for metric, key in self.keys.items()}

    def _goal(self, metric: str) -> Goal:
        if metric in self.objectives:
            return self.objectives[metric]
        return next(
            judged.candidate.metrics[metric].better
            for judged in self.judged
            if metric in judged.candidate.metrics
        )

    @property
    def default_axes(self) -> tuple[str, str, str]:
        """The metrics of the axes x and y, and of areas, that a chart begins with."""
        group = [judged.candidate for judged in self.judged]
        across = latency_metric(group, self.objectives) or self.metrics[0]
        others = [metric for metric in self.metrics if metric != across] or [across]
        upward = quality_metric(group, self.objectives) or others[0]
        area = "size_mb" if "size_mb" in self.metrics else others[-1]
        return across, upward, area

    def scale(self, metric: str) -> int:
        """Return the factor that a metric is shown with."""
        return 100 if is_share(metric, self.rows) else 1

    def state(self, row: ParetoRow) -> State:
        """Return what a row is among the others."""
        if row["name"] == self.shipped:
            return "to ship"
        if row["is_float"]:
            return "float"
        return "on the front" if row["on_front"] else "not on the front"

    def text(self, row: ParetoRow, metric: str) -> str:
        """Return a number of a row as the tables show it."""
        return cell(row["metrics"].get(metric), is_share(metric, self.rows))

    def chart_rows(self) -> list[ChartRow]:
        """Return the rows as data of a specification."""
        return [self._chart_row(row) for row in self.rows]

    def _chart_row(self, row: ParetoRow) -> ChartRow:
        measured = {
            key: (row["metrics"][metric], self.scale(metric))
            for metric, key in self.keys.items()
            if metric in row["metrics"]
        }
        return {
            "name": row["name"],
            "state": self.state(row),
            "is_front": row["on_front"],
            "verdict": describe_verdict(row, self.objectives),
            "value": {key: number["value"] * scale for key, (number, scale) in measured.items()},
            "low": _ends(measured, "low"),
            "high": _ends(measured, "high"),
            "text": {key: self.text(row, metric) for metric, key in self.keys.items()},
        }


def _ends(
    measured: Mapping[str, tuple[MetricValue, int]], end: Literal["low", "high"]
) -> dict[str, float]:
    """Return one end of each interval that is known."""
    ends = {key: (number[end], scale) for key, (number, scale) in measured.items()}
    return {key: value * scale for key, (value, scale) in ends.items() if value is not None}


def place_data(results: RunResults, where: Place) -> PlaceData:
    """Return what charts and tables show of a model on a device."""
    judged = results.judged_at(where)
    rows = [judged_row.row for judged_row in judged]
    shipped = results.recommended_row(where)
    objectives = results.objectives[where]
    return PlaceData(
        where=where,
        title=f"{where[0]} on {where[1]}",
        judged=judged,
        metrics=list(dict.fromkeys([*metric_columns(rows, objectives), *_all_metrics(rows)])),
        shipped=shipped["name"] if shipped else "",
        objectives=objectives,
        limits=results.limits,
    )


def _all_metrics(rows: Sequence[ParetoRow]) -> list[str]:
    return [metric for row in rows for metric in row["metrics"]]

"""What a run measured, how sure that is, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from qpipe.compare.json_rows import ParetoRow
from qpipe.errors import QpipeError
from qpipe.report.place_tables import closing_lines, place_tables
from qpipe.report.run_results import RunResults, export_command
from qpipe.report.text_table import TextTable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Value:
    """A measured number: its 95 % interval (None where it was measured once) and its unit."""

    value: float
    low: float | None
    high: float | None
    unit: str

    def __str__(self) -> str:
        text = f"{self.value:.4g} {self.unit}".rstrip()
        if self.low is None or self.high is None:
            return text
        return f"{text} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class ResultRow:
    """What a build of a scheme measured on a device, and its verdict."""

    model: str
    scheme: str
    build: str
    device: str
    is_float: bool
    on_front: bool
    reason: str  # why it is not on the front
    notes: Mapping[str, str]
    metrics: Mapping[str, Value]

    def __getitem__(self, metric: str) -> Value:
        return self.metrics[metric]


class Results(Sequence[ResultRow]):
    """The rows of a run. A notebook shows them as a table."""

    def __init__(self, found: RunResults) -> None:
        self._found = found
        self._rows = [_result_row(row) for row in found.rows]

    @overload
    def __getitem__(self, index: int) -> ResultRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[ResultRow]: ...
    def __getitem__(self, index: int | slice) -> ResultRow | list[ResultRow]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def metrics(self) -> list[str]:
        """The metrics that a row has, in the order in which they were measured."""
        return list(dict.fromkeys(metric for row in self for metric in row.metrics))

    @property
    def recommendations(self) -> dict[tuple[str, str], list[str]]:
        """What to ship, or what would settle it: lines by model and device."""
        return {place: self._found.recommendation(place) for place in self._found.places}

    @property
    def shipped(self) -> list[ResultRow]:
        """The rows to ship: one of each model and device that has any."""
        rows = [self._found.recommended_row(place) for place in self._found.places]
        return [_result_row(row) for row in rows if row is not None]

    @property
    def tables(self) -> list[TextTable]:
        """A table for each model and device as `qpipe pareto` prints it, with what to ship."""
        return place_tables(self._found)

    @property
    def notes(self) -> list[str]:
        """Lines on what no table has: devices that were not reached, limits on nothing."""
        return closing_lines(self._found)

    def check_limits(self) -> None:
        """Raise QpipeError where a limit cannot be compared with anything."""
        problems = self._found.limit_problems()
        if problems:
            raise QpipeError(*problems)

    def on_device(self, device: str) -> Results:
        """Return those of one device; raise QpipeError where the run has no such device."""
        return Results(self._found.on_device(device))

    def keeping(self, points: float) -> Results:
        """Return the same, where what is shipped may lose as much against float."""
        return Results(replace(self._found, keep=points))

    def export_command(self, row: ResultRow, options: Sequence[str] = ()) -> str:
        """Return the command that hands over the file of a row; `options` name the run."""
        place = _place(row)
        (printed,) = [found for found in self._found.rows if _place(_result_row(found)) == place]
        return export_command(printed, self._found.rows, options)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one flat mapping a row; the interval of a metric is METRIC_low and METRIC_high."""
        return [_flat(row) for row in self]

    def to_dataframe(self) -> pd.DataFrame:
        """Return the rows as a pandas table; raise QpipeError where pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise QpipeError("no pandas is installed; run: pip install pandas") from error
        return pd.DataFrame(self.to_dicts())

    def _repr_html_(self) -> str:
        columns = ("", "model", "scheme", "build", "device", *self.metrics)
        rows = []
        for row in self:
            values = [str(row.metrics.get(metric, "")) for metric in self.metrics]
            mark = "*" if row.on_front else ""
            rows.append((mark, *_place(row), *values))
        return TextTable("", columns, rows)._repr_html_()


def _place(row: ResultRow) -> tuple[str, str, str, str]:
    return row.model, row.scheme, row.build, row.device


def _result_row(row: ParetoRow) -> ResultRow:
    metrics = {}
    for name, measured in row["metrics"].items():
        metrics[name] = Value(
            measured["value"], measured["low"], measured["high"], measured["unit"]
        )
    return ResultRow(
        row["model"],
        row["scheme"],
        row["build"],
        row["device"],
        row["is_float"],
        row["on_front"],
        row["reason"],
        row["notes"],
        metrics,
    )


def _flat(row: ResultRow) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "model": row.model,
        "scheme": row.scheme,
        "build": row.build,
        "device": row.device,
        "on_front": row.on_front,
    }
    for metric, measured in row.metrics.items():
        flat[metric] = measured.value
        flat[f"{metric}_low"] = measured.low
        flat[f"{metric}_high"] = measured.high
    return flat

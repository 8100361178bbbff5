"""Runs of a database: what each measured, how sure that is, and what it recommends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from qpipe.compare.json_rows import ParetoRow
from qpipe.engine.request import HOME
from qpipe.errors import QpipeError
from qpipe.report.run_results import RunResults, read_results
from qpipe.storage.results import Store
from qpipe.storage.rows import RunRow, RunState

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
    on_front: bool
    reason: str  # why it is not on the front
    notes: Mapping[str, str]
    metrics: Mapping[str, Value]

    def __getitem__(self, metric: str) -> Value:
        return self.metrics[metric]


class Results(Sequence[ResultRow]):
    """The rows of a run. A notebook shows them as a table."""

    def __init__(self, rows: Sequence[ResultRow]) -> None:
        self._rows = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> ResultRow: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> ResultRow | Results:
        if isinstance(index, slice):
            return Results(self._rows[index])
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[ResultRow]:
        return iter(self._rows)

    @property
    def metrics(self) -> list[str]:
        """The metrics that a row has, in the order in which they were measured."""
        return list(dict.fromkeys(metric for row in self for metric in row.metrics))

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
        names = ("", "model", "scheme", "build", "device", *self.metrics)
        lines = [_html_line("th", names)]
        for row in self:
            values = [str(row.metrics.get(metric, "")) for metric in self.metrics]
            mark = "*" if row.on_front else ""
            cells = (mark, row.model, row.scheme, row.build, row.device, *values)
            lines.append(_html_line("td", cells))
        return f"<table>{''.join(lines)}</table>"


@dataclass(frozen=True)
class Run:
    """A run of a recipe, read from its database when asked."""

    id: str
    recipe: str
    state: RunState
    db: Path

    @property
    def results(self) -> Results:
        """What it measured, with verdicts, a row for each build on each device."""
        return Results([_result_row(row) for row in self._read().rows])

    @property
    def recommendations(self) -> dict[tuple[str, str], list[str]]:
        """What to ship, or what would settle it: lines by model and device."""
        found = self._read()
        return {place: found.recommendation(place) for place in found.places}

    def shipped_row(self, model: str, device: str) -> ResultRow | None:
        """Return the row to ship; None where nothing is shown to lose little enough."""
        row = self._read().recommended_row((model, device))
        return _result_row(row) if row is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Return the run as `qpipe run --json` prints it: its schema has a version."""
        from qpipe.report.run_document import run_document

        with Store(self.db, create=False) as store:
            return {**run_document(store, read_results(store, self.id))}

    def report(self, path: Path | str) -> Path:
        """Write the report of the run as one HTML file, and return its path."""
        from qpipe.report.run_content import read_content
        from qpipe.report.run_report import report_page

        file = Path(path)
        with Store(self.db, create=False) as store:
            page = report_page(read_content(store, self.id))
        file.write_text(page, encoding="utf-8")
        return file

    def _read(self) -> RunResults:
        with Store(self.db, create=False) as store:
            return read_results(store, self.id)


def runs(db: Path | str = HOME / "results.db") -> list[Run]:
    """Return the runs of a database, newest first; raise QpipeError where there is none."""
    path = Path(db)
    with Store(path, create=False) as store:
        return [as_run(row, path) for row in store.runs()]


def as_run(row: RunRow, db: Path) -> Run:
    """Return a row of the database as a run."""
    return Run(row["id"], row["recipe"], row["state"], db)


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


def _html_line(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

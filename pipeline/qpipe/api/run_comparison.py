"""Two runs of a database, compared row by row: what is better, worse, or cannot be compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from qpipe.compare.json_rows import ComparedRow
from qpipe.compare.json_rows import Comparison as Verdict
from qpipe.errors import QpipeError, suggest
from qpipe.report.comparison_rows import (
    COLUMNS,
    VERDICTS,
    count_verdicts,
    incomparable_lines,
    row_cells,
)
from qpipe.report.text_table import TextTable
from qpipe.storage.workspace import report_file

if TYPE_CHECKING:
    from qpipe.report.two_runs import TwoRuns

NUMBER_COLUMNS = ("before", "after", "ratio")


@dataclass(frozen=True)
class Comparison:
    """A run against an earlier one. A notebook shows it as a table."""

    VERDICTS: ClassVar[Sequence[str]] = VERDICTS

    db: Path
    runs: TwoRuns

    @property
    def rows(self) -> Sequence[ComparedRow]:
        """A row for each metric of each build on each device, with both numbers and a verdict."""
        return self.runs.rows

    def select(self, *, metrics: Sequence[str] = (), devices: Sequence[str] = ()) -> Comparison:
        """Return the rows of these metrics and devices; raise QpipeError where neither run has one.

        All where none is named.
        """
        rows = _select_rows(self.rows, "metric", metrics)
        rows = _select_rows(rows, "device", devices)
        return replace(self, runs=replace(self.runs, rows=rows))

    def with_verdicts(self, verdicts: Collection[str]) -> list[ComparedRow]:
        """Return the rows that have one of these verdicts."""
        return [row for row in self.rows if row["verdict"] in verdicts]

    def table(self, without: Collection[str] = ()) -> TextTable:
        """Return the rows as text, the worst first, but for those with these verdicts."""
        rows = [row for row in self.rows if row["verdict"] not in without]
        rows.sort(key=lambda row: VERDICTS.index(row["verdict"]))
        names = f"{self.runs.before['id']} to {self.runs.after['id']}"
        lines = [
            f"{names}: {count_verdicts(self.rows)}",
            *incomparable_lines(self.rows),
            *self.runs.conditions,
        ]
        return TextTable("", COLUMNS, [row_cells(row) for row in rows], NUMBER_COLUMNS, lines=lines)

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe compare --json` prints it: its schema has a version."""
        from qpipe.report.run_document import comparison_document

        return {**comparison_document(self.runs)}

    def junit(self, failing: Iterable[str] = ("worse",)) -> str:
        """Return it as JUnit XML, in which rows with these verdicts fail."""
        from qpipe.report.junit import comparison_junit

        name = f"{self.runs.before['id']} to {self.runs.after['id']}"
        return comparison_junit(self.rows, name, _checked_verdicts(failing))

    def report(self, path: Path | str | None = None) -> Path:
        """Write it as one HTML file, and return its path; by default beside the database."""
        from qpipe.api.finished_runs import write_text
        from qpipe.report.comparison_report import comparison_page

        name = f"{self.runs.before['id']}-{self.runs.after['id']}"
        file = report_file(self.db, name) if path is None else Path(path)
        return write_text(file, comparison_page(self.runs))

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _checked_verdicts(names: Iterable[str]) -> list[Verdict]:
    """Return these verdicts; raise QpipeError where one is none."""
    chosen = list(names)
    for name in chosen:
        if name not in VERDICTS:
            raise QpipeError(f"{name}: no such verdict; {suggest(name, VERDICTS)}")
    return [verdict for verdict in VERDICTS if verdict in chosen]


def _select_rows(
    rows: Sequence[ComparedRow], column: Literal["metric", "device"], values: Sequence[str]
) -> Sequence[ComparedRow]:
    """Return the rows with one of these values, or all rows where there are no values."""
    present = sorted({row[column] for row in rows})
    for value in values:
        if value not in present:
            raise QpipeError(f"--{column} {value}: neither run has it; {suggest(value, present)}")
    if not values:
        return rows
    return [row for row in rows if row[column] in values]

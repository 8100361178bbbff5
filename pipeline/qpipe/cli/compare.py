"""qpipe compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qpipe.cli.completions import complete_device, complete_run
from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.results_database import find_run, open_results
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.errors import QpipeError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe.compare.json_rows import ComparedRow, Comparison

# rows that are only counted, unless the user names metrics
COUNTED_VERDICTS: tuple[Comparison, ...] = ("tied", "not comparable")
EXIT_STATUS = 3  # of a comparison with a verdict that --fail-on names


def compare(
    before: Annotated[
        str,
        typer.Argument(
            help="The earlier run: its id, the beginning of its id, or a tag.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    after: Annotated[
        str | None,
        typer.Argument(
            help="The run to compare with it, by default the newest.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Compare only this device.", autocompletion=complete_device),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Compare only this metric; repeatable."),
    ] = None,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="VERDICT",
            help=f"End with exit status {EXIT_STATUS} where a row has this verdict; repeatable.",
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit",
            metavar="FILE",
            help="Write JUnit XML, too: what --fail-on names fails, or else what is worse.",
        ),
    ] = None,
) -> None:
    """Compare two runs row by row: what is better, what is worse, what cannot be compared."""
    from qpipe.compare.device_changes import differing_environments
    from qpipe.compare.runs import compared
    from qpipe.report.junit import comparison_junit
    from qpipe.report.run_document import COMPARISON_SCHEMA

    failing_verdicts = _check_verdicts(fail_on or [])
    metrics = metric or []
    devices = [device] if device else []
    with open_results(db) as store:
        before_id = find_run(store, before)["id"]
        after_id = find_run(store, after)["id"]
        rows = compared(store, before_id, after_id)
        environment = differing_environments(store, before_id, after_id)
        unreachable = {run_id: store.unreachable(run_id) for run_id in (before_id, after_id)}
    rows = _select_rows(rows, "metric", metrics)
    rows = _select_rows(rows, "device", devices)
    if junit is not None:
        name = f"{before_id} to {after_id}"
        junit.write_text(comparison_junit(rows, name, failing_verdicts or ["worse"]), "utf-8")
    if as_json:
        print_json(
            {
                "schema": COMPARISON_SCHEMA,
                "before": before_id,
                "after": after_id,
                "environment": environment,
                "unreachable": unreachable,
                "rows": rows,
            }
        )
    else:
        _print_comparison(rows, f"{before_id} to {after_id}", environment, shows_all=bool(metrics))
        for run_id, reasons in unreachable.items():
            for reason in reasons.values():
                print_text(f"not reached in {run_id}: {reason}")
    if any(row["verdict"] in failing_verdicts for row in rows):
        raise typer.Exit(EXIT_STATUS)


def _check_verdicts(names: Sequence[str]) -> list[Comparison]:
    """Return these verdicts; raise QpipeError where one is none."""
    from qpipe.report.comparison_rows import VERDICTS

    for name in names:
        if name not in VERDICTS:
            raise QpipeError(f"--fail-on {name}: no such verdict; {suggest(name, VERDICTS)}")
    return [verdict for verdict in VERDICTS if verdict in names]


def _print_comparison(
    rows: Sequence[ComparedRow], runs: str, environment: Sequence[str], *, shows_all: bool
) -> None:
    from qpipe.report.comparison_rows import (
        COLUMNS,
        VERDICTS,
        count_verdicts,
        incomparable_lines,
        row_cells,
    )

    shown_rows = rows
    if not shows_all:
        shown_rows = [row for row in rows if row["verdict"] not in COUNTED_VERDICTS]
    if shown_rows:
        shown_rows = sorted(shown_rows, key=lambda row: VERDICTS.index(row["verdict"]))
        cells = [row_cells(row) for row in shown_rows]
        print_table(COLUMNS, cells, right=("before", "after", "ratio"))
    print_text(f"{runs}: {count_verdicts(rows)}")
    for line in incomparable_lines(rows):
        print_text(line)
    for line in environment:
        print_text(f"measured under different conditions: {line}")


def _select_rows(
    rows: list[ComparedRow], column: Literal["metric", "device"], values: Sequence[str]
) -> list[ComparedRow]:
    """Return the rows with one of these values, or all rows where there are no values."""
    for value in values:
        known_values = sorted({row[column] for row in rows})
        if value not in known_values:
            raise QpipeError(
                f"--{column} {value}: neither run has it; {suggest(value, known_values)}"
            )
    if not values:
        return rows
    return [row for row in rows if row[column] in values]

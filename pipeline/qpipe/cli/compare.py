"""qpipe compare."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.results_database import find_run, open_results
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.errors import QpipeError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe.compare.json_rows import ComparedRow, ComparedValue, Comparison

VERDICTS: tuple[Comparison, ...] = ("worse", "better", "not comparable", "missing", "new", "tied")
# rows that are only counted, unless the user names metrics
COUNTED_VERDICTS: tuple[Comparison, ...] = ("tied", "not comparable")
EXIT_STATUS = 3  # of a comparison with a verdict that --fail-on names
COLUMNS = ("row", "metric", "before", "after", "ratio", "verdict")


def compare(
    before: Annotated[
        str,
        typer.Argument(
            help="The earlier run: its id, the beginning of its id, or a tag.",
            show_default=False,
        ),
    ],
    after: Annotated[str, typer.Argument(help="The run to compare with it.", show_default=False)],
    device: Annotated[
        str | None, typer.Option("--device", help="Compare only this device.")
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
) -> None:
    """Compare two runs row by row: what is better, what is worse, what cannot be compared."""
    from qpipe.compare.device_changes import differing_environments
    from qpipe.compare.runs import compared

    failing_verdicts = fail_on or []
    for verdict in failing_verdicts:
        if verdict not in VERDICTS:
            raise QpipeError(f"--fail-on {verdict}: no such verdict; {suggest(verdict, VERDICTS)}")
    metrics = metric or []
    devices = [device] if device else []
    with open_results(db) as store:
        before_id = find_run(store, before)["id"]
        after_id = find_run(store, after)["id"]
        rows = compared(store, before_id, after_id)
        environment = differing_environments(store, before_id, after_id)
    rows = _select_rows(rows, "metric", metrics)
    rows = _select_rows(rows, "device", devices)
    if as_json:
        print_json(
            {"before": before_id, "after": after_id, "environment": environment, "rows": rows}
        )
    else:
        _print_comparison(rows, f"{before_id} to {after_id}", environment, shows_all=bool(metrics))
    if any(row["verdict"] in failing_verdicts for row in rows):
        raise typer.Exit(EXIT_STATUS)


def _print_comparison(
    rows: Sequence[ComparedRow], runs: str, environment: Sequence[str], *, shows_all: bool
) -> None:
    shown_rows = rows
    if not shows_all:
        shown_rows = [row for row in rows if row["verdict"] not in COUNTED_VERDICTS]
    if shown_rows:
        shown_rows = sorted(shown_rows, key=lambda row: VERDICTS.index(row["verdict"]))
        cells = [_row_cells(row) for row in shown_rows]
        print_table(COLUMNS, cells, right=("before", "after", "ratio"))
    print_text(f"{runs}: {_count_verdicts(rows)}")
    for line in _incomparable_lines(rows):
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


def _row_cells(row: ComparedRow) -> list[str]:
    """Return a row as text, a cell for each of COLUMNS."""
    from qpipe.compare.formatting import metric_name

    build = "/".join((row["model"], row["scheme"], row["build"]))
    verdict: str = row["verdict"]
    if row["differs"]:
        verdict += f": different: {' and '.join(row['differs'])}"
    elif verdict == "not comparable":
        verdict += f": {row['doubt']}"
    ratio = ""
    if row["ratio"]:
        ratio = "{value:.3f} ({low:.3f} to {high:.3f})".format(**row["ratio"])
    return [
        f"{build}@{row['device']}",
        metric_name(row["metric"], row["unit"] or "", row["emulated"]),
        _format_value(row["before"]),
        _format_value(row["after"]),
        ratio,
        verdict,
    ]


def _format_value(measured: ComparedValue | None) -> str:
    """Return a value with half the width of its interval."""
    if measured is None:
        return "-"
    text = f"{measured['value']:.4g}"
    low = measured["low"]
    high = measured["high"]
    if low is not None and high is not None:
        half_width = (high - low) / 2
        text += f" ±{half_width:.2g}"
    return text


def _count_verdicts(rows: Sequence[ComparedRow]) -> str:
    counts = Counter(row["verdict"] for row in rows)
    words = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    return ", ".join(words) or "nothing was measured"


def _incomparable_lines(rows: Sequence[ComparedRow]) -> list[str]:
    """Return a line for each reason why rows cannot be compared, with their number."""
    lines = []
    differences = Counter(" and ".join(row["differs"]) for row in rows if row["differs"])
    for reason, count in differences.items():
        lines.append(f"{count} cannot be compared: the runs differ in {reason}")
    doubts = Counter(
        row["doubt"] for row in rows if row["verdict"] == "not comparable" and not row["differs"]
    )
    for reason, count in doubts.items():
        lines.append(f"{count} cannot be compared, being in doubt: {reason}")
    return lines

"""qpipe compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import qpipe
from qpipe.cli.completions import complete_device, complete_run
from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.tables import print_json, print_titled_table
from qpipe.errors import QpipeError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

# rows that are only counted, unless the user names metrics
COUNTED_VERDICTS = ("tied", "not comparable")
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
    failing_verdicts = _check_verdicts(fail_on or [])
    later = qpipe.find_run(after, db=db)
    comparison = later.compare(qpipe.find_run(before, db=db))
    comparison = comparison.select(metrics=metric or (), devices=[device] if device else ())
    if junit is not None:
        junit.write_text(comparison.junit(failing_verdicts or ["worse"]), "utf-8")
    if as_json:
        print_json(comparison.to_dict())
    else:
        print_titled_table(comparison.table(without=() if metric else COUNTED_VERDICTS))
    if comparison.with_verdicts(failing_verdicts):
        raise typer.Exit(EXIT_STATUS)


def _check_verdicts(names: Sequence[str]) -> Sequence[str]:
    """Return these verdicts; raise QpipeError where one is none."""
    for name in names:
        if name not in qpipe.Comparison.VERDICTS:
            verdicts = suggest(name, qpipe.Comparison.VERDICTS)
            raise QpipeError(f"--fail-on {name}: no such verdict; {verdicts}")
    return names

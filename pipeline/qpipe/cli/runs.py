"""qpipe runs."""

from __future__ import annotations

from typing import Annotated

import typer

import qpipe
from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.tables import print_json, print_table
from qpipe.errors import QpipeError, suggest

COLUMNS = ("id", "recipe", "state", "started", "finished", "host", "tags")
MAX_CELL = 40  # characters


def runs(
    context: typer.Context,
    tag: Annotated[
        str | None, typer.Option("--tag", help="List only the runs with this tag.")
    ] = None,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """List all runs with their tags, newest first."""
    # options that stand before the name of a subcommand are its defaults
    context.default_map = {"tag": {"db": db, "as_json": as_json}}
    if context.invoked_subcommand is not None:
        return
    found = qpipe.runs(db, tag=tag)
    if tag and not found:
        tags = {name for run in qpipe.runs(db) for name in run.tags}
        raise QpipeError(f"--tag {tag}: no run has this tag; {suggest(tag, tags)}")
    if as_json:
        print_json([{**run.record, "tags": run.tags, "failures": run.failures} for run in found])
        return
    print_table(COLUMNS, [_cells(run) for run in found])


def _cells(run: qpipe.Run) -> list[str]:
    """Return a run as text, a cell for each of COLUMNS."""
    smoke = " (smoke)" if run.is_smoke else ""
    cells = (
        run.id,
        f"{run.recipe}{smoke}",
        run.state,
        run.record["started"],
        run.record["finished"] or "",
        run.record["host"] or "",
        ", ".join(run.tags),
    )
    return [cell[:MAX_CELL] for cell in cells]

"""qpipe runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.results_database import open_results
from qpipe.cli.tables import print_json, print_table
from qpipe.errors import QpipeError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qpipe.storage.rows import RunRow

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
    with open_results(db) as store:
        tags = store.tags()
        failures = store.failures()
        run_rows = store.runs(tag=tag)
    if tag and not run_rows:
        all_tags = {name for names in tags.values() for name in names}
        raise QpipeError(f"--tag {tag}: no run has this tag; {suggest(tag, all_tags)}")
    entries = [
        {**run, "tags": tags.get(run["id"], []), "failures": failures.get(run["id"], {})}
        for run in run_rows
    ]
    if as_json:
        print_json(entries)
        return
    print_table(COLUMNS, [_cells(run, tags.get(run["id"], [])) for run in run_rows])


def _cells(run: RunRow, tags: Sequence[str]) -> list[str]:
    """Return a run as text, a cell for each of COLUMNS."""
    from qpipe.storage.rows import is_smoke_run

    smoke = " (smoke)" if is_smoke_run(run) else ""
    cells = (
        run["id"],
        f"{run['recipe']}{smoke}",
        run["state"],
        run["started"],
        run["finished"] or "",
        run["host"] or "",
        ", ".join(tags),
    )
    return [cell[:MAX_CELL] for cell in cells]

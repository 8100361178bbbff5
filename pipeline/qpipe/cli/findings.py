"""qpipe findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.storage.workspace import open_nights

if TYPE_CHECKING:
    from qpipe.storage.rows import FindingRow

COLUMNS = ("number", "lab", "since", "state", "status", "what", "note")


def findings(
    acknowledge: Annotated[
        list[int] | None,
        typer.Option(
            "--acknowledge",
            metavar="NUMBER",
            help="Take what this finding says as normal from its first night on; repeatable.",
        ),
    ] = None,
    close: Annotated[
        list[int] | None,
        typer.Option(
            "--close",
            metavar="NUMBER",
            help="The same, and list it no more; repeatable.",
        ),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Why, kept with the finding.")] = "",
    list_all: Annotated[bool, typer.Option("--all", help="List closed findings, too.")] = False,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """List what nights have found, or say that it is known."""
    with open_nights(db) as store:
        for number in acknowledge or ():
            store.change_finding(store.finding(number)["id"], status="acknowledged", note=note)
        for number in close or ():
            store.change_finding(store.finding(number)["id"], status="closed", note=note)
        rows = store.findings()
    shown = [row for row in rows if list_all or row["status"] != "closed"]
    if as_json:
        print_json(shown)
    elif shown:
        print_table(COLUMNS, [_cells(row) for row in shown])
    else:
        print_text("there are no findings")


def _cells(row: FindingRow) -> list[object]:
    """Return a finding as text, a cell for each of COLUMNS."""
    return [
        row["id"],
        row["lab"],
        row["start"],
        row["state"],
        row["status"],
        row["text"],
        row["note"],
    ]

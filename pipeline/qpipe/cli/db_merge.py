"""qpipe db merge."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.tables import print_json, print_table, print_text

COUNT_COLUMNS = ("runs added", "replaced", "kept", "same", "measurements", "devices")


def db_merge(
    others: Annotated[
        list[Path], typer.Argument(help="Databases of other machines.", show_default=False)
    ],
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Merge the runs of other databases into this one; the others are not changed."""
    from qpipe.errors import shown
    from qpipe.storage.merge import merge

    merged_files = merge(db, others)
    if as_json:
        print_json({"db": str(db), "files": [asdict(merged) for merged in merged_files]})
        return
    for merged in merged_files:
        for line in merged.told:
            print_text(line)
    rows = [
        (
            shown(merged.file),
            merged.added,
            merged.replaced,
            merged.kept,
            merged.same,
            merged.measurements,
            merged.devices,
        )
        for merged in merged_files
    ]
    print_table(("file", *COUNT_COLUMNS), rows, right=COUNT_COLUMNS)
    print_text(f"into {shown(db)}")

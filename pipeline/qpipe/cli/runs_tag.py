"""qpipe runs tag."""

from __future__ import annotations

from typing import Annotated

import typer

import qpipe
from qpipe.cli.completions import complete_run
from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.tables import print_json, print_text


def runs_tag(
    run: Annotated[
        str,
        typer.Argument(
            help="The run: its id, the beginning of its id, or a tag that it has.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    tags: Annotated[
        list[str], typer.Argument(help="The tags, names of your choice.", show_default=False)
    ],
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove these tags instead of adding them.")
    ] = False,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Add tags to a run; commands accept a tag wherever they take the id of a run."""
    found = qpipe.find_run(run, db=db)
    changed = found.untag(*tags) if remove else found.tag(*tags)
    if as_json:
        print_json({"run": changed.id, "tags": changed.tags})
    else:
        print_text(f"run {changed.id}: {', '.join(changed.tags) or 'no tags'}")

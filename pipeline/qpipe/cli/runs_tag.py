"""qpipe runs tag."""

from __future__ import annotations

from typing import Annotated

import typer

from qpipe.cli.completions import complete_run
from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.results_database import find_run, open_results
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
    from qpipe.recipe.yaml_document import checked_name

    for tag in tags:
        checked_name(tag, "runs tag", "tag")
    with open_results(db) as store:
        run_id = find_run(store, run)["id"]
        if remove:
            store.untag(run_id, tags)
        else:
            store.tag(run_id, tags)
        current_tags = store.tags().get(run_id, [])
    if as_json:
        print_json({"run": run_id, "tags": current_tags})
    else:
        print_text(f"run {run_id}: {', '.join(current_tags) or 'no tags'}")

"""qpipe samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import qpipe
from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    DbOption,
    JsonOption,
    RecipeArgument,
    RecipeInventoryOption,
    SettingsOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_text, print_titled_table
from qpipe.errors import shown


def samples(
    recipe: RecipeArgument,
    settings: SettingsOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write. By default .qpipe/samples/RECIPE."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            help="The number of samples of each part, calibration and evaluation. By default those "
            "that qpipe new scores.",
        ),
    ] = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Write a page of what the network is fed: pictures, statistics, and what float predicts."""
    from qpipe.cli.progress_display import open_display

    with open_display() as display:
        loaded = qpipe.load(
            recipe, set=parse_settings(settings), inventory=inventory, db=db, cache=cache
        )
        fed = loaded.samples(out, count=count, progress=display.event, notify=display.announce)
    if as_json:
        print_json(fed.to_dict())
        return
    for table in fed.tables:
        if table.title:
            print_text()
        print_titled_table(table)
    print_text(f"\nlook at: {shown(fed.page)}")

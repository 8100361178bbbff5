"""qpipe diagnose."""

from __future__ import annotations

from typing import Annotated

import typer

import qpipe
from qpipe.cli.completions import complete_device, complete_scheme
from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    BuildOption,
    CacheOption,
    DbOption,
    JsonOption,
    ModelOption,
    RecipeArgument,
    RecipeInventoryOption,
    SettingsOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_text, print_titled_table
from qpipe.errors import shown


def diagnose(
    recipe: RecipeArgument,
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            help="The scheme to diagnose.",
            show_default=False,
            autocompletion=complete_scheme,
        ),
    ],
    model: ModelOption = None,
    build: BuildOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="The device; by default the first of the recipe.",
            autocompletion=complete_device,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="The number of evaluation samples.")
    ] = 16,
    settings: SettingsOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Show where a scheme loses accuracy, from float to the device and layer by layer.

    Each layer comes with what to try.
    """
    from qpipe.cli.progress_display import open_display

    with open_display() as display:
        loaded = qpipe.load(
            recipe, set=parse_settings(settings), inventory=inventory, db=db, cache=cache
        )
        diagnosis = loaded.diagnose(
            scheme,
            model=model,
            build=build,
            device=device,
            count=count,
            progress=display.event,
            notify=display.announce,
        )
    if as_json:
        print_json(diagnosis.to_dict())
        return
    print_titled_table(diagnosis.ladder)
    print_titled_table(diagnosis.layers)
    file_names = ", ".join(shown(file) for file in diagnosis.files)
    print_text(f"\nall {len(diagnosis.content['layers'])} layers: {file_names}")

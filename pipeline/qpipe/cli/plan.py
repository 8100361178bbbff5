"""qpipe plan."""

from __future__ import annotations

import qpipe
from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    DbOption,
    JsonOption,
    OnlyOption,
    RecipeArgument,
    RecipeDevicesOption,
    RecipeInventoryOption,
    SettingsOption,
    SmokeOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_text, print_titled_table


def plan(
    recipe: RecipeArgument,
    settings: SettingsOption = None,
    device: RecipeDevicesOption = None,
    only: OnlyOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do: steps, cache hits, bytes to send."""
    from qpipe.cli.progress_display import open_display

    with open_display() as display:
        loaded = qpipe.load(
            recipe, set=parse_settings(settings), inventory=inventory, db=db, cache=cache
        )
        planned = loaded.plan(
            devices=device or (),
            only=only or (),
            smoke=smoke,
            progress=display.event,
            notify=display.announce,
        )
    if as_json:
        print_json([step.to_dict() for step in planned])
        return
    print_titled_table(planned.table)
    for line in planned.forecast():
        print_text(line)

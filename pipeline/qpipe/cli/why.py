"""qpipe why."""

from __future__ import annotations

from typing import Annotated

import typer

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
    RunOption,
    SettingsOption,
    SmokeOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_titled_table


def why(
    recipe: RecipeArgument,
    step: Annotated[
        str,
        typer.Argument(
            help="The step, as `qpipe plan` and `qpipe show` name it.", show_default=False
        ),
    ],
    run: RunOption = None,
    settings: SettingsOption = None,
    device: RecipeDevicesOption = None,
    only: OnlyOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Explain field by field why a step is a cache hit or will be computed.

    The recipe as it is now is compared with what a run recorded.
    """
    loaded = qpipe.load(
        recipe, set=parse_settings(settings), inventory=inventory, db=db, cache=cache
    )
    recorded = qpipe.find_run(run, db=db)
    explanation = loaded.why(step, recorded, devices=device or (), only=only or (), smoke=smoke)
    if as_json:
        print_json(explanation.to_dict())
    else:
        print_titled_table(explanation.table)

"""qpipe schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.tables import print_json


def schema(
    inventory: Annotated[
        bool, typer.Option("--inventory", help="Print the schema of devices.yaml instead.")
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A Python file with stages of your own; repeatable."),
    ] = None,
) -> None:
    """Print the JSON Schema of recipes, with the options of all installed stages.

    Editors check and complete recipes with it.
    """
    from qpipe.recipe import json_schema
    from qpipe.stages import registry

    plugins = registry.load(plugin or ())
    if inventory:
        print_json(json_schema.inventory(plugins))
    else:
        print_json(json_schema.recipe(plugins))

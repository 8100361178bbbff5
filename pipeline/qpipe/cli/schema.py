"""qpipe schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from qpipe.cli.tables import print_json


def schema(
    of: Annotated[
        Literal["recipe", "devices", "run", "comparison", "search", "doctor"],
        typer.Option(
            "--of",
            help="Print the schema of recipes, of devices.yaml, of what run and pareto print with "
            "--json, or of what compare, search or doctor print.",
        ),
    ] = "recipe",
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A Python file with stages of your own; repeatable."),
    ] = None,
) -> None:
    """Print the JSON Schema of recipes, with the options of all installed stages.

    Editors check and complete recipes with it; scripts check what they read.
    """
    from qpipe.recipe import json_schema
    from qpipe.report.json_documents import json_schemas
    from qpipe.stages import registry

    if of == "recipe":
        print_json(json_schema.recipe(registry.load(plugin or ())))
    elif of == "devices":
        print_json(json_schema.inventory(registry.load(plugin or ())))
    else:
        print_json(next(schema for name, schema in json_schemas().items() if f".{of}/" in name))

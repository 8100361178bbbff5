"""The options that several commands share. Imports nothing heavy: help must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Db = Annotated[Path, typer.Option("--db", help="The database of results.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Run = Annotated[
    str | None,
    typer.Option("--run", help="A run's id, its beginning, or a tag; the newest run otherwise."),
]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe, a YAML file.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the recipe."),
]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="Measure on this device instead of the recipe's; repeatable."),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="This scheme alone, and float; repeatable.")
]
Inventory = Annotated[
    Path | None,
    typer.Option(
        "--inventory", help="The devices; devices.yaml beside the recipe or here otherwise."
    ),
]
DevicesFile = Annotated[
    Path | None,
    typer.Option(
        "--inventory", help="The devices; ./devices.yaml or ./recipes/devices.yaml otherwise."
    ),
]
Least = Annotated[
    list[str] | None,
    typer.Option(
        "--min", metavar="METRIC=VALUE", help="Ship nothing with less, as map50=0.8; repeatable."
    ),
]
Most = Annotated[
    list[str] | None,
    typer.Option(
        "--max", metavar="METRIC=VALUE", help="Ship nothing with more, as latency_ms=5; repeatable."
    ),
]
CacheFolder = Annotated[Path, typer.Option("--cache", help="The folder of cached results.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The whole chain on a handful of samples.")]

DB = Path(".qpipe/results.db")
CACHE = Path(".qpipe/cache")

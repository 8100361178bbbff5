"""The arguments and options that several commands share. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpipe import DEFAULT_CACHE as DEFAULT_CACHE
from qpipe import DEFAULT_DB as DEFAULT_DB
from qpipe.cli.completions import complete_device, complete_run, complete_scheme

DbOption = Annotated[Path, typer.Option("--db", help="The database of results.")]
CacheOption = Annotated[Path, typer.Option("--cache", help="The folder of cached results.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="The run: its id, the beginning of its id, or a tag. By default the newest run.",
        autocompletion=complete_run,
    ),
]

# ---- recipes

RecipeArgument = Annotated[
    Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the recipe; repeatable."),
]
RecipeDevicesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="Measure on this device instead of those of the recipe; tag:NAME is any one with that "
        "tag, all:NAME each of them; repeatable.",
        autocompletion=complete_device,
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="Run only this scheme and the float network; repeatable.",
        autocompletion=complete_scheme,
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Send steps of the host to a Dask cluster: tcp://HOST:8786, or local for one that is "
        "started here. By default as the recipe says.",
    ),
]
RecipeInventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        help="The inventory of devices. By default devices.yaml beside the recipe, "
        "or else ./devices.yaml.",
    ),
]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="Run the whole chain on a handful of samples.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="The model, where there are several.")
]
BuildOption = Annotated[
    str | None, typer.Option("--build", help="The build, where there are several.")
]

# ---- limits of a recommendation

MinOption = Annotated[
    list[str] | None,
    typer.Option(
        "--min",
        metavar="METRIC=VALUE",
        help="Recommend only what has at least this value, such as map50=0.8; repeatable.",
    ),
]
MaxOption = Annotated[
    list[str] | None,
    typer.Option(
        "--max",
        metavar="METRIC=VALUE",
        help="Recommend only what has at most this value, such as latency_ms=5; repeatable.",
    ),
]

KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="POINTS",
        help="Recommend only what is shown to lose at most this against float: points of a "
        "share, percent of other metrics. By default as the recipe says, or else 1.",
    ),
]
KneeOption = Annotated[
    bool,
    typer.Option(
        "--knee", help="Name what is nearest to the best of each objective, shown to keep or not."
    ),
]

# ---- devices

DeviceArgument = Annotated[
    str,
    typer.Argument(help="The device.", show_default=False, autocompletion=complete_device),
]
InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        help="The inventory of devices. By default ./devices.yaml, or else ./recipes/devices.yaml.",
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--yes", help="Trust the host key that the device shows, without asking.")
]

# ---- cleaning

OlderThanOption = Annotated[
    float | None,
    typer.Option(
        "--older-than",
        min=0,
        metavar="DAYS",
        help="Remove only what was not used for this many days.",
    ),
]
KeepMbOption = Annotated[
    float | None,
    typer.Option(
        "--keep-mb",
        min=0,
        metavar="MB",
        help="Remove only the least recently used, until this many MB are left.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")]

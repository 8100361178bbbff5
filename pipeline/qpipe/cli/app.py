"""The commands, and the options that several of them share. Imports nothing heavy: help must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
devices_app = typer.Typer(no_args_is_help=True, help="The devices one can measure on.")
app.add_typer(devices_app, name="devices", rich_help_panel="Parts")

Db = Annotated[Path, typer.Option("--db", help="The database of results.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Run = Annotated[str | None, typer.Option("--run", help="A run's id, or its beginning; the newest run otherwise.")]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe, a YAML file.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the recipe.")
]
Devices = Annotated[
    list[str] | None, typer.Option("--device", help="Measure on this device instead of the recipe's; repeatable.")
]
Only = Annotated[list[str] | None, typer.Option("--only", help="This scheme alone, and float; repeatable.")]
Inventory = Annotated[
    Path | None, typer.Option("--inventory", help="The devices; devices.yaml beside the recipe or here otherwise.")
]
DevicesFile = Annotated[
    Path | None, typer.Option("--inventory", help="The devices; ./devices.yaml or ./recipes/devices.yaml otherwise.")
]
CacheFolder = Annotated[Path, typer.Option("--cache", help="The folder of cached results.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The whole chain on a handful of samples.")]

DB = Path(".qpipe/results.db")
CACHE = Path(".qpipe/cache")


def _version(asked: bool) -> None:
    if asked:
        from qpipe import __version__

        typer.echo(f"qpipe {__version__}")
        raise typer.Exit


@app.callback()
def qpipe(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Which quantization scheme to ship on this board: run them all, measure them there, show the evidence."""


@app.command(rich_help_panel="Running")
def run(
    recipe: RecipeFile,
    settings: Settings = None,
    device: Devices = None,
    only: Only = None,
    inventory: Inventory = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
    smoke: Smoke = False,
    new: Annotated[bool, typer.Option("--new", help="Start afresh, also where a run is unfinished.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe: quantize, deploy, measure, compare."""
    from qpipe.cli import running

    running.run(running.request(recipe, settings, device, only, inventory, db, cache, smoke, new), as_json)


@app.command(rich_help_panel="Running")
def plan(
    recipe: RecipeFile,
    settings: Settings = None,
    device: Devices = None,
    only: Only = None,
    inventory: Inventory = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """Show what a run would do: steps, cache hits, bytes to send."""
    from qpipe.cli import running

    running.plan(running.request(recipe, settings, device, only, inventory, db, cache, smoke), as_json)


@app.command(rich_help_panel="Running")
def why(
    step: Annotated[str, typer.Argument(help="A step, as `qpipe plan` and `qpipe show` name it.", show_default=False)],
    run: Run = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
    as_json: Json = False,
) -> None:
    """Explain, field by field, why a step is a cache hit or will be computed."""
    from qpipe.cli import running

    running.why(step, run, db, cache, as_json)


@app.command(rich_help_panel="Results")
def pareto(
    run: Run = None,
    device: Annotated[str | None, typer.Option("--device", help="This device alone.")] = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """The Pareto table of a run, a device at a time, and what to ship."""
    from qpipe.cli import results

    results.pareto(run, device, db, as_json)


@app.command(rich_help_panel="Results")
def export(
    device: Annotated[str, typer.Option("--device", help="The device it was measured on.", show_default=False)],
    scheme: Annotated[str, typer.Option("--scheme", help="The scheme to ship.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for it.", show_default=False)],
    model: Annotated[str | None, typer.Option("--model", help="Which model, where the run has several.")] = None,
    build: Annotated[str | None, typer.Option("--build", help="Which build, where the run has several.")] = None,
    run: Run = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
) -> None:
    """Hand over a scheme's file with all that is needed to run it elsewhere."""
    from qpipe.cli import results

    results.export(device, scheme, out, model, build, run, db, cache)


@app.command(rich_help_panel="Results")
def runs(db: Db = DB, as_json: Json = False) -> None:
    """All runs, newest first."""
    from qpipe.cli import results

    results.runs(db, as_json)


@app.command(rich_help_panel="Results")
def show(
    step: Annotated[str | None, typer.Argument(help="A step; all of them otherwise.", show_default=False)] = None,
    run: Run = None,
    log: Annotated[bool, typer.Option("--log", help="Print what the step wrote.")] = False,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """The steps of a run, or one of them with its log."""
    from qpipe.cli import results

    results.show(step, run, log, db, as_json)


@app.command(rich_help_panel="Parts")
def plugins(as_json: Json = False) -> None:
    """Every stage and kind of device there is, and plugins that did not load."""
    from qpipe.cli import lab

    lab.plugins(as_json)


@app.command(rich_help_panel="Parts")
def describe(
    kind: Annotated[str, typer.Argument(help="A kind of stage, or 'device'.", show_default=False)],
    name: Annotated[str, typer.Argument(help="The stage's name.", show_default=False)],
    as_json: Json = False,
) -> None:
    """What a stage does, needs and can be told."""
    from qpipe.cli import lab

    lab.describe(kind, name, as_json)


@devices_app.command("list")
def devices_list(inventory: DevicesFile = None, db: Db = DB, as_json: Json = False) -> None:
    """The devices of the inventory and what they said when last checked."""
    from qpipe.cli import lab

    lab.devices(inventory, db, as_json)


@devices_app.command("check")
def devices_check(
    names: Annotated[list[str] | None, typer.Argument(help="Devices; all otherwise.", show_default=False)] = None,
    inventory: DevicesFile = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """Reach devices, and record what they are."""
    from qpipe.cli import lab

    lab.check(names or [], inventory, db, as_json)


@devices_app.command("clean")
def devices_clean(
    names: Annotated[list[str], typer.Argument(help="The devices to clean.", show_default=False)],
    inventory: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Remove all that qpipe stored on devices; a later run sends again what it needs."""
    from qpipe.cli import lab

    lab.clean(names, inventory, as_json)

"""The commands. Imports nothing heavy: help must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.groups import cache_app, db_app, devices_app, runs_app
from qpipe.cli.parameters import (
    CACHE,
    DB,
    CacheFolder,
    Db,
    Devices,
    Inventory,
    Json,
    Least,
    Most,
    Only,
    RecipeFile,
    Run,
    Settings,
    Smoke,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from qpipe import __version__

        typer.echo(f"qpipe {__version__}")
        raise typer.Exit


@app.callback()
def qpipe(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Which quantization scheme to ship on this board: run them all, measure them there, show the evidence."""


@app.command(rich_help_panel="Starting")
def new(
    model: Annotated[
        Path | None,
        typer.Argument(help="An ONNX file; without one, the demo is unpacked.", show_default=False),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:PATH",
            help="What to calibrate and evaluate on: images:DIR, coco:DIR, npz:DIR or "
            "wav:DIR, with folders calibration and evaluation (or train and val) in it, or one for both.",
        ),
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Where to measure; repeatable.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The recipe, recipe.yaml otherwise; of the demo, its folder."
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A CSV of file,label for evaluation.")] = None,
    calibrate: Annotated[
        int | None, typer.Option(min=1, help="Calibrate on so many samples.")
    ] = None,
    evaluate: Annotated[
        int | None, typer.Option(min=1, help="Evaluate on so many samples.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Of pictures, where the network leaves it open; or HEIGHTxWIDTH."
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="X", help="Taken from pixels of 0 to 255; or three, as X,Y,Z."),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="X", help="What they are divided by then; or three, as X,Y,Z."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what lies there.")] = False,
) -> None:
    """Look at an ONNX file and write a recipe for it that runs; without one, unpack the demo."""
    from qpipe.cli import starting

    if model is None:
        starting.unpack(out, force)
    else:
        counts = {"calibrate": calibrate, "evaluate": evaluate}
        starting.new(model, samples, out, labels, counts, (size, mean, std), device or (), force)


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
    new: Annotated[
        bool, typer.Option("--new", help="Start afresh, also where a run is unfinished.")
    ] = False,
    retries: Annotated[
        int,
        typer.Option(
            "--retries", min=0, metavar="N", help="More tries after a device or its line failed."
        ),
    ] = 2,
    least: Least = None,
    most: Most = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: quantize, deploy, measure, compare."""
    from qpipe.cli import running
    from qpipe.recipe import limits

    kept = limits.read(least or [], most or [])
    asked = running.request(
        recipe, settings, device, only, inventory, db, cache, smoke, new, retries, kept
    )
    running.run(asked, as_json)


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

    running.plan(
        running.request(recipe, settings, device, only, inventory, db, cache, smoke), as_json
    )


@app.command(rich_help_panel="Running")
def why(
    step: Annotated[
        str,
        typer.Argument(
            help="A step, as `qpipe plan` and `qpipe show` name it.", show_default=False
        ),
    ],
    run: Run = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
    as_json: Json = False,
) -> None:
    """Explain, field by field, why a step is a cache hit or will be computed."""
    from qpipe.cli import running

    running.why(step, run, db, cache, as_json)


@app.command(rich_help_panel="Running")
def samples(
    recipe: RecipeFile,
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder for it; .qpipe/samples/RECIPE otherwise."),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="How many samples of each part.")
    ] = 16,
    inventory: Inventory = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
    as_json: Json = False,
) -> None:
    """Write what the network really sees: fed inputs as pictures, their statistics, what float makes of them."""
    from qpipe.cli import looking, running

    asked = running.request(recipe, settings, None, None, inventory, db, cache, smoke=False)
    looking.samples(asked, out, count, as_json)


@app.command(rich_help_panel="Results")
def pareto(
    run: Run = None,
    device: Annotated[str | None, typer.Option("--device", help="This device alone.")] = None,
    least: Least = None,
    most: Most = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """The Pareto table of a run, a device at a time, and what to ship."""
    from qpipe.cli import results
    from qpipe.recipe import limits

    results.pareto(run, device, limits.read(least or [], most or []), db, as_json)


@app.command(rich_help_panel="Results")
def compare(
    before: Annotated[
        str, typer.Argument(help="A run: its id, its beginning, or a tag.", show_default=False)
    ],
    after: Annotated[str, typer.Argument(help="The run to hold against it.", show_default=False)],
    device: Annotated[str | None, typer.Option("--device", help="This device alone.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="This metric alone; repeatable.")
    ] = None,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """What became better or worse from one run to another, row by row, and what cannot be compared."""
    from qpipe.cli import comparing

    comparing.compare(before, after, device, metric or [], db, as_json)


@app.command(rich_help_panel="Results")
def diagnose(
    recipe: RecipeFile,
    scheme: Annotated[
        str, typer.Option("--scheme", help="The scheme to look into.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Which model, where the recipe has several.")
    ] = None,
    build: Annotated[
        str | None, typer.Option("--build", help="Which build, where the recipe has several.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="This device; the recipe's first otherwise.")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="On so many evaluation samples.")
    ] = 16,
    settings: Settings = None,
    inventory: Inventory = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
    as_json: Json = False,
) -> None:
    """Where a scheme's accuracy went: rung by rung from float to the device, and layer by layer, with what to try."""
    from qpipe.cli import diagnosing, running

    asked = running.request(
        recipe, settings, [device] if device else None, [scheme], inventory, db, cache, smoke=False
    )
    diagnosing.diagnose(asked, scheme, model, build, device, count, as_json)


@app.command(rich_help_panel="Results")
def export(
    device: Annotated[
        str, typer.Option("--device", help="The device it was measured on.", show_default=False)
    ],
    scheme: Annotated[
        str, typer.Option("--scheme", help="The scheme to ship.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A new folder, or an earlier export's.", show_default=False
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Which model, where the run has several.")
    ] = None,
    build: Annotated[
        str | None, typer.Option("--build", help="Which build, where the run has several.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds something else.")
    ] = False,
    run: Run = None,
    db: Db = DB,
    cache: CacheFolder = CACHE,
) -> None:
    """Hand over a scheme's file with all that is needed to run it elsewhere."""
    from qpipe.cli import results

    results.export(device, scheme, out, model, build, run, db, cache, force)


@app.command(rich_help_panel="Results")
def show(
    step: Annotated[
        str | None, typer.Argument(help="A step; all of them otherwise.", show_default=False)
    ] = None,
    run: Run = None,
    log: Annotated[bool, typer.Option("--log", help="Print what the step wrote.")] = False,
    db: Db = DB,
    as_json: Json = False,
) -> None:
    """The steps of a run, or one of them with its log."""
    from qpipe.cli import history

    history.show(step, run, log, db, as_json)


@app.command(rich_help_panel="Parts")
def plugins(as_json: Json = False) -> None:
    """Every stage and kind of device there is, and plugins that did not load."""
    from qpipe.cli import lab

    lab.plugins(as_json)


@app.command(rich_help_panel="Parts")
def describe(
    kind: Annotated[str, typer.Argument(help="A kind of stage, or 'device'.", show_default=False)],
    name: Annotated[
        str | None, typer.Argument(help="The stage's name; all otherwise.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """What a stage does, needs and can be told."""
    from qpipe.cli import lab

    lab.describe(kind, name, as_json)


@app.command(rich_help_panel="Starting")
def schema(
    inventory: Annotated[
        bool, typer.Option("--inventory", help="Of devices.yaml instead.")
    ] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="A Python file with stages of your own; repeatable.")
    ] = None,
) -> None:
    """Print the JSON Schema of recipes, with the options of every installed stage, for editors."""
    from qpipe.cli import starting

    starting.schema(inventory, plugin or ())


app.add_typer(runs_app, name="runs", rich_help_panel="Results")
app.add_typer(db_app, name="db", rich_help_panel="Results")
app.add_typer(cache_app, name="cache", rich_help_panel="Parts")
app.add_typer(devices_app, name="devices", rich_help_panel="Parts")

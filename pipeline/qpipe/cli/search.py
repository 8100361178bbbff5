"""qpipe search."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

import qpipe
from qpipe.cli.durations import parse_duration
from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    DbOption,
    JsonOption,
    RecipeArgument,
    RecipeDevicesOption,
    RecipeInventoryOption,
    SettingsOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_text
from qpipe.errors import QpipeError, shown

SAMPLES = 64


def search(
    recipe: RecipeArgument,
    budget: Annotated[
        str,
        typer.Option(
            "--budget", metavar="TIME", help="How long to take, such as 15m, measuring included."
        ),
    ] = "15m",
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="How many schemes to try at most.")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="How many samples score a trial.")
    ] = SAMPLES,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The recipe with what was found, in the folder of RECIPE; by default "
            "RECIPE-search.yaml.",
        ),
    ] = None,
    settings: SettingsOption = None,
    device: RecipeDevicesOption = None,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Search for schemes that those of a recipe do not dominate.

    An optimizer varies chains, their options and the bits of layers. Trials run on this machine on
    few samples; the best are measured on the devices, beside the recipe's schemes. A search that
    was interrupted goes on.
    """
    from qpipe.cli.progress_display import open_display
    from qpipe.cli.run_summary import print_run_summary

    file = _out_file(recipe, out)
    budget_s = parse_duration("--budget", budget)
    try:
        with open_display() as display:
            loaded = qpipe.load(
                recipe, set=parse_settings(settings), inventory=inventory, db=db, cache=cache
            )
            result = loaded.search(
                out=file,
                budget_s=budget_s,
                trials=trials,
                samples=samples,
                devices=device or (),
                progress=display.event,
                notify=display.announce,
            )
    except KeyboardInterrupt:
        command = shlex.join(["qpipe", *sys.argv[1:]])
        message = f"interrupted; trials are kept, continue with: {command}"
        print(f"\nqpipe: {message}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    finished = result.run
    if as_json:
        print_json(result.to_dict())
    else:
        command = shlex.join(["qpipe", "run", shown(file)])
        print_run_summary(finished, finished.results, command, cache=cache)
        for discovery in result.discoveries:
            print_text(discovery.to_text())
        if not result.discoveries:
            print_text("nothing was found that is on the front")
        print_text(f"recipe: {shown(file)}")
    if finished.state != "done":
        sys.exit(1)


def _out_file(recipe: Path, out: Path | None) -> Path:
    """Return the recipe to write; raise QpipeError where its paths would mean something else."""
    file = out or recipe.with_name(f"{recipe.stem}-search.yaml")
    if file.resolve() == recipe.resolve():
        raise QpipeError(f"--out {shown(file)}: it is the recipe itself; give another name")
    if file.resolve().parent != recipe.resolve().parent:
        folder = shown(recipe.resolve().parent)
        raise QpipeError(
            f"--out {shown(file)}: paths in a recipe are relative to it; give a file in {folder}"
        )
    return file

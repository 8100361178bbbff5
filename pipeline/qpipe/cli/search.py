"""qpipe search."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

if TYPE_CHECKING:
    from qpipe.engine.request import Request
    from qpipe.engine.run import Finished
    from qpipe.search.discoveries import Discovery
    from qpipe.search.search import Budget

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
    from qpipe.engine.request import Request
    from qpipe.search.search import Budget

    request = Request(
        recipe=recipe,
        settings=parse_settings(settings),
        devices=device or (),
        inventory=inventory,
        db=db,
        cache=cache,
    )
    seconds = parse_duration("--budget", budget)
    file = _out_file(recipe, out)
    try:
        finished, discoveries = _search(request, file, Budget(seconds, trials), samples)
    except KeyboardInterrupt:
        command = shlex.join(["qpipe", *sys.argv[1:]])
        message = f"interrupted; trials are kept, continue with: {command}"
        print(f"\nqpipe: {message}", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    if as_json:
        print_json([vars(discovery) for discovery in discoveries])
    else:
        _print_results(request, finished, file, discoveries)
    if finished.state != "done":
        sys.exit(1)


def _out_file(recipe: Path, out: Path | None) -> Path:
    """Return the recipe to write; raise QpipeError where its paths would mean something else."""
    from qpipe.errors import QpipeError
    from qpipe.recipe.yaml_document import shown

    file = out or recipe.with_name(f"{recipe.stem}-search.yaml")
    if file.resolve() == recipe.resolve():
        raise QpipeError(f"--out {shown(file)}: it is the recipe itself; give another name")
    if file.resolve().parent != recipe.resolve().parent:
        folder = shown(recipe.resolve().parent)
        raise QpipeError(
            f"--out {shown(file)}: paths in a recipe are relative to it; give a file in {folder}"
        )
    return file


def _search(
    request: Request, out: Path, budget: Budget, samples: int
) -> tuple[Finished, list[Discovery]]:
    from qpipe.cli.progress_display import open_display
    from qpipe.search.discoveries import discoveries
    from qpipe.search.search import Search
    from qpipe.storage.trials import TrialStore

    with open_display() as display, TrialStore(request.db) as store:
        search = Search(
            request,
            store,
            out,
            budget,
            samples,
            listen=display.event,
            notify=display.announce,
        )
        finished = search.run()
        return finished, discoveries(store, finished.run, search.recipe.schemes)


def _print_results(
    request: Request, finished: Finished, out: Path, discoveries: list[Discovery]
) -> None:
    from dataclasses import replace

    from qpipe.cli.run_summary import print_run_summary
    from qpipe.recipe.yaml_document import shown
    from qpipe.storage.results import Store

    request = replace(request, recipe=out)
    command = shlex.join(["qpipe", "run", shown(out)])
    with Store(request.db) as store:
        print_run_summary(store, finished, request, command)
    for discovery in discoveries:
        print_text(discovery.to_text())
    if not discoveries:
        print_text("nothing was found that is on the front")
    print_text(f"recipe: {shown(out)}")

"""qpipe samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    CacheOption,
    DbOption,
    JsonOption,
    RecipeArgument,
    RecipeInventoryOption,
    SettingsOption,
)
from qpipe.cli.recipe_settings import parse_settings
from qpipe.cli.tables import print_json, print_table, print_text
from qpipe.samples.selection import TRIAL_COUNT

if TYPE_CHECKING:
    from qpipe.report.report_types import ModelReport


def samples(
    recipe: RecipeArgument,
    settings: SettingsOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write. By default .qpipe/samples/RECIPE."),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "--count",
            min=1,
            help="The number of samples of each part, calibration and evaluation. By default those "
            "that qpipe new scores.",
        ),
    ] = TRIAL_COUNT,
    inventory: RecipeInventoryOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
    as_json: JsonOption = False,
) -> None:
    """Write a page of what the network is fed: pictures, statistics, and what float predicts."""
    from qpipe.cli.model_samples import collect_samples
    from qpipe.cli.progress_display import open_display
    from qpipe.engine.request import HOME, Request, resolve_request
    from qpipe.engine.run import prepare_plan
    from qpipe.recipe.yaml_document import shown
    from qpipe.report.samples_report import PAGE, write_samples_report
    from qpipe.storage.results import Store

    request = Request(
        recipe=recipe,
        settings=parse_settings(settings),
        inventory=inventory,
        db=db,
        cache=cache,
    )
    with open_display() as display:
        resolved = resolve_request(request)
        with Store(db) as store:
            plan = prepare_plan(resolved, store, display.event, with_scoring=False)
        with resolved.cache.protect(plan.results):
            models = [collect_samples(resolved, plan, model, count) for model in plan.imported]
    name = resolved.recipe.name
    folder = out or HOME / "samples" / name
    report = write_samples_report(folder, name, models)
    if as_json:
        print_json({"folder": str(folder), **report})
        return
    for model in report["models"]:
        if len(report["models"]) > 1:
            print_text(f"\n{model['model']}")
        _print_model(model)
    print_text(f"\nlook at: {shown(folder / PAGE)}")


def _print_model(model: ModelReport) -> None:
    """Print the statistics of a model's inputs and the warnings."""
    from qpipe.report.samples_page import (
        NUMBER_COLUMNS,
        STATISTICS_COLUMNS,
        statistics_cells,
        summary_lines,
    )

    rows = [statistics_cells(row) for row in model["statistics"]]
    print_table(STATISTICS_COLUMNS, rows, right=NUMBER_COLUMNS)
    for line in summary_lines(model):
        print_text(line)
    for line in model["warnings"]:
        print_text(f"warning: {line}")

"""qpipe pareto."""

from __future__ import annotations

from typing import Annotated

import typer

from qpipe.cli.completions import complete_device
from qpipe.cli.parameters import (
    DEFAULT_DB,
    DbOption,
    JsonOption,
    KeepOption,
    KneeOption,
    MaxOption,
    MinOption,
    RunOption,
)
from qpipe.cli.recipe_settings import parse_keep
from qpipe.cli.results_database import find_run, open_results
from qpipe.cli.tables import print_json, print_text
from qpipe.errors import QpipeError


def pareto(
    run: RunOption = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Show only this device.", autocompletion=complete_device),
    ] = None,
    minima: MinOption = None,
    maxima: MaxOption = None,
    keep: KeepOption = None,
    knee: KneeOption = False,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Show the Pareto table of a run for each device, and what to ship."""
    from qpipe.cli.pareto_table import SMOKE_NOTE, print_pareto
    from qpipe.recipe.limits import read_limits
    from qpipe.report.run_document import run_document
    from qpipe.report.run_results import read_results

    limits = read_limits(minima or [], maxima or [])
    with open_results(db) as store:
        results = read_results(
            store, find_run(store, run)["id"], limits, parse_keep(keep), is_knee=knee
        )
        if device:
            results = results.on_device(device)
        problems = results.limit_problems() if limits else []
        if problems:
            raise QpipeError(*problems)
        if as_json:
            print_json(run_document(store, results))
            return
    print_pareto(results)
    if results.is_smoke:
        print_text(SMOKE_NOTE)
    run_row = results.run
    print_text(f"\nrun {run_row['id']} of {run_row['recipe']}: {run_row['state']}")

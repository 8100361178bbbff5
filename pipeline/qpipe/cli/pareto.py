"""qpipe pareto."""

from __future__ import annotations

from typing import Annotated

import typer

import qpipe
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
from qpipe.cli.recipe_settings import parse_keep, parse_limits
from qpipe.cli.results_tables import print_results
from qpipe.cli.tables import print_json, print_text


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
    limits = parse_limits(minima, maxima)
    found = qpipe.find_run(run, db=db)
    results = found.judged(limits=limits, keep=parse_keep(keep), knee=knee)
    if device:
        results = results.on_device(device)
    if limits:
        results.check_limits()
    if as_json:
        print_json(found.to_dict(results))
        return
    print_results(results)
    print_text(f"\nrun {found.id} of {found.recipe}: {found.state}")

"""qpipe export."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.completions import complete_device, complete_scheme
from qpipe.cli.parameters import (
    DEFAULT_CACHE,
    DEFAULT_DB,
    BuildOption,
    CacheOption,
    DbOption,
    ModelOption,
    RunOption,
)
from qpipe.cli.results_database import find_run, open_results
from qpipe.cli.tables import print_text


def export(
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="The device that the scheme was measured on.",
            show_default=False,
            autocompletion=complete_device,
        ),
    ],
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            help="The scheme to export.",
            show_default=False,
            autocompletion=complete_scheme,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A new folder, or the folder of an earlier export.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    build: BuildOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds other files.")
    ] = False,
    run: RunOption = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Write a scheme's file with everything needed to run it elsewhere."""
    from qpipe.export.from_run import Selection, hand_over
    from qpipe.storage.cache import Cache

    coordinates: Selection = {"device": device, "scheme": scheme, "model": model, "build": build}
    with open_results(db) as store, ExitStack() as protection:
        run_id = find_run(store, run)["id"]
        results = Cache(cache)
        if cache.is_dir():
            rows = store.steps(run_id)
            keys = [(row["kind"], row["key"]) for row in rows if row["kind"] and row["key"]]
            protection.enter_context(results.protect(keys))
        manifest = hand_over(store, run_id, coordinates, results, out, force=force)
    names = sorted(file.name for file in out.iterdir())
    program = f"python {shlex.quote(str(out))}/example.py"
    print_text(f"{out}: {', '.join(names)}; try it with: {program}")
    preprocessing = manifest["preprocessing"]
    reason = preprocessing["decode"].get("reason")
    if reason:
        print_text(f"files cannot be fed as samples {preprocessing['stage']['name']} did: {reason}")
    else:
        print_text(f"feed it files of yours with: {program} FILE ...")

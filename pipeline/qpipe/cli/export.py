"""qpipe export."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

import qpipe
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
    manifest = qpipe.find_run(run, db=db).export(
        out, device=device, scheme=scheme, model=model, build=build, force=force, cache=cache
    )
    names = sorted(file.name for file in out.iterdir())
    program = f"python {shlex.quote(str(out))}/example.py"
    print_text(f"{out}: {', '.join(names)}; try it with: {program}")
    preprocessing = manifest["preprocessing"]
    reason = preprocessing["decode"].get("reason")
    if reason:
        print_text(f"files cannot be fed as samples {preprocessing['stage']['name']} did: {reason}")
    else:
        print_text(f"feed it files of yours with: {program} FILE ...")

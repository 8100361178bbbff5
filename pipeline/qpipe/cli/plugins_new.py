"""qpipe plugins new."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.tables import print_text


def plugins_new(
    name: Annotated[
        str, typer.Argument(help="The name of the stage or device driver.", show_default=False)
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="What it is: quantize, transform, metric, samples, compile, device, measure, "
            "postprocess or import.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write the distribution's folder in.")
    ] = Path(),
) -> None:
    """Write a plugin that installs, works and passes its tests, to be made one's own."""
    from qpipe.start.new_plugin import write_new_plugin

    target = write_new_plugin(name, kind, out)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    for file in files:
        print_text(str(file))
    place = shlex.quote(str(target))
    print_text(f"\nnext: pip install -e {place} pytest   then: pytest {place}")

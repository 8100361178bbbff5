"""qpipe report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import qpipe
from qpipe.cli.completions import complete_run
from qpipe.cli.parameters import DEFAULT_CACHE, DEFAULT_DB, CacheOption, DbOption
from qpipe.cli.tables import print_text
from qpipe.errors import QpipeError, shown

PICTURES = "A folder for the charts as {}, in place of the page."


def report(
    run: Annotated[
        str | None,
        typer.Argument(
            help="The run: its id, the beginning of its id, or a tag. By default the newest run.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file to write. By default reports/RUN.html beside the database.",
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare", metavar="RUN RUN", help="Write a page on a run and a later one instead."
        ),
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", help=PICTURES.format("PNG"))] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help=PICTURES.format("SVG"))] = None,
    pdf: Annotated[Path | None, typer.Option("--pdf", help=PICTURES.format("PDF"))] = None,
    latex: Annotated[
        Path | None,
        typer.Option("--latex", help="A file for the tables in LaTeX, in place of the page."),
    ] = None,
    db: DbOption = DEFAULT_DB,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Write a page on a run: what to ship, the evidence, and where it comes from."""
    pictures: dict[Literal["png", "svg", "pdf"], Path | None]
    pictures = {"png": png, "svg": svg, "pdf": pdf}
    has_exports = latex is not None or any(pictures.values())
    if compare and (run or has_exports):
        raise QpipeError("--compare: it writes a page on two runs alone; leave the rest out")
    if compare:
        before, after = (qpipe.find_run(name, db=db) for name in compare)
        print_text(f"look at: {shown(after.compare(before).report(out))}")
        return
    found = qpipe.find_run(run, db=db)
    for picture_format, folder in pictures.items():
        if folder is not None:
            for file in found.charts(folder, picture_format):
                print_text(shown(file))
    if latex is not None:
        print_text(shown(found.latex(latex)))
    if out or not has_exports:
        print_text(f"look at: {shown(found.report(out, cache=cache))}")

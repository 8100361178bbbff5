"""qpipe report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.completions import complete_run
from qpipe.cli.parameters import DEFAULT_CACHE, DEFAULT_DB, CacheOption, DbOption
from qpipe.cli.results_database import find_run, open_results
from qpipe.cli.tables import print_text
from qpipe.errors import QpipeError

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
    from qpipe.cli.report_file import Exports, report_file, write_comparison, write_report
    from qpipe.recipe.yaml_document import shown

    exports = Exports(png=png, svg=svg, pdf=pdf, latex=latex)
    if compare and (run or exports.are_wanted):
        raise QpipeError("--compare: it writes a page on two runs alone; leave the rest out")
    with open_results(db) as store:
        if compare:
            before, after = (find_run(store, name) for name in compare)
            page = out or report_file(db, f"{before['id']}-{after['id']}")
            write_comparison(store, before, after, page)
            print_text(f"look at: {shown(page)}")
            return
        run_id = find_run(store, run)["id"]
        for file in exports.write(store, run_id):
            print_text(shown(file))
        if out or not exports.are_wanted:
            page = out or report_file(db, run_id)
            write_report(store, run_id, page, cache=cache)
            print_text(f"look at: {shown(page)}")

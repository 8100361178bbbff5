"""The results of a run as tables: one for each model and device, with what to ship."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpipe.cli.tables import print_text, print_titled_table

if TYPE_CHECKING:
    from qpipe import Results


def print_results(results: Results) -> None:
    """Print a table for each model and device, each with its recommendation."""
    if not results:
        print_text("nothing was measured")
    for table in results.tables:
        print_text()
        print_titled_table(table)
    for line in results.notes:
        print_text(line)

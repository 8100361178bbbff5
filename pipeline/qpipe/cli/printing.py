"""Tables and JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qpipe.errors import printable

PIPE_WIDTH = 200  # of what is no terminal


def print_json(value: Any) -> None:
    """Indented JSON."""
    print(json.dumps(value, indent=2, default=str))  # noqa: T201


def print_text(text: str = "") -> None:
    """Lines as they are, but for what a terminal obeys: a board or another's database may have said it."""
    print("\n".join(map(printable, text.split("\n"))))  # noqa: T201


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = (), least: int | None = None
) -> Sequence[str]:
    """A plain table; columns named in `right` hold numbers.

    Where the terminal is too narrow, cells are folded; with `least`, columns beyond so many go first, from the end.
    Gives the columns that went.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    console = Console(width=None if Console().is_terminal else PIPE_WIDTH)
    kept = len(columns) if least is None else _fitting([columns, *cells], console.width, least)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns[:kept]:
        table.add_column(column, justify="right" if column in set(right) else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row[:kept]))
    console.print(table, highlight=False)
    return columns[kept:]


def _fitting(lines: Sequence[Sequence[str]], width: int, least: int) -> int:
    """How many columns fit side by side, but no fewer than `least`."""
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    count = len(widths)
    while count > least and sum(widths[:count]) + 2 * (count - 1) > width:
        count -= 1
    return count

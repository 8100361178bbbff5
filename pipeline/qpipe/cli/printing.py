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
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Iterable[str] = (),
    spare: Sequence[str] = (),
) -> Sequence[str]:
    """A plain table; columns named in `right` hold numbers.

    Where the terminal is too narrow, columns that are `spare` go, the first of them last; then cells are folded. Gives
    the columns that went.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    console = Console(width=None if Console().is_terminal else PIPE_WIDTH)
    gone = _gone([columns, *cells], console.width, [columns.index(name) for name in spare])
    kept = [number for number in range(len(columns)) if number not in gone]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (columns[number] for number in kept):
        table.add_column(
            column, justify="right" if column in set(right) else "left", overflow="fold"
        )
    for row in cells:
        table.add_row(*(Text(row[number]) for number in kept))
    console.print(table, highlight=False)
    return [columns[number] for number in sorted(gone)]


def _gone(lines: Sequence[Sequence[str]], width: int, spare: Sequence[int]) -> set[int]:
    """The spare columns that must go for the others to fit side by side."""
    widths = [max(map(cell_len, column)) + 2 for column in zip(*lines, strict=True)]
    left = width + 2 - sum(each for number, each in enumerate(widths) if number not in spare)
    gone = set[int]()
    for number in spare:
        if widths[number] <= left:
            left -= widths[number]
        else:
            gone.add(number)
    return gone

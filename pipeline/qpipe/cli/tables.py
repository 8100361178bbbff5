"""Tables, lines and JSON on standard output. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qpipe.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

WIDTH_OF_PIPE = 200  # columns, where the output is not a terminal
COLUMN_GAP = 2  # between two columns of a table


def print_json(value: Any) -> None:
    """Print indented JSON."""
    import json

    print(json.dumps(value, indent=2, default=str))  # noqa: T201


def print_text(text: str = "") -> None:
    """Print lines without control characters: a board or a foreign database may have sent them."""
    lines = [printable(line) for line in text.split("\n")]
    print("\n".join(lines))  # noqa: T201


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    optional: Sequence[str] = (),
) -> list[str]:
    """Print a plain table; the columns named in `right` are right-aligned.

    Where the terminal is too narrow, columns named in `optional` are left out, the first of them
    last; then cells are folded. Return the columns that were left out.
    """
    from rich.console import Console
    from rich.text import Text

    cells = [[_cell_text(cell) for cell in row] for row in rows]
    width = None if Console().is_terminal else WIDTH_OF_PIPE
    console = Console(width=width)
    omitted = _columns_to_omit(
        [columns, *cells],
        width=console.width,
        optional=[columns.index(name) for name in optional],
    )
    shown = [number for number in range(len(columns)) if number not in omitted]
    table = _empty_table([columns[number] for number in shown], set(right))
    for row in cells:
        table.add_row(*(Text(row[number]) for number in shown))
    console.print(table, highlight=False)
    return [columns[number] for number in sorted(omitted)]


def _empty_table(columns: Sequence[str], right: set[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _cell_text(cell: object) -> str:
    return "" if cell is None else printable(str(cell))


def _columns_to_omit(
    lines: Sequence[Sequence[str]], *, width: int, optional: Sequence[int]
) -> set[int]:
    """Return the optional columns to leave out so that the others fit side by side."""
    from rich.cells import cell_len

    widths = [
        max(cell_len(cell) for cell in column) + COLUMN_GAP for column in zip(*lines, strict=True)
    ]
    required_width = sum(
        column_width for number, column_width in enumerate(widths) if number not in optional
    )
    free_width = width + COLUMN_GAP - required_width
    omitted = set[int]()
    for number in optional:
        if widths[number] <= free_width:
            free_width -= widths[number]
        else:
            omitted.add(number)
    return omitted

"""Tables, lines and JSON on standard output. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qpipe.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from qpipe import TextTable

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

    right = set(right)
    cells = [[_cell_text(cell) for cell in row] for row in rows]
    width = None if Console().is_terminal else WIDTH_OF_PIPE
    console = Console(width=width)
    omitted = _columns_to_omit(
        [columns, *cells],
        width=console.width,
        optional=[columns.index(name) for name in optional],
    )
    shown = [number for number in range(len(columns)) if number not in omitted]
    lines = [[row[number] for number in shown] for row in (columns, *cells)]
    widths = _widths(lines)
    if sum(widths) + COLUMN_GAP * (len(widths) - 1) <= console.width:
        header, *texts = _laid_out(lines, widths, [columns[number] in right for number in shown])
        console.print(Text(header, style="bold"), soft_wrap=True)
        for text in texts:
            print(text)  # noqa: T201
    else:
        table = _empty_table(lines[0], right)
        for line in lines[1:]:
            table.add_row(*map(Text, line))
        with console.capture() as capture:
            console.print(table, highlight=False)
        lines_of_table = "\n".join(line.rstrip() for line in capture.get().splitlines())
        print(lines_of_table)  # noqa: T201
    return [columns[number] for number in sorted(omitted)]


def print_titled_table(table: TextTable) -> None:
    """Print a table with its title and its lines; without rows, the lines alone."""
    if table.title:
        print_text(table.title)
    if table.rows:
        omitted = print_table(table.columns, table.rows, right=table.right, optional=table.optional)
        if omitted:
            names = ", ".join(omitted)
            print_text(f"(too narrow for {names}: widen the terminal, or use --json)")
    for line in table.lines:
        print_text(line)


def _empty_table(columns: Sequence[str], right: set[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column, in columns of the terminal."""
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*lines, strict=True)]


def _laid_out(
    lines: Sequence[Sequence[str]], widths: Sequence[int], is_right: Sequence[bool]
) -> list[str]:
    """Return lines whose cells need not be folded; rich takes a millisecond for each."""
    from rich.cells import cell_len

    texts = []
    for line in lines:
        cells = []
        for cell, width, right in zip(line, widths, is_right, strict=True):
            spaces = " " * (width - cell_len(cell))
            cells.append(spaces + cell if right else cell + spaces)
        texts.append((" " * COLUMN_GAP).join(cells).rstrip())
    return texts


def _cell_text(cell: object) -> str:
    return "" if cell is None else printable(str(cell))


def _columns_to_omit(
    lines: Sequence[Sequence[str]], *, width: int, optional: Sequence[int]
) -> set[int]:
    """Return the optional columns to leave out so that the others fit side by side."""
    widths = [width + COLUMN_GAP for width in _widths(lines)]
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

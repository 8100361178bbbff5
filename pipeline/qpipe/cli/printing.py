"""Tables and JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(value: Any) -> None:
    """Indented JSON."""
    print(json.dumps(value, indent=2, default=str))  # noqa: T201


def print_text(text: str = "") -> None:
    """A line as it is."""
    print(text)  # noqa: T201


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> None:
    """A plain table; columns named in `right` hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in set(right) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table, highlight=False)

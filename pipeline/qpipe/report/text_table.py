"""A table of text, as terminals and notebooks show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """Rows of text under headings, with a title above and lines below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()  # the columns of numbers
    optional: Sequence[str] = ()  # what may be left out where there is no room, the first last
    lines: Sequence[str] = ()

    def _repr_html_(self) -> str:
        from html import escape

        rows = [_html_row("th", self.columns), *(_html_row("td", row) for row in self.rows)]
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.lines if line)
        return f"<p>{escape(self.title)}</p><table>{''.join(rows)}</table>{lines}"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    from html import escape

    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

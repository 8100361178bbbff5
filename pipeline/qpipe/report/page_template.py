"""What all pages share: one document with one style sheet, escaped text, and tables."""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from qpipe.errors import printable

STYLE_SHEET = Path(__file__).with_name("page_style.css")


def document(title: str, body: str, *, policy: str = "", scripts: str = "") -> str:
    """Return a page of HTML; `body` and `scripts` are HTML.

    `policy` is what the page may load, as a content security policy; empty for no restriction.
    """
    restriction = ""
    if policy:
        restriction = f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"{restriction}<title>{escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<style>\n{_style_sheet()}</style></head><body>\n{body}\n{scripts}</body></html>\n"
    )


@functools.cache
def _style_sheet() -> str:
    return STYLE_SHEET.read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Return text as HTML, for elements and attributes; control characters become visible."""
    lines = str(text).split("\n")
    return "\n".join(html.escape(printable(line)) for line in lines)


def paragraphs(lines: Iterable[str], *, style: str = "") -> str:
    """Return a paragraph for each line."""
    attribute = f' class="{style}"' if style else ""
    return "\n".join(f"<p{attribute}>{escape(line)}</p>" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    """Return a list of lines; nothing where there are none."""
    if not lines:
        return ""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>\n{items}\n</ul>"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names with their values, side by side."""
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<dl class="facts">\n{items}\n</dl>'


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = ()
) -> str:
    """Return a table of text; the columns in `numbers` are aligned right."""
    styles = [' class="number"' if column in numbers else "" for column in columns]
    head = _cells("th", columns, styles)
    lines = [f"<tr>{_cells('td', row, styles)}</tr>" for row in rows]
    return grid(f"<tr>{head}</tr>", lines)


def sortable_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = ()
) -> str:
    """Return a table of text whose rows a click on a heading sorts."""
    styles = [' class="number"' if column in numbers else "" for column in columns]
    head = "".join(
        sortable_heading(column, "number" if column in numbers else "") for column in columns
    )
    return grid(f"<tr>{head}</tr>", [f"<tr>{_cells('td', row, styles)}</tr>" for row in rows])


def sortable_heading(title: str, style: str) -> str:
    """Return the heading of a column; `style` is number for a column of numbers."""
    button = f'<button type="button">{escape(title)}</button>'
    return f'<th class="{style}" data-sortable>{button}</th>'


def grid(head: str, rows: Iterable[str], *, style: str = "") -> str:
    """Return a table, of rows that are HTML, which scrolls where it is too wide."""
    attribute = f' class="{style}"' if style else ""
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table{attribute}><thead>{head}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cells(tag: str, texts: Iterable[object], styles: Sequence[str]) -> str:
    cells = zip(texts, styles, strict=True)
    return "".join(f"<{tag}{style}>{escape(text)}</{tag}>" for text, style in cells)


def embedded_json(element_id: str, value: object) -> str:
    """Return an element that holds JSON: no text in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{element_id}">{text}</script>\n'

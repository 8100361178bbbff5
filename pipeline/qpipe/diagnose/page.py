"""The report of a diagnosis as one HTML file without external resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from qpipe.compare.formatting import EXACT_DB

STYLE = """
body {
  font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
}
table { border-collapse: collapse; font-size: 14px; }
tr:nth-child(even) { background: #8881; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
""".strip()

HOW_TO_READ = (
    "The ladder scores the network on its way from float to the device, each rung against the "
    "original float network: where numbers fall, accuracy is lost. For each layer, worst first, "
    "the table has the signal to noise ratio of the network's outputs in dB (20 dB: the noise is a "
    "hundredth of the power) with only this layer rounded, with all others rounded, and with only "
    "its weights or only what it reads."
)
LAYER_COLUMNS = (
    "layer",
    "operator",
    "bits",
    "only it",
    "all but it",
    "weights",
    "activations",
    "try",
)
LAYER_NUMBERS = ("bits", "only it", "all but it", "weights", "activations")

Report = Mapping[str, Any]  # a diagnosis as JSON


def page(report: Report) -> str:
    """Return the HTML of a diagnosis."""
    title = escape(f"{report['scheme']} of {report['model']} on {report['device']}")
    recipe = escape(report["recipe"])
    layer_rows = [layer_cells(layer) for layer in report["layers"]]
    lines = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}: diagnosis</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
        f"<h1>{title}</h1>",
        f"<p>Recipe {recipe}, {report['samples']} evaluation samples.</p>",
        f"<p>{escape(HOW_TO_READ)}</p>",
        "<h2>The ladder</h2>",
        _ladder_table(report),
        f"<p>{escape(outputs_line(report))}</p>",
        "<h2>Layers</h2>",
        _table(LAYER_COLUMNS, layer_rows, LAYER_NUMBERS),
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def layer_cells(layer: Report) -> list[str]:
    """Return a layer as text, in the order of LAYER_COLUMNS."""
    levels = [decibels(layer[name]) for name in ("only", "without", "weights", "activations")]
    bits = str(layer["bits"] or "-")
    return [layer["layer"], layer["operator"], bits, *levels, layer["remedy"]]


def ladder_cells(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the metrics that any rung has, and each rung as text.

    A rung has its name, these metrics, the number of samples and its note.
    """
    rungs = report["ladder"]
    metrics = list(dict.fromkeys(metric for rung in rungs for metric in rung["metrics"]))
    rows: list[list[str]] = []
    for rung in rungs:
        values = [_metric_value(name, rung["metrics"].get(name)) for name in metrics]
        rows.append([rung["name"], *values, str(rung["samples"]), rung["note"]])
    return metrics, rows


def outputs_line(report: Report) -> str:
    """Return what weights and activations each cost, in words."""
    sqnr = report["sqnr_db"]
    return (
        f"SQNR of the outputs with rounded weights alone {decibels(sqnr['weights'])} dB, with "
        f"rounded activations alone {decibels(sqnr['activations'])} dB, with both "
        f"{decibels(sqnr['both'])} dB"
    )


def decibels(value: float | None) -> str:
    """Return dB with one decimal; a word where nothing is lost, a dash where there is no value."""
    if value is None:
        return "-"
    return "exact" if value >= EXACT_DB else f"{value:.1f}"


def _metric_value(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return decibels(value) if metric.endswith("_db") else f"{value:.4g}"


def _ladder_table(report: Report) -> str:
    metrics, rows = ladder_cells(report)
    return _table(["rung", *metrics, "samples", ""], rows, [*metrics, "samples"])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str]) -> str:
    """Return an HTML table; the columns in `numbers` are aligned right."""
    styles = [' class="number"' if column in numbers else "" for column in columns]
    lines = [f"<table><tr>{_cells('th', columns, styles)}</tr>"]
    lines += [f"<tr>{_cells('td', row, styles)}</tr>" for row in rows]
    lines.append("</table>")
    return "\n".join(lines)


def _cells(tag: str, texts: Sequence[str], styles: Sequence[str]) -> str:
    cells = zip(texts, styles, strict=True)
    return "".join(f"<{tag}{style}>{escape(text)}</{tag}>" for text, style in cells)

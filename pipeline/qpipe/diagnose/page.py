"""The report of a diagnosis as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from qpipe.compare.formatting import EXACT_DB

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 14px; } tr:nth-child(even) { background: #8881; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.warning { background: #fff2d8; color: #4a3000; padding: .4rem .8rem; border-left: 4px solid #e08a00; }
""".strip()

HOW_TO_READ = (
    "The ladder scores the network on its way from float to the device, each rung against the original float network: "
    "where numbers fall, there accuracy went. Of each layer, worst first, the table has the signal to noise ratio of "
    "the network's outputs in dB (20 dB: noise is a hundredth of the power) with only this layer rounded, with all but "
    "it, and with only its weights or only what it reads."
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

Row = Mapping[str, Any]


def page(report: Row) -> str:
    """HTML of a diagnosis, as its JSON holds it."""
    title = escape(f"{report['scheme']} of {report['model']} on {report['device']}")
    saturating = "".join(
        f'<p class="warning">{escape(line)}</p>\n' for line in saturation_lines(report)
    )
    told = escape(outputs_line(report))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}: diagnosis</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
        f"<h1>{title}</h1>\n<p>Recipe {escape(report['recipe'])}, {report['samples']} evaluation samples.</p>\n"
        f"<p>{escape(HOW_TO_READ)}</p>\n{saturating}<h2>The ladder</h2>\n{_ladder(report)}\n<p>{told}</p>\n"
        f"<h2>Layers</h2>\n{_table(LAYER_COLUMNS, map(layer_cells, report['layers']), LAYER_NUMBERS)}\n</body></html>\n"
    )


def layer_cells(layer: Row) -> list[str]:
    """A layer as text, in the order of LAYER_COLUMNS."""
    levels = [decibels(layer[name]) for name in ("only", "without", "weights", "activations")]
    return [layer["layer"], layer["operator"], str(layer["bits"] or "-"), *levels, layer["remedy"]]


def ladder_cells(report: Row) -> tuple[list[str], list[list[str]]]:
    """The metrics that any rung has, and each rung as text: its name, these metrics, how many samples, its note."""
    metrics = list(dict.fromkeys(metric for rung in report["ladder"] for metric in rung["metrics"]))
    return metrics, [
        [
            rung["name"],
            *(_number(name, rung["metrics"].get(name)) for name in metrics),
            str(rung["samples"]),
            rung["note"],
        ]
        for rung in report["ladder"]
    ]


def outputs_line(report: Row) -> str:
    """What weights and activations each cost."""
    parts = report["sqnr_db"]
    return (
        f"SQNR of the outputs with rounded weights alone {decibels(parts['weights'])} dB, with rounded activations "
        f"alone {decibels(parts['activations'])} dB, with both {decibels(parts['both'])} dB"
    )


def saturation_lines(report: Row) -> list[str]:
    """One line where sums saturate on the device, which no rung before it shows; none elsewhere."""
    shares: Mapping[str, float] = report["saturating"]
    if not shares:
        return []
    layer, share = next(iter(shares.items()))
    return [
        f"{report['device']} has no VNNI: sums of two products saturate in {len(shares)} layers, most in '{layer}' "
        f"({100 * share:.2g} % of its sums); quantize with bits: 7, or compile with "
        f"session: {{session.x64quantprecision: 1}}, which is slower"
    ]


def decibels(value: float | None) -> str:
    """One decimal; a word where nothing is lost, a dash where there is nothing to tell."""
    if value is None:
        return "-"
    return "exact" if value >= EXACT_DB else f"{value:.1f}"


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return decibels(value) if metric.endswith("_db") else f"{value:.4g}"


def _ladder(report: Row) -> str:
    metrics, rows = ladder_cells(report)
    return _table(["rung", *metrics, "samples", ""], rows, [*metrics, "samples"])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str]) -> str:
    styles = [' class="number"' if column in numbers else "" for column in columns]
    head = "".join(
        f"<th{style}>{escape(column)}</th>" for style, column in zip(styles, columns, strict=True)
    )
    lines = (
        "".join(f"<td{style}>{escape(cell)}</td>" for style, cell in zip(styles, row, strict=True))
        for row in rows
    )
    return (
        f"<table><tr>{head}</tr>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"
    )

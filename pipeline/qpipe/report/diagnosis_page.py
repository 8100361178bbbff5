"""A diagnosis as a page, and as a part of the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qpipe.compare.formatting import EXACT_DB
from qpipe.report.page_template import document, escape, paragraphs, table

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
    title = diagnosis_title(report)
    lead = f"Recipe {report['recipe']}, {report['samples']} evaluation samples."
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="lead">{escape(lead)}</p>',
            paragraphs([HOW_TO_READ]),
            "<h2>The ladder</h2>",
            ladder_table(report),
            paragraphs([outputs_line(report)]),
            "<h2>Layers</h2>",
            table(LAYER_COLUMNS, [layer_cells(layer) for layer in report["layers"]], LAYER_NUMBERS),
        ]
    )
    return document(f"{title}: diagnosis", body)


def diagnosis_title(report: Report) -> str:
    """Return what was diagnosed."""
    return f"{report['scheme']} of {report['model']} on {report['device']}"


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


def ladder_table(report: Report) -> str:
    """Return a table of the rungs, from the original network to the device."""
    metrics, rows = ladder_cells(report)
    return table(["rung", *metrics, "samples", ""], rows, [*metrics, "samples"])

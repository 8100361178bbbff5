"""A metric of every scheme side by side, with intervals: time against float, memory, energy."""

from __future__ import annotations

from qpipe.compare.formatting import RATIO
from qpipe.report import chart_style as style
from qpipe.report.chart_rows import PlaceData
from qpipe.report.chart_style import Spec


def metric_chart(place: PlaceData, metric: str) -> Spec:
    """Return the specification: a mark with its interval for each scheme, in the table's order."""
    title = place.titles[place.keys[metric]]
    rows = _metric_rows(place, metric)
    layers = [_intervals(title), _marks(title)]
    if metric == RATIO:
        layers.insert(0, style.line_at_one(title))
    parts = {
        "height": style.ROW_HEIGHT * len(rows),
        "data": {"values": rows},
        "encoding": {"y": style.schemes([row["name"] for row in rows])},
        "layer": layers,
    }
    return style.chart(parts, title=f"{place.title}: {title}", subtitle="with 95 % intervals")


def _metric_rows(place: PlaceData, metric: str) -> list[Spec]:
    key = place.keys[metric]
    rows = []
    for row in place.chart_rows():
        if key in row["value"]:
            value = row["value"][key]
            rows.append(
                {
                    "name": row["name"],
                    "state": row["state"],
                    "value": value,
                    "low": row["low"].get(key, value),
                    "high": row["high"].get(key, value),
                    "text": row["text"][key],
                }
            )
    return rows


def _intervals(title: str) -> Spec:
    return {
        "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.35},
        "encoding": {
            "x": style.quantity("low", title),
            "x2": {"field": "high"},
            "color": style.colour_by_state(),
        },
    }


def _marks(title: str) -> Spec:
    return {
        "mark": {"type": "point", "filled": True, "opacity": 1, "size": 70},
        "encoding": {
            "x": style.quantity("value", title),
            "color": style.colour_by_state(),
            "shape": style.shape_by_state(),
            "tooltip": [
                {"field": "name", "type": "nominal", "title": "scheme"},
                {"field": "text", "type": "nominal", "title": title},
            ],
        },
    }

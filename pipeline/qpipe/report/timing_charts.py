"""Raw times as charts: how they are distributed, and how they went from round to round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from qpipe.report import chart_style as style
from qpipe.report.chart_rows import PlaceData
from qpipe.report.chart_style import Spec, State
from qpipe.types import Measurement

COURSE_HEIGHT = 280
# of the values of a scheme, in percent: the ends of the line and of the bar, the median, the tail
PERCENTILES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "p99": 99}


class _Timed(TypedDict):
    """The raw times of a row, of rounds that count."""

    name: str
    state: State
    measurement: Measurement


def has_times(place: PlaceData, metric: str) -> bool:
    """Return whether raw values of a metric were kept."""
    return bool(_timed_rows(place, metric))


def distribution_chart(place: PlaceData, metric: str) -> Spec:
    """Return the specification of how the values of each scheme are distributed."""
    title = place.titles[place.keys[metric]]
    rows = [_percentiles(timed) for timed in _timed_rows(place, metric)]
    tooltip = [
        {"field": name, "type": "quantitative" if name in PERCENTILES else "nominal"}
        for name in ("name", *PERCENTILES, "values")
    ]
    line = _span("p5", "p95", title, {"type": "rule", "strokeWidth": 1.5})
    bar = _span("p25", "p75", title, {"type": "bar", "height": 8, "opacity": 0.5})
    parts = {
        "height": style.ROW_HEIGHT * len(rows),
        "data": {"values": rows},
        "encoding": {
            "y": style.schemes([row["name"] for row in rows]),
            "color": style.colour_by_state(),
            "tooltip": tooltip,
        },
        "layer": [
            line,
            bar,
            _point("median", title, {"type": "tick", "thickness": 2.5, "height": 16}),
            _point("p99", title, {"type": "point", "filled": True, "size": 16}),
        ],
    }
    return style.chart(
        parts,
        title=f"{place.title}: how {title} is distributed",
        subtitle="line: 5 to 95 % of the values; bar: the middle half; tick: median; dot: 99 %",
    )


def course_chart(place: PlaceData, metric: str) -> Spec:
    """Return the specification of the median of each round, in the order of the rounds."""
    title = place.titles[place.keys[metric]]
    values = [row for timed in _timed_rows(place, metric) for row in _rounds(timed)]
    encoding = {
        "x": {
            "field": "round",
            "type": "quantitative",
            "axis": {"title": "round", "tickMinStep": 1, "grid": False, "format": "d"},
            "scale": {"nice": False, "padding": 10},
        },
        "y": style.quantity("change", "% from the scheme's own median"),
        "detail": {"field": "name", "type": "nominal"},
        "color": style.colour_by_state(),
    }
    tooltip = [
        {"field": "name", "type": "nominal", "title": "scheme"},
        {"field": "round", "type": "quantitative"},
        {"field": "median", "type": "quantitative", "title": title, "format": style.NUMBER},
        {"field": "note", "type": "nominal"},
    ]
    parts = {
        "height": COURSE_HEIGHT,
        "data": {"values": values},
        "encoding": encoding,
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.25, "opacity": 0.8}},
            {
                "mark": {"type": "point", "size": 26, "filled": False, "opacity": 1},
                "encoding": {
                    "tooltip": tooltip,
                    "fill": {
                        "condition": {"test": "datum.note != ''", "value": style.PAPER},
                        **style.colour_by_state(),
                    },
                },
            },
        ],
    }
    return style.chart(
        parts,
        title=f"{place.title}: {title} from round to round",
        subtitle="median of each round against that of all; hollow: does not count",
    )


def _timed_rows(place: PlaceData, metric: str) -> list[_Timed]:
    rows: list[_Timed] = []
    for judged in place.judged:
        measurement = judged.candidate.metrics.get(metric)
        if measurement is not None and measurement.raw == "rounds" and measurement.rounds:
            state = place.state(judged.row)
            rows.append({"name": judged.row["name"], "state": state, "measurement": measurement})
    return rows


def _notes(measurement: Measurement) -> list[str]:
    """Return for each round why it does not count; empty where it does."""
    notes = [str(condition.get("invalid") or "") for condition in measurement.conditions]
    return notes + [""] * (len(measurement.rounds) - len(notes))


def _percentiles(timed: _Timed) -> Spec:
    """Return percentiles of the values of rounds that count; of all, where none does."""
    measurement = timed["measurement"]
    counted: Sequence[Sequence[float]] = [
        values
        for values, note in zip(measurement.rounds, _notes(measurement), strict=True)
        if not note
    ]
    values = np.concatenate([np.asarray(values) for values in counted or measurement.rounds])
    shares = np.percentile(values, list(PERCENTILES.values()))
    numbers = dict(zip(PERCENTILES, (float(share) for share in shares), strict=True))
    return {"name": timed["name"], "state": timed["state"], **numbers, "values": str(values.size)}


def _rounds(timed: _Timed) -> list[Spec]:
    measurement = timed["measurement"]
    medians = [float(np.median(values)) for values in measurement.rounds if len(values)]
    notes = [
        note
        for values, note in zip(measurement.rounds, _notes(measurement), strict=True)
        if len(values)
    ]
    middle = float(np.median(medians))
    return [
        {
            "name": timed["name"],
            "state": timed["state"],
            "round": number,
            "median": median,
            "change": 100 * (median / middle - 1) if middle else 0.0,
            "note": note,
        }
        for number, (median, note) in enumerate(zip(medians, notes, strict=True), start=1)
    ]


def _span(start: str, end: str, title: str, mark: Spec) -> Spec:
    encoding = {"x": style.quantity(start, title), "x2": {"field": end}}
    return {"mark": mark, "encoding": encoding}


def _point(field: str, title: str, mark: Spec) -> Spec:
    return {"mark": mark, "encoding": {"x": style.quantity(field, title)}}

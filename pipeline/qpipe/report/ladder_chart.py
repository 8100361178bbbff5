"""The ladder as charts: scores of each scheme from the original network to a device."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.compare.formatting import EXACT_DB
from qpipe.report import chart_style as style
from qpipe.report.chart_style import Spec
from qpipe.report.diagnosis_page import Report

HEIGHT = 240
# of Okabe and Ito (2008), told apart by shapes, too
SCHEME_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def ladder_charts(reports: Sequence[Report]) -> dict[str, Spec]:
    """Return a chart for each metric that any rung was scored by."""
    rungs = [rung for report in reports for rung in report["ladder"]]
    metrics = dict.fromkeys(metric for rung in rungs for metric in rung["metrics"])
    return {metric: _ladder_chart(reports, metric) for metric in metrics}


def _ladder_chart(reports: Sequence[Report], metric: str) -> Spec:
    values = [score for report in reports for score in _scores(report, metric)]
    order = list(dict.fromkeys(rung["name"] for report in reports for rung in report["ladder"]))
    scheme: Spec = {
        "field": "scheme",
        "type": "nominal",
        "scale": {"range": list(SCHEME_COLOURS)},
        "legend": {"title": None, "orient": "top"},
    }
    axis = {"title": None, "labelAngle": 0, "grid": False}
    parts = {
        "height": HEIGHT,
        "data": {"values": values},
        "encoding": {
            "x": {"field": "rung", "type": "ordinal", "sort": order, "axis": axis},
            "y": style.quantity("value", metric),
            "color": scheme,
            "tooltip": [{"field": name, "type": "nominal"} for name in ("scheme", "rung", "value")],
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5}},
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {"shape": {"field": "scheme", "type": "nominal"}},
            },
        ],
    }
    return style.chart(parts, title=metric)


def _scores(report: Report, metric: str) -> list[Spec]:
    """Return the scores of the rungs; what is exact has no place on an axis of dB."""
    scheme = f"{report['scheme']} on {report['device']}"
    scores = [(rung["name"], rung["metrics"].get(metric)) for rung in report["ladder"]]
    return [
        {"scheme": scheme, "rung": name, "value": value}
        for name, value in scores
        if value is not None and value < EXACT_DB
    ]

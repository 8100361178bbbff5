"""The report of one run against another: what became better, what worse, and why it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qpipe.compare.json_rows import ComparedRow, Comparison
from qpipe.report import chart_style as style
from qpipe.report.chart_page import ChartPage
from qpipe.report.chart_style import Spec
from qpipe.report.comparison_rows import (
    COLUMNS,
    VERDICTS,
    count_verdicts,
    incomparable_lines,
    row_cells,
)
from qpipe.report.page_template import bullets, escape, facts, paragraphs, sortable_table
from qpipe.report.two_runs import TwoRuns
from qpipe.storage.rows import RunRow

COLOURS: Mapping[Comparison, str] = {
    "better": style.FRONT,
    "worse": style.SHIP,
    "tied": style.DIM,
    "not comparable": style.DIM,
}
RATIO_TITLE = "later / earlier"
HOW_TO_READ = (
    "Each mark is the number of the later run over that of the earlier one, with its 95 % "
    "interval: on the line nothing changed. Blue became better, orange worse, beyond chance and "
    "margin."
)


def comparison_page(runs: TwoRuns) -> str:
    """Return the report as HTML."""
    page = ChartPage()
    title = f"{runs.after['recipe']}: run {runs.after['id']} against {runs.before['id']}"
    rows = sorted(runs.rows, key=lambda row: VERDICTS.index(row["verdict"]))
    body = "\n".join(
        [
            f"<h1>{escape(runs.after['recipe'])}: one run against another</h1>",
            f'<p class="lead">{escape(count_verdicts(runs.rows))}</p>',
            facts([("earlier run", _run_line(runs.before)), ("later run", _run_line(runs.after))]),
            bullets([*incomparable_lines(runs.rows), *runs.conditions]),
            '<h2 id="changes">Changes</h2>',
            paragraphs([HOW_TO_READ]),
            _charts(page, runs.rows),
            '<h2 id="numbers">All numbers</h2>',
            sortable_table(COLUMNS, [row_cells(row) for row in rows], ("before", "after", "ratio")),
        ]
    )
    return page.html(title, body)


def _run_line(run: RunRow) -> str:
    return f"{run['id']}, {run['started'][:16].replace('T', ' ')} UTC, {run['state']}"


def _charts(page: ChartPage, rows: Sequence[ComparedRow]) -> str:
    """Return a chart for each metric that has ratios."""
    rows_by_metric: dict[str, list[ComparedRow]] = {}
    for row in rows:
        if row["ratio"] is not None:
            rows_by_metric.setdefault(row["metric"], []).append(row)
    drawn = [
        f"<div><h4>{escape(metric)}</h4>\n{page.place_for(_ratio_chart(metric, metric_rows))}</div>"
        for metric, metric_rows in rows_by_metric.items()
    ]
    return '<div class="small-multiples">\n' + "\n".join(drawn) + "\n</div>"


def _ratio_chart(metric: str, rows: Sequence[ComparedRow]) -> Spec:
    """Return the specification of later over earlier, a row each."""
    values = [
        {"name": row_cells(row)[0], "verdict": row["verdict"], **row["ratio"]}
        for row in rows
        if row["ratio"] is not None
    ]
    scale = {"domain": list(COLOURS), "range": list(COLOURS.values())}
    colour = {"field": "verdict", "type": "nominal", "scale": scale, "legend": None}
    interval: Spec = {
        "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.4},
        "encoding": {
            "x": style.quantity("low", RATIO_TITLE),
            "x2": {"field": "high"},
            "color": colour,
        },
    }
    mark: Spec = {
        "mark": {"type": "point", "filled": True, "opacity": 1, "size": 60},
        "encoding": {
            "x": style.quantity("value", RATIO_TITLE),
            "color": colour,
            "tooltip": [
                {"field": name, "type": "nominal"}
                for name in ("name", "value", "low", "high", "verdict")
            ],
        },
    }
    parts = {
        "height": style.ROW_HEIGHT * len(values),
        "data": {"values": values},
        "encoding": {"y": style.schemes([str(value["name"]) for value in values], longest=240)},
        "layer": [style.line_at_one(RATIO_TITLE), interval, mark],
    }
    return style.chart(parts, title=metric)

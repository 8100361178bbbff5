"""The rows of a model on a device as a table that sorts, and all devices side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qpipe.compare.decision import latency_metric
from qpipe.compare.formatting import RATIO
from qpipe.compare.json_rows import ParetoRow
from qpipe.report.chart_rows import PlaceData
from qpipe.report.chart_style import State
from qpipe.report.page_template import escape, grid, sortable_heading
from qpipe.report.run_results import absence_reason, describe_verdict

MARKS: Mapping[State, str] = {
    "to ship": "ship",
    "on the front": "front",
    "not on the front": "",
    "float": "float",
}


def results_table(place: PlaceData) -> str:
    """Return a table with every metric of every row."""
    heads = [sortable_heading("scheme", "name")]
    heads += [sortable_heading(title, "number") for title in place.titles.values()]
    heads.append(sortable_heading("verdict", ""))
    return grid(f"<tr>{''.join(heads)}</tr>", [_line(place, row) for row in place.rows])


def _line(place: PlaceData, row: ParetoRow) -> str:
    cells = [_name_cell(place, row)]
    cells += [_number_cell(place, row, metric) for metric in place.metrics]
    cells.append(f'<td class="verdict">{escape(describe_verdict(row, place.objectives))}</td>')
    return f'<tr class="{MARKS[place.state(row)]}">{"".join(cells)}</tr>'


def _name_cell(place: PlaceData, row: ParetoRow) -> str:
    state = place.state(row)
    name = escape(row["name"])
    mark = f'<span class="mark {MARKS[state]}" title="{state}"></span>'
    return f'<td class="name" data-value="{name}">{mark}{name}</td>'


def _number_cell(place: PlaceData, row: ParetoRow, metric: str) -> str:
    measured = row["metrics"].get(metric)
    value = "" if measured is None else repr(float(measured["value"]))
    number, sign, half = place.text(row, metric).partition(" ±")
    interval = f' <span class="interval">{sign.strip()}{escape(half)}</span>' if sign else ""
    title = "" if measured is None else f"{measured['value']!r} {measured['unit']}".rstrip()
    return (
        f'<td class="number" data-value="{value}" title="{escape(title)}">'
        f"{escape(number)}{interval}</td>"
    )


def key() -> str:
    """Return what the marks of tables and charts mean."""
    marks = "".join(
        f'<span><span class="mark {style}"></span>{state}</span>' for state, style in MARKS.items()
    )
    return f'<div class="key">{marks}</div>'


def side_by_side(places: Sequence[PlaceData], unreachable: Mapping[str, str]) -> str:
    """Return the latency of each scheme on each device; of one that was not reached, the reason."""
    names = list(dict.fromkeys(row["name"] for place in places for row in place.rows))
    heads = ['<th class="name">scheme</th>']
    heads += [f'<th class="number">{escape(place.where[1])}</th>' for place in places]
    heads += [f"<th>{escape(device)}</th>" for device in unreachable]
    lines = []
    for number, name in enumerate(names):
        cells = [f'<td class="name">{escape(name)}</td>']
        cells += [_latency_cell(place, name) for place in places]
        if number == 0:
            cells += [
                f'<td rowspan="{len(names)}">{escape(absence_reason(device, reason))}</td>'
                for device, reason in unreachable.items()
            ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return grid(f"<tr>{''.join(heads)}</tr>", lines)


def _latency_cell(place: PlaceData, name: str) -> str:
    row = place.row_of(name)
    metric = latency_metric([judged.candidate for judged in place.judged], place.objectives)
    if row is None or metric is None:
        return '<td class="number">-</td>'
    mark = f'<span class="mark {MARKS[place.state(row)]}"></span>'
    ratio = ""
    if RATIO in row["metrics"]:
        value = row["metrics"][RATIO]["value"]
        ratio = f' <span class="interval">{value:.2f} x float</span>'
    return f'<td class="number">{mark}{escape(place.text(row, metric))}{ratio}</td>'

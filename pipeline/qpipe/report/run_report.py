"""The report of a run: one HTML file that needs no network and no other file."""

from __future__ import annotations

import shlex
from pathlib import Path

from qpipe.compare.formatting import RATIO
from qpipe.compare.json_rows import Place
from qpipe.errors import shown
from qpipe.report.answer_section import answer_section, copied_command
from qpipe.report.chart_page import ChartPage
from qpipe.report.chart_rows import PlaceData
from qpipe.report.chart_style import Spec
from qpipe.report.diagnosis_page import HOW_TO_READ as DIAGNOSIS
from qpipe.report.diagnosis_page import (
    LAYER_COLUMNS,
    LAYER_NUMBERS,
    Report,
    diagnosis_title,
    ladder_table,
    layer_cells,
    outputs_line,
)
from qpipe.report.facts_sections import (
    environment_section,
    failures_section,
    provenance_section,
)
from qpipe.report.ladder_chart import ladder_charts
from qpipe.report.page_template import bullets, escape, paragraphs, sortable_table
from qpipe.report.pareto_chart import HOW_TO_READ, common_extents
from qpipe.report.place_charts import (
    COURSE,
    DISTRIBUTION,
    METRIC_CHARTS,
    PARETO,
    place_charts,
)
from qpipe.report.results_table import key, results_table, side_by_side
from qpipe.report.row_notes import note_lines
from qpipe.report.run_content import RunContent
from qpipe.report.seen_section import seen_section
from qpipe.report.training_chart import HOW_TO_READ as READ_TRAINING
from qpipe.report.training_chart import training_chart

SMOKE_NOTE = (
    "A smoke run shows that everything works; its numbers come from too few samples to decide by."
)
SECTIONS = {
    "answer": "What to ship",
    "pareto": "Pareto",
    "numbers": "All numbers",
    "accuracy": "Accuracy",
    "seen": "Samples",
    "timing": "Times",
    "environment": "Devices",
    "failures": "Failures",
    "provenance": "Provenance",
}
READ_CHART = {
    DISTRIBUTION: (
        "How the times of single inferences are distributed, over the rounds that count. The line "
        "covers 5 to 95 % of them, the bar the middle half; the tick is the median, the dot is "
        "what 99 % stay below."
    ),
    COURSE: (
        "The median of each round, as its difference from that of all rounds of the scheme. A "
        "device that warms up or throttles shows as a slope that all schemes share. Hollow marks "
        "are rounds that were disturbed and do not count."
    ),
    METRIC_CHARTS[RATIO]: (
        "The time of a scheme over that of float, paired round by round: left of the line it is "
        "faster than float."
    ),
    METRIC_CHARTS["memory_mb"]: "What a process that runs the network needs at its peak.",
}
TITLES = {
    DISTRIBUTION: "Distribution of times",
    COURSE: "Course over the rounds",
    METRIC_CHARTS[RATIO]: "Time against float",
    METRIC_CHARTS["memory_mb"]: "Memory",
    METRIC_CHARTS["energy_mj"]: "Energy",
    METRIC_CHARTS["sustained_ms"]: "Sustained load",
}


class ReportPage:
    """A page in the making: its sections, and the charts that they have places for."""

    def __init__(self, content: RunContent) -> None:
        self.content = content
        self.page = ChartPage()
        self.specs: dict[Place, dict[str, Spec]] = {}
        for model in content.models:
            places = content.places_of(model)
            extents = common_extents(places)
            self.specs |= {place.where: place_charts(place, extents) for place in places}

    def html(self) -> str:
        """Return the whole page."""
        run = self.content.results.run
        smoke = paragraphs([SMOKE_NOTE], style="warning") if self.content.results.is_smoke else ""
        body = "\n".join(
            [
                f"<h1>{escape(self.content.title)}</h1>",
                f'<p class="lead">{escape(_lead(self.content))}</p>',
                smoke,
                answer_section(self.content),
                _navigation(),
                self._pareto(),
                self._numbers(),
                self._accuracy(),
                self._training(),
                seen_section(self.content.seen),
                self._timing(),
                environment_section(self.content),
                failures_section(self.content),
                provenance_section(self.content),
            ]
        )
        return self.page.html(f"{self.content.title}, run {run['id']}", body)

    # ---- sections

    def _pareto(self) -> str:
        parts = [
            '<h2 id="pareto">Accuracy against cost</h2>',
            f"<p>{escape(HOW_TO_READ)}</p>",
            key(),
        ]
        for model in self.content.models:
            places = self.content.places_of(model)
            drawn = "\n".join(
                self._switchable_chart(place, is_one_of_several=len(places) > 1) for place in places
            )
            parts.append(f'<div class="small-multiples">\n{drawn}\n</div>')
            if len(places) + len(self.content.unreachable) > 1:
                parts.append(f"<h3>{escape(model)} on all devices</h3>")
                parts.append("<p>The latency of each scheme on each device.</p>")
                parts.append(side_by_side(places, self.content.unreachable))
        return "\n".join(parts)

    def _switchable_chart(self, place: PlaceData, *, is_one_of_several: bool) -> str:
        """Return a Pareto chart with a selection of metrics for its axes."""
        if not place.metrics:
            return ""
        element = self.page.place_for(self.specs[place.where][PARETO])
        chart = list(self.page.specs)[-1]
        across, upward, area = place.default_axes
        selections = "\n".join(
            _selection(place, chart, signal, label, metric)
            for signal, label, metric in (
                ("y", "upward", upward),
                ("x", "across", across),
                ("area", "area", area),
            )
        )
        if is_one_of_several:
            selections += (
                f'<label><input type="checkbox" data-chart="{chart}" data-signal="same" checked> '
                "same axes on all devices</label>"
            )
        return (
            f'<div><h3>{escape(place.title)}</h3>\n<div class="axes">{selections}</div>\n'
            f"{element}</div>"
        )

    def _numbers(self) -> str:
        parts = [
            '<h2 id="numbers">All numbers</h2>',
            "<p>Each with half of its 95 % interval. Click on a heading to sort.</p>",
        ]
        for place in self.content.places:
            parts += [f"<h3>{escape(place.title)}</h3>", results_table(place)]
            notes = [line.strip() for line in note_lines(place.rows) if line]
            if notes:
                parts += ["<h4>Notes and doubts</h4>", bullets(notes)]
        return "\n".join(parts)

    def _accuracy(self) -> str:
        parts = ['<h2 id="accuracy">Where accuracy goes</h2>']
        if not self.content.diagnoses:
            recipe = self.content.results.run["recipe_path"] or "RECIPE"
            command = shlex.join(["qpipe", "diagnose", shown(Path(recipe)), "--scheme"])
            parts.append(paragraphs(["Nothing was diagnosed of these networks. This does:"]))
            parts.append(copied_command(f"{command} NAME"))
            return "\n".join(parts)
        parts.append(paragraphs([DIAGNOSIS]))
        for model in self.content.models:
            reports = self.content.diagnoses_of(model)
            drawn = "\n".join(
                f"<div><h4>{escape(metric)}</h4>\n{self.page.place_for(spec)}</div>"
                for metric, spec in ladder_charts(reports).items()
            )
            parts.append(f'<div class="small-multiples">\n{drawn}\n</div>')
            parts += [_diagnosis(report) for report in reports]
        return "\n".join(parts)

    def _training(self) -> str:
        parts = []
        for model in self.content.models:
            rows = self.content.training_of(model)
            if rows:
                spec = self.page.place_for(training_chart(rows, model))
                parts.append(f"<div><h3>{escape(model)}</h3>\n{spec}</div>")
        if not parts:
            return ""
        charts = "\n".join(parts)
        return (
            f'<h2 id="training">Training</h2>\n{paragraphs([READ_TRAINING])}\n'
            f'<div class="small-multiples">\n{charts}\n</div>'
        )

    def _timing(self) -> str:
        parts = ['<h2 id="timing">Times and memory</h2>', key()]
        for place in self.content.places:
            parts.append(f"<h3>{escape(place.title)}</h3>")
            drawn = "\n".join(
                self._titled_chart(name, spec)
                for name, spec in self.specs[place.where].items()
                if name != PARETO
            )
            parts.append(f'<div class="small-multiples">\n{drawn}\n</div>')
        return "\n".join(parts)

    def _titled_chart(self, name: str, spec: Spec) -> str:
        """Return a chart with its title and how to read it."""
        how_to_read = paragraphs(filter(None, [READ_CHART.get(name, "")]))
        heading = f"<h4>{escape(TITLES[name])}</h4>"
        return f"<div>{heading}\n{how_to_read}\n{self.page.place_for(spec)}</div>"


def report_page(content: RunContent) -> str:
    """Return the report of a run as HTML."""
    return ReportPage(content).html()


def _lead(content: RunContent) -> str:
    run = content.results.run
    devices = {place.where[1] for place in content.places} | content.unreachable.keys()
    schemes = {row["scheme"] for row in content.results.rows}
    started = run["started"][:16].replace("T", " ")
    return (
        f"{len(schemes)} schemes on {len(devices)} "
        f"{'device' if len(devices) == 1 else 'devices'}, {started} UTC. "
        f"Run {run['id']}: {run['state']}."
    )


def _diagnosis(report: Report) -> str:
    """Return the ladder of a scheme, and all its layers, folded."""
    rows = [layer_cells(layer) for layer in report["layers"]]
    table = sortable_table(LAYER_COLUMNS, rows, LAYER_NUMBERS)
    layers = f"<details><summary>all layers</summary>\n{table}\n</details>"
    return (
        f"<h3>{escape(diagnosis_title(report))}</h3>\n{ladder_table(report)}\n"
        f"{paragraphs([outputs_line(report)])}\n{layers}"
    )


def _navigation() -> str:
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in SECTIONS.items())
    return f"<nav>{links}</nav>"


def _selection(place: PlaceData, chart: str, signal: str, label: str, metric: str) -> str:
    selected = place.keys[metric]
    options = "".join(
        f'<option value="{name}"{" selected" if name == selected else ""}>{escape(title)}</option>'
        for name, title in place.titles.items()
    )
    return (
        f'<label>{label} <select data-chart="{chart}" data-signal="{signal}">{options}</select>'
        "</label>"
    )

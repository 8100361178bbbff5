"""A page with charts: the places that they are drawn in, and the scripts that draw them."""

from __future__ import annotations

from pathlib import Path

from qpipe.report.chart_style import Spec, for_page
from qpipe.report.page_template import document, embedded_json
from qpipe.report.vega_script import vega_script

PAGE_SCRIPT = Path(__file__).with_name("page_script.js")
# nothing is ever loaded: neither from the network nor from other files
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'; img-src data:; media-src data:"
)


class ChartPage:
    """The charts of a page in the making."""

    def __init__(self) -> None:
        self.specs: dict[str, Spec] = {}  # by the id of the element that each is drawn in

    def place_for(self, spec: Spec) -> str:
        """Return the element that a chart is drawn in."""
        element_id = f"chart-{len(self.specs)}"
        self.specs[element_id] = spec
        return f'<div class="chart" id="{element_id}"></div>'

    def html(self, title: str, body: str) -> str:
        """Return the whole page: one file that loads nothing."""
        charts = [{"id": name, "spec": for_page(spec)} for name, spec in self.specs.items()]
        script = PAGE_SCRIPT.read_text(encoding="utf-8")
        scripts = (
            f"{embedded_json('charts', charts)}"
            f'<script type="module">{vega_script()}\n{script}</script>\n'
        )
        return document(title, body, policy=POLICY, scripts=scripts)

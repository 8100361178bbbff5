"""The rows of a run as tables of LaTeX, in the style of the package booktabs."""

from __future__ import annotations

import re

from qpipe.compare.json_rows import ParetoRow
from qpipe.report.chart_rows import PlaceData
from qpipe.report.run_content import RunContent
from qpipe.report.run_results import metric_columns

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
NEEDED = "% in the preamble: \\usepackage{booktabs}\n"


def latex_tables(content: RunContent) -> str:
    """Return a table for each model and device; the row to ship is bold, * marks the front."""
    return NEEDED + "\n".join(_table(place) for place in content.places)


def _table(place: PlaceData) -> str:
    metrics = metric_columns(place.rows, place.objectives)
    titles = [_escape(place.titles[place.keys[metric]]) for metric in metrics]
    caption = f"{place.title}, with half of each 95 % interval; * is on the Pareto front"
    lines = [
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_escape(caption)}}}",
        f"  \\begin{{tabular}}{{l{'r' * len(metrics)}}}",
        r"    \toprule",
        f"    {' & '.join(['Scheme', *titles])} \\\\",
        r"    \midrule",
        *(f"    {_line(place, row, metrics)} \\\\" for row in place.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(place: PlaceData, row: ParetoRow, metrics: list[str]) -> str:
    mark = "*" if row["on_front"] else ""
    name = _escape(row["name"]) + mark
    cells = [_number(place.text(row, metric)) for metric in metrics]
    if row["name"] == place.shipped:
        name = f"\\textbf{{{name}}}"
        cells = [f"\\textbf{{{cell}}}" for cell in cells]
    return " & ".join([name, *cells])


def _number(text: str) -> str:
    """Return a number as the tables of the terminal show it, such as 85.2 ±1.2."""
    value, sign, half = text.partition(" ±")
    if not sign:
        return "--" if text == "-" else _escape(text)
    return f"{_escape(value)} $\\pm$ {_escape(half)}"


def _escape(text: str) -> str:
    line = " ".join(text.split())
    return re.sub(r"[\\~^<>&%$#_{}]", lambda match: SPECIAL[match[0]], line)

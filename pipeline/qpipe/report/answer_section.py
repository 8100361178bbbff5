"""What a report says first: on each device, what to ship, why, and how to get the file."""

from __future__ import annotations

from qpipe.compare.formatting import RATIO
from qpipe.compare.json_rows import ParetoRow
from qpipe.report.chart_rows import PlaceData
from qpipe.report.page_template import bullets, escape, grid, paragraphs
from qpipe.report.run_content import RunContent
from qpipe.report.run_results import absence_reason, export_command

NO_ANSWER = "Nothing is recommended"
# clauses that need the sentence around them
CERTAINTY = {"surely": "its whole intervals are within the limits"}


def answer_section(content: RunContent) -> str:
    """Return a card for each model and device."""
    if not content.places:
        return paragraphs(["Nothing was measured; the failures below say why."], style="warning")
    cards = "\n".join(
        [
            *(_card(content, place) for place in content.places),
            *(_absence(device, reason) for device, reason in content.unreachable.items()),
        ]
    )
    return f'<section class="answers" id="answer">\n{cards}\n</section>'


def _card(content: RunContent, place: PlaceData) -> str:
    results = content.results
    row = results.recommended_row(place.where)
    clauses = results.advice(place.where)
    header = f"<header>{escape(_where(content, place))}</header>"
    if row is None:
        first, *others = clauses
        heading = f"<h2>{NO_ANSWER}</h2>"
        reason = _sentence(first.removeprefix("nothing is recommended: "))
        return (
            f'<article class="answer open">{header}{heading}\n<p>{escape(reason)}</p>\n'
            f"{_figures(place, None)}\n{bullets(others)}</article>"
        )
    # the numbers behind the colon are in the table
    reason = clauses[0].partition(": ")[0].partition(", ")[2]
    doubts = [text for topic, text in row["notes"].items() if topic not in place.objectives]
    certainty = [CERTAINTY.get(clause, clause) for clause in clauses[1:]]
    name = escape(row["name"])
    command = export_command(row, results.rows, content.options)
    return (
        f'<article class="answer">{header}<h2>Ship {name}</h2>\n'
        f"<p>{escape(_sentence(reason))}</p>\n{_figures(place, row)}\n"
        f"{bullets([*certainty, *doubts])}\n{copied_command(command)}</article>"
    )


def _absence(device: str, reason: str) -> str:
    """Return the card of a device that could not be reached."""
    return (
        f'<article class="answer open"><header>{escape(device)}</header>\n'
        f"<h2>Not measured</h2>\n<p>{escape(absence_reason(device, reason))}</p></article>"
    )


def _where(content: RunContent, place: PlaceData) -> str:
    """Return the model and what the device is."""
    model, device = place.where
    reported = content.capabilities.get(device)
    machine = f" ({reported.cpu}, {reported.cores} cores)" if reported else ""
    return f"{model} on {device}{machine}"


def _sentence(text: str) -> str:
    first = text.partition(" ")[0]
    is_word = first.isalpha()  # and not the name of a metric
    beginning = first[:1].upper() + first[1:] if is_word else first
    return f"{beginning}{text.removeprefix(first)}." if text else ""


def _figures(place: PlaceData, row: ParetoRow | None) -> str:
    """Return the numbers of a row beside those of float."""
    columns = [column for column in place.rows if column is row or column["is_float"]]
    columns.sort(key=lambda column: column is not row)
    if not columns:
        return ""
    metrics = [metric for metric in (*place.objectives, RATIO) if metric in columns[0]["metrics"]]
    heads = [column["name"] for column in columns]
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in heads)
    lines = []
    for metric in metrics:
        title = place.titles[place.keys[metric]]
        cells = "".join(
            f'<td class="number">{escape(place.text(column, metric))}</td>' for column in columns
        )
        lines.append(f"<tr><td>{escape(title)}</td>{cells}</tr>")
    return grid(f"<tr><th></th>{head}</tr>", lines, style="figures")


def copied_command(command: str) -> str:
    """Return a command with a button that copies it."""
    button = '<button type="button" data-copies>copy</button>'
    return f'<div class="command"><code>{escape(command)}</code>{button}</div>'

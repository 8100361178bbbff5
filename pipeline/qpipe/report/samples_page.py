"""The page of a samples report: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from qpipe.report.page_template import document, escape, paragraphs, table
from qpipe.report.report_types import (
    ChannelStatistics,
    InputReport,
    ModelReport,
    PreprocessingReport,
    SampleReport,
    ViewKind,
)
from qpipe.samples.preprocess import FLOATS

NUMBER_COLUMNS = ("mean", "std", "min", "max", "at 0 or 255")
STATISTICS_COLUMNS = ("input", "samples", "channel", *NUMBER_COLUMNS)

HOW_TO_READ = (
    "Each picture is made from the very tensor that the network is fed, converted back to pixels: "
    "times std, plus mean, clipped to 0 to 255. It shows the effect of size, crop, layout and "
    "color order on the sample. The channels are shown as red, green and blue in the order in "
    "which the network gets them: where it is fed BGR, red and blue are swapped here, as they "
    "should be; where it takes RGB, swapped colors are a mistake. Whether mean and std are those "
    "that the network was trained with shows in the statistics, and in the predictions of float."
)


def samples_page(title: str, models: Sequence[ModelReport]) -> str:
    """Return the HTML page of a report."""
    heading = f"{title}: what the network is fed"
    sections = "\n".join(_model_section(model) for model in models)
    return document(heading, f"<h1>{escape(heading)}</h1>\n<p>{HOW_TO_READ}</p>\n{sections}")


def summary_lines(model: ModelReport) -> list[str]:
    """Return what there is to say about all predictions of a model."""
    if model["scores"]:
        return [
            f"float scores {score['metric']} {score['value']:.3f} on these {score['n']} "
            "evaluation samples"
            for score in model["scores"]
        ]
    correct = model["right"]
    if correct is None:
        return []
    count = correct["labels"]
    return [f"float ranks the label first in {count} of these {correct['of']} evaluation samples"]


def statistics_cells(row: ChannelStatistics) -> list[str]:
    """Return a row of statistics as text, a cell for each of STATISTICS_COLUMNS."""
    numbers = (row["mean"], row["std"], row["min"], row["max"])
    channel = row["channel"]
    clipped = row["clipped"]
    return [
        row["input"],
        row["part"],
        "all" if channel is None else str(channel),
        *("" if number is None else f"{number:.4g}" for number in numbers),
        "" if clipped is None else f"{clipped:.1%}",
    ]


def _model_section(model: ModelReport) -> str:
    parts = dict.fromkeys(sample["part"] for sample in model["samples"])
    elements = [f"<h2>{escape(model['model'])}</h2>"]
    elements.append(paragraphs(model["warnings"], style="warning"))
    descriptions = [
        _describe_preprocessing(name, preprocessing)
        for name, preprocessing in model["preprocessing"].items()
    ]
    elements.append(paragraphs([*descriptions, *summary_lines(model)]))
    elements.append(_statistics_table(model["statistics"]))
    elements += [_part_section(model, part) for part in parts]
    return "\n".join(elements)


def _describe_preprocessing(input_name: str, preprocessing: PreprocessingReport) -> str:
    formula = "values as they are"
    if preprocessing["dtype"] in FLOATS:
        mean = ", ".join(f"{value:g}" for value in preprocessing["mean"])
        std = ", ".join(f"{value:g}" for value in preprocessing["std"])
        formula = f"(value - {mean}) / {std}"
    layout = preprocessing["layout"]
    return f"Input {input_name}: {formula}, layout {layout}, {preprocessing['dtype']}."


def _statistics_table(rows: Iterable[ChannelStatistics]) -> str:
    cells = [statistics_cells(row) for row in rows]
    statistics = table(STATISTICS_COLUMNS, cells, NUMBER_COLUMNS)
    return f"<h3>Statistics of the inputs as fed</h3>\n{statistics}"


def _part_section(model: ModelReport, part: str) -> str:
    samples = [sample for sample in model["samples"] if sample["part"] == part]
    total = model["counts"].get(part, len(samples))
    heading = f"{part.capitalize()} samples, {len(samples)} of {total}"
    figures = "\n".join(_sample_figure(sample) for sample in samples)
    return f'<h3>{escape(heading)}</h3>\n<div class="samples">\n{figures}\n</div>'


def _sample_figure(sample: SampleReport) -> str:
    inputs = "\n".join(_input_elements(report) for report in sample["inputs"])
    lines = list(sample["lines"])
    if sample["reason"]:
        lines.append(sample["reason"])
    text = escape("\n".join(lines))
    sample_id = escape(str(sample["id"]))
    caption = f"<figcaption><b>{sample_id}</b><pre>{text}</pre></figcaption>"
    return f"<figure>\n{inputs}\n{caption}\n</figure>"


def _input_elements(report: InputReport) -> str:
    files = "\n".join(_file_element(file, report["shown_as"]) for file in report["files"])
    text = f"<pre>{escape(report['text'])}</pre>" if report["text"] else ""
    description = f"{report['input']}: {report['dtype']} {report['shape']}"
    if report["note"]:
        description += f"; {report['note']}"
    return f'{files}\n{text}<div class="quiet">{escape(description)}</div>'


def _file_element(file: str, shown_as: ViewKind) -> str:
    link = escape(quote(file))
    name = escape(file)
    if shown_as == "sound":
        return f'<audio controls preload="none" src="{link}"></audio>'
    if shown_as == "numbers":
        return f'<a href="{link}">{name}</a>'
    return f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'

"""The page: all that a look at samples wrote, in one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

Row = Mapping[str, Any]

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .15rem .8rem .15rem 0; text-align: right; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
.warning { background: #fff2d8; color: #4a3000; padding: .4rem .8rem; border-left: 4px solid #e08a00; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } img { max-width: 100%; min-width: 8rem; image-rendering: pixelated; border: 1px solid #8886; }
pre { white-space: pre-wrap; margin: .3rem 0; font-size: 13px; } .quiet { opacity: .7; font-size: 13px; }
""".strip()

HOW_TO_READ = (
    "Each picture is made back from the very tensor that the network is fed: times std, plus mean, cut to 0 to 255. It "
    "shows what size, crop, layout and order of colours made of the sample. The channels are shown as red, green and "
    "blue in the order in which the network gets them: where it is fed BGR, red and blue are swapped here, and should "
    "be; where it takes RGB, swapped colours are the mistake. Whether mean and std are those the network was trained "
    "with shows in the statistics, and in what float predicts."
)


def page(title: str, models: Sequence[Row]) -> str:
    """HTML of what samples.json holds."""
    body = "\n".join(_model(model) for model in models)
    name = escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: what the network sees</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
        f"<h1>{name}: what the network sees</h1>\n<p>{HOW_TO_READ}</p>\n{body}\n</body></html>\n"
    )


def _model(model: Row) -> str:
    warnings = "\n".join(f'<p class="warning">{escape(line)}</p>' for line in model["warnings"])
    fed = "\n".join(
        f"<p>{escape(_fed(name, how))}</p>" for name, how in model["preprocessing"].items()
    )
    fed += "".join(f"\n<p>{escape(line)}</p>" for line in summary(model))
    parts = dict.fromkeys(sample["part"] for sample in model["samples"])
    sections = "\n".join(_part(model, part) for part in parts)
    return f"<h2>{escape(model['model'])}</h2>\n{warnings}\n{fed}\n{_statistics(model['statistics'])}\n{sections}"


def summary(model: Row) -> list[str]:
    """What there is to say of all its predictions, in lines."""
    right = model["right"]
    return (
        [f"float puts the label first in {right['labels']} of these {right['of']} samples"]
        if right
        else []
    )


def _fed(name: str, how: Row) -> str:
    mean, std = (", ".join(f"{value:g}" for value in how[key]) for key in ("mean", "std"))
    scaled = f"(value - {mean}) / {std}, " if how["dtype"] == "float32" else "values as they are, "
    return f"Input {name}: {scaled}layout {how['layout']}, {how['dtype']}."


def _statistics(rows: Iterable[Row]) -> str:
    heads = ("input", "samples", "channel", "mean", "std", "min", "max", "at 0 or 255")
    lines = [
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(row))}</tr>" for row in rows
    ]
    head = "".join(f"<th>{each}</th>" for each in heads)
    return (
        f"<h3>Statistics of what is fed</h3>\n<table><tr>{head}</tr>\n"
        + "\n".join(lines)
        + "\n</table>"
    )


def cells(row: Row) -> list[str]:
    """A row of statistics as text."""
    numbers = [
        "" if row[key] is None else f"{row[key]:.4g}" for key in ("mean", "std", "min", "max")
    ]
    clipped = "" if row["clipped"] is None else f"{row['clipped']:.1%}"
    return [
        row["input"],
        row["part"],
        "all" if row["channel"] is None else str(row["channel"]),
        *numbers,
        clipped,
    ]


def _part(model: Row, part: str) -> str:
    own = [sample for sample in model["samples"] if sample["part"] == part]
    of = model["counts"].get(part, len(own))
    figures = "\n".join(_figure(sample) for sample in own)
    heading = f"{part.capitalize()} samples, {len(own)} of {of}"
    return f'<h3>{escape(heading)}</h3>\n<div class="samples">\n{figures}\n</div>'


def _figure(sample: Row) -> str:
    shown = "\n".join(_input(each) for each in sample["inputs"])
    said = "\n".join(filter(None, [*sample["lines"], sample["reason"]]))
    caption = (
        f"<figcaption><b>{escape(str(sample['id']))}</b><pre>{escape(said)}</pre></figcaption>"
    )
    return f"<figure>\n{shown}\n{caption}\n</figure>"


def _input(each: Row) -> str:
    files = "\n".join(_file(file, each["shown_as"]) for file in each["files"])
    text = f"<pre>{escape(each['text'])}</pre>" if each["text"] else ""
    note = f"; {each['note']}" if each["note"] else ""
    told = f"{each['input']}: {each['dtype']} {each['shape']}{note}"
    return f'{files}\n{text}<div class="quiet">{escape(told)}</div>'


def _file(file: str, shown_as: str) -> str:
    link = escape(quote(file))
    if shown_as == "sound":
        return f'<audio controls preload="none" src="{link}"></audio>'
    if shown_as == "numbers":
        return f'<a href="{link}">{escape(file)}</a>'
    return f'<a href="{link}"><img src="{link}" alt="{escape(file)}" loading="lazy"></a>'

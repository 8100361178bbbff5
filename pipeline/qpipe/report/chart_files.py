"""The charts of a run as pictures, from the same specifications as those of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from qpipe.report.chart_style import Spec, for_picture
from qpipe.report.place_charts import place_charts
from qpipe.report.run_content import RunContent
from qpipe.report.training_chart import TRAINING, training_chart

PictureFormat = Literal["png", "svg", "pdf"]
WIDTH = 640  # of the plot, in pixels of a screen
PIXELS = 2  # of a PNG, for each pixel of a screen


def write_charts(content: RunContent, folder: Path, kind: PictureFormat) -> list[Path]:
    """Write each chart of each model and device into a folder; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, spec in _named_charts(content):
        file = _unused(folder / f"{name}.{kind}", files)
        file.write_bytes(_render(kind)(for_picture(spec, width=WIDTH)))
        files.append(file)
    return files


def _named_charts(content: RunContent) -> Iterator[tuple[str, Spec]]:
    for place in content.places:
        where = _as_file_name("-".join(place.where))
        for name, spec in place_charts(place).items():
            yield f"{where}-{name}", spec
    for model in content.models:
        rows = content.training_of(model)
        if rows:
            yield f"{_as_file_name(model)}-{TRAINING}", training_chart(rows, model)


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def _unused(file: Path, files: list[Path]) -> Path:
    """Return the file, or one with a number, where another chart has its name already."""
    number = 1
    unused = file
    while unused in files:
        number += 1
        unused = file.with_stem(f"{file.stem}-{number}")
    return unused


def _render(kind: PictureFormat) -> Callable[[Spec], bytes]:
    import vl_convert

    if kind == "png":
        return lambda spec: vl_convert.vegalite_to_png(spec, scale=PIXELS)
    if kind == "pdf":
        return vl_convert.vegalite_to_pdf
    return lambda spec: vl_convert.vegalite_to_svg(spec).encode()

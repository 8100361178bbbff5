"""qpipe trend."""

from __future__ import annotations

from typing import Annotated

import typer

import qpipe
from qpipe.cli.parameters import DEFAULT_DB, DbOption, JsonOption
from qpipe.cli.tables import print_json, print_table, print_text

COLUMNS = ("night", "value", "from", "to", "")
NIGHTS = 90
WIDTH = 40  # characters of the longest bar


def trend(
    metric: Annotated[str, typer.Argument(help="The metric, such as latency_ms.")],
    lab: Annotated[
        str | None, typer.Option("--lab", help="The lab; by default the one of the newest night.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Show only the series of this device.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", help="Show only the series of this scheme.")
    ] = None,
    last: Annotated[
        int, typer.Option("--nights", min=1, help="How many nights to show, the newest ones.")
    ] = NIGHTS,
    db: DbOption = DEFAULT_DB,
    as_json: JsonOption = False,
) -> None:
    """Show a metric night by night: a series for each build on each device."""
    series = qpipe.trend(metric, lab=lab, nights=last, db=db)
    shown = [
        one_series
        for one_series in series
        if device in (None, one_series.key.device) and scheme in (None, one_series.key.scheme)
    ]
    if as_json:
        print_json([one_series.to_dict() for one_series in shown])
        return
    if not shown:
        print_text(f"{metric}: no night has measured it there")
    for one_series in shown:
        unit = one_series.newest.row["unit"]
        print_text(f"{one_series.key.subject}: {metric}, {unit}")
        print_table(COLUMNS, _cells(one_series), right=("value", "from", "to"))


def _cells(series: qpipe.Series) -> list[list[object]]:
    """Return the nights of a series as text, a cell for one of COLUMNS."""
    largest = max(abs(point.value) for point in series.points) or 1
    rows: list[list[object]] = []
    for point in series.points:
        bar = "#" * round(WIDTH * abs(point.value) / largest)
        low = "" if point.row["low"] is None else f"{point.row['low']:.4g}"
        high = "" if point.row["high"] is None else f"{point.row['high']:.4g}"
        text = f"{bar} {point.problem}".rstrip()
        rows.append([point.night, f"{point.value:.4g}", low, high, text])
    return rows

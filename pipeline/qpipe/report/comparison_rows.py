"""Two runs side by side as text: each row, how many differ, and what cannot be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qpipe.compare.formatting import metric_name
from qpipe.compare.json_rows import ComparedRow, ComparedValue, Comparison

VERDICTS: tuple[Comparison, ...] = ("worse", "better", "not comparable", "missing", "new", "tied")
COLUMNS = ("row", "metric", "before", "after", "ratio", "verdict")


def row_cells(row: ComparedRow) -> list[str]:
    """Return a row as text, a cell for each of COLUMNS."""
    build = "/".join((row["model"], row["scheme"], row["build"]))
    verdict: str = row["verdict"]
    if row["differs"]:
        verdict += f": different: {' and '.join(row['differs'])}"
    elif verdict == "not comparable":
        verdict += f": {row['doubt']}"
    ratio = ""
    if row["ratio"]:
        ratio = "{value:.3f} ({low:.3f} to {high:.3f})".format(**row["ratio"])
    return [
        f"{build}@{row['device']}",
        metric_name(row["metric"], row["unit"] or "", row["emulated"]),
        _format_value(row["before"]),
        _format_value(row["after"]),
        ratio,
        verdict,
    ]


def _format_value(measured: ComparedValue | None) -> str:
    """Return a value with half the width of its interval."""
    if measured is None:
        return "-"
    text = f"{measured['value']:.4g}"
    low = measured["low"]
    high = measured["high"]
    if low is not None and high is not None:
        half_width = (high - low) / 2
        text += f" ±{half_width:.2g}"
    return text


def count_verdicts(rows: Sequence[ComparedRow]) -> str:
    counts = Counter(row["verdict"] for row in rows)
    words = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    return ", ".join(words) or "nothing was measured"


def incomparable_lines(rows: Sequence[ComparedRow]) -> list[str]:
    """Return a line for each reason why rows cannot be compared, with their number."""
    lines = []
    differences = Counter(" and ".join(row["differs"]) for row in rows if row["differs"])
    for reason, count in differences.items():
        lines.append(f"{count} cannot be compared: the runs differ in {reason}")
    doubts = Counter(
        row["doubt"] for row in rows if row["verdict"] == "not comparable" and not row["differs"]
    )
    for reason, count in doubts.items():
        lines.append(f"{count} cannot be compared, being in doubt: {reason}")
    return lines

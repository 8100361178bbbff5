"""Numbers as text: shares in percent, others in their unit, with as many digits as matter."""

from __future__ import annotations

from collections.abc import Sequence

from qpipe.compare.json_rows import MetricValue, ParetoRow
from qpipe.types import SHARE, Emulation

RATIO = "latency_ratio"
EXACT_DB = 200  # the most that the metric sqnr gives: the same to the last bit
# what the clock of an emulator counts, which must not be taken for a device's time
EMULATED = {
    "wall": "emulated: its times are the emulator's, not a device's",
    "instructions": "emulated: its times count instructions, they are not a device's",
}
# units of time, and of what is per second
TIME_UNITS = ("ns", "us", "ms", "s", "Hz", "fps", "mW", "W", "mJ", "J")
TITLES = {
    RATIO: "x float",
    "sqnr_db": "SQNR dB",
    "int8_nodes": "int8 nodes",
    "effective_bits": "bits",
}
TITLE_UNITS = {"mb": "MB", "ms": "ms"}  # by the suffix of a metric's name


def place_title(rows: Sequence[ParetoRow]) -> str:
    """Return where rows of one model and device were measured, and whether on an emulator."""
    first = rows[0]
    title = f"{first['model']} on {first['device']}"
    emulated = first.get("emulated")
    if emulated:
        title += f" ({EMULATED[emulated]})"
    return title


def is_emulated(metric: str, unit: str, emulated: Emulation | None) -> bool:
    """Return whether a number comes from the clock of an emulator."""
    is_timed = metric.startswith("latency") or unit in TIME_UNITS or unit.endswith("/s")
    return bool(emulated) and is_timed


def metric_name(metric: str, unit: str, emulated: Emulation | None) -> str:
    """Return a metric's name, marked where it comes from the clock of an emulator."""
    return f"emulated {metric}" if is_emulated(metric, unit, emulated) else metric


def is_share(metric: str, rows: Sequence[ParetoRow]) -> bool:
    """Return whether the unit of a metric says that it is a share, which is shown in percent."""
    return any(value["unit"] == SHARE for value in _values(metric, rows))


def _values(metric: str, rows: Sequence[ParetoRow]) -> list[MetricValue]:
    return [row["metrics"][metric] for row in rows if metric in row["metrics"]]


def heading(metric: str, rows: Sequence[ParetoRow]) -> str:
    """Return a metric's column title, with its unit."""
    if is_share(metric, rows):
        return f"{metric} %"
    title = _title(metric)
    for row in rows:
        value = row["metrics"].get(metric)
        if value and is_emulated(metric, value["unit"], row.get("emulated")):
            return f"emulated {title}"
    return title


def _title(metric: str) -> str:
    if metric in TITLES:
        return TITLES[metric]
    name, _, suffix = metric.rpartition("_")
    if suffix in TITLE_UNITS:
        return f"{name} {TITLE_UNITS[suffix]}"
    return metric


def cell(measured: MetricValue | None, share: bool) -> str:
    """Return a value with half the width of its interval, such as 85.2 ±1.2.

    The interval of a value that was measured only once is not known: 85.2 ±?.
    """
    if measured is None:
        return "-"
    if _is_exact(measured):
        return "exact"
    total = measured.get("detail", {}).get("of")
    if total is not None:
        return f"{measured['value']:g} of {total}"
    scale, digits = _scale(measured, share)
    text = f"{measured['value'] * scale:.{digits}f}"
    low = measured["low"]
    high = measured["high"]
    if low is not None and high is not None:
        return f"{text} ±{(high - low) / 2 * scale:.{digits}f}"
    return f"{text} ±?" if measured.get("single") else text


def phrase(metric: str, measured: MetricValue, share: bool) -> str:
    """Return a number for a sentence, such as latency 1.45 ms (1.41 to 1.53)."""
    unit = "%" if share else measured["unit"]
    name = metric.removesuffix(f"_{unit.lower()}")
    if _is_exact(measured):
        return f"{name} exact"
    scale, digits = _scale(measured, share)
    text = f"{name} {measured['value'] * scale:.{digits}f} {unit}".rstrip()
    low = measured["low"]
    high = measured["high"]
    if low is None or high is None:
        return text
    return f"{text} ({low * scale:.{digits}f} to {high * scale:.{digits}f})"


def _is_exact(measured: MetricValue) -> bool:
    return measured["unit"] == "dB" and measured["value"] >= EXACT_DB


def _scale(measured: MetricValue, share: bool) -> tuple[int, int]:
    """Return the factor to show a number with, and its decimals."""
    value = abs(measured["value"])
    if share:
        return 100, 1
    if measured["unit"] == "dB" or value >= 50:
        return 1, 1
    if value >= 0.1 or value == 0:
        return 1, 2
    return 1, 4

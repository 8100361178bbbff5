"""Numbers as people read them: shares in percent, the others in their unit, no more digits than are worth reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from qpipe.compare.measured_rows import Place, grouped
from qpipe.types import SHARE

Row = Mapping[str, Any]  # as pareto_rows has them
AnyRow = TypeVar("AnyRow", bound=Row)

RATIO = "latency_ratio"
EXACT_DB = 200  # sqnr's cap: the same to the last bit
# what the clock of an emulator counts: nobody may take it for a device's
EMULATED = {
    "wall": "emulated: its times are the emulator's, not a device's",
    "instructions": "emulated: its times count instructions, they are not a device's",
}
TIMES = (
    "ns",
    "us",
    "ms",
    "s",
    "Hz",
    "fps",
    "mW",
    "W",
    "mJ",
    "J",
)  # units of what takes time, and all by the second
TITLES = {
    RATIO: "x float",
    "sqnr_db": "SQNR dB",
    "int8_nodes": "int8 nodes",
    "effective_bits": "bits",
}


def groups(rows: Iterable[AnyRow]) -> dict[Place, list[AnyRow]]:
    """The rows of each model and device."""
    return grouped(rows, itemgetter("model", "device"))


def place(rows: Sequence[Row]) -> str:
    """Where rows of one model and device were measured, and whether on an emulator."""
    emulated = rows[0].get("emulated")
    return f"{rows[0]['model']} on {rows[0]['device']}" + (
        f" ({EMULATED[emulated]})" if emulated else ""
    )


def is_emulated(metric: str, unit: str, emulated: str | None) -> bool:
    """Whether a number comes from the clock of an emulator."""
    is_timed = metric.startswith("latency") or unit in TIMES or unit.endswith("/s")
    return bool(emulated) and is_timed


def named(metric: str, unit: str, emulated: str | None) -> str:
    """A metric's name, with a word before it where it comes from the clock of an emulator."""
    return f"emulated {metric}" if is_emulated(metric, unit, emulated) else metric


def is_share(metric: str, rows: Sequence[Row]) -> bool:
    """Whether it says of itself, by its unit, that it is a share, which people read as percent."""
    return any(row["metrics"][metric]["unit"] == SHARE for row in rows if metric in row["metrics"])


def heading(metric: str, rows: Sequence[Row]) -> str:
    """A metric's column title, with its unit."""
    if is_share(metric, rows):
        return f"{metric} %"
    name, _, unit = metric.rpartition("_")
    title = TITLES.get(metric) or (
        f"{name} {'MB' if unit == 'mb' else unit}" if unit in ("mb", "ms") else metric
    )
    units = {
        (row["metrics"][metric]["unit"], row.get("emulated"))
        for row in rows
        if metric in row["metrics"]
    }
    return f"emulated {title}" if any(is_emulated(metric, *each) for each in units) else title


def cell(measured: Mapping[str, Any] | None, share: bool) -> str:
    """A value with half the width of its interval: 85.2 ±1.2; of one round nobody knows it: 85.2 ±?."""
    if measured is None:
        return "-"
    if _is_exact(measured):
        return "exact"
    scale, digits = _scale(measured, share)
    if "of" in measured.get("detail", {}):
        return f"{measured['value']:g} of {measured['detail']['of']}"
    text = f"{measured['value'] * scale:.{digits}f}"
    if measured["low"] is None or measured["high"] is None:
        return f"{text} ±?" if measured.get("single") else text
    return f"{text} ±{(measured['high'] - measured['low']) / 2 * scale:.{digits}f}"


def phrase(metric: str, measured: Mapping[str, Any], share: bool) -> str:
    """A number for a sentence: latency 1.45 ms (1.41 to 1.53)."""
    unit = "%" if share else measured["unit"]
    name = metric.removesuffix(f"_{unit.lower()}")
    if _is_exact(measured):
        return f"{name} exact"
    scale, digits = _scale(measured, share)
    text = f"{name} {measured['value'] * scale:.{digits}f} {unit}".rstrip()
    if measured["low"] is None or measured["high"] is None:
        return text
    return f"{text} ({measured['low'] * scale:.{digits}f} to {measured['high'] * scale:.{digits}f})"


def _is_exact(measured: Mapping[str, Any]) -> bool:
    return bool(measured["unit"] == "dB" and measured["value"] >= EXACT_DB)


def _scale(measured: Mapping[str, Any], share: bool) -> tuple[int, int]:
    """The factor to show a number with, and its decimals."""
    value = abs(measured["value"])
    if share or measured["unit"] == "dB" or value >= 50:
        return (100 if share else 1), 1
    return 1, (2 if value >= 0.1 or value == 0 else 4)

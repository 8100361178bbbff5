"""Series of nights: one metric of one build on one device, and the canary of a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qpipe.storage.nights import NightStore
from qpipe.storage.rows import MeasurementRow


@dataclass(frozen=True)
class SeriesKey:
    """What is measured every night, and where."""

    model: str
    scheme: str
    build: str
    device: str
    metric: str

    @property
    def subject(self) -> str:
        """The row that it belongs to."""
        return f"{self.model}/{self.scheme}/{self.build}@{self.device}"


@dataclass(frozen=True)
class Point:
    """One night of a series."""

    night: str
    row: MeasurementRow
    problem: str = ""  # why it does not count

    @property
    def value(self) -> float:
        """The number of that night."""
        return self.row["value"]


@dataclass
class Series:
    """The nights of a series, oldest first."""

    key: SeriesKey
    points: list[Point] = field(default_factory=list)

    @property
    def newest(self) -> Point:
        """The newest night, whether it counts or not."""
        return self.points[-1]

    def comparable(self, since: str = "") -> list[Point]:
        """Return the nights that count and were measured as the newest one, from a night on."""
        newest = self.newest.row
        return [
            point
            for point in self.points
            if not point.problem and point.night >= since and _is_like(point.row, newest)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qpipe trend --json` prints it."""
        return {
            "model": self.key.model,
            "scheme": self.key.scheme,
            "build": self.key.build,
            "device": self.key.device,
            "metric": self.key.metric,
            "unit": self.newest.row["unit"],
            "nights": [
                {
                    "night": point.night,
                    "value": point.value,
                    "low": point.row["low"],
                    "high": point.row["high"],
                    "problem": point.problem or None,
                    "run": point.row["run"],
                }
                for point in self.points
            ],
        }


def read_series(
    store: NightStore, lab: str, nights: Sequence[str], metrics: Iterable[str] | None = None
) -> list[Series]:
    """Return the series that these nights of a lab have, in the order of their newest rows.

    A night does not count where all its rounds were disturbed, or where the canary had moved.
    """
    moved = {
        (row["night"], row["device"]): row["problem"] or "the canary moved"
        for row in store.canaries(lab)
        if row["moved"]
    }
    chosen_metrics = None if metrics is None else list(metrics)
    series: dict[SeriesKey, Series] = {}
    for row in store.night_measurements(lab, nights, chosen_metrics):
        night = row["night"]
        key = SeriesKey(row["model"], row["scheme"], row["build"], row["device"], row["metric"])
        problem = row["detail"].get("doubt") or ""
        if not problem and _depends_on_board(row):
            problem = moved.get((night, row["device"]), "")
        series.setdefault(key, Series(key)).points.append(Point(night, row, problem))
    return list(series.values())


def _depends_on_board(row: MeasurementRow) -> bool:
    """Return whether a number was timed, so that it moves with the board."""
    return row["raw"] == "rounds"


def _is_like(row: MeasurementRow, newest: MeasurementRow) -> bool:
    """Return whether two numbers were measured in the same way on the same samples."""
    if row["metric_digest"] != newest["metric_digest"]:
        return False
    return _depends_on_board(row) or row["evaluation_digest"] == newest["evaluation_digest"]

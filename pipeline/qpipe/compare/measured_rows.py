"""The rows of a run, one for each deployed build, with their measurements and raw values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qpipe.storage.results import Store
from qpipe.storage.rows import COORDINATES, MeasurementRow, StepRow, Verdict
from qpipe.types import Emulation, Measurement

# the values of the four coordinates, then the coordinates of a sweep, by name
RowKey = tuple[tuple[str, str, str, str], tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Candidate:
    """A deployed build and all that was measured of it."""

    model: str
    scheme: str
    build: str
    device: str
    extra: Mapping[str, str]  # the coordinates that a sweep adds
    runtime: str
    is_float: bool
    metrics: Mapping[str, Measurement]
    emulated: Emulation | None = None

    @property
    def name(self) -> str:
        """What the row is called among those of its model and device."""
        swept = [f"{coordinate}={value}" for coordinate, value in sorted(self.extra.items())]
        return "/".join([self.scheme, self.build, *swept])

    @property
    def key(self) -> RowKey:
        """The coordinates as one value."""
        swept = tuple(sorted(self.extra.items()))
        return (self.model, self.scheme, self.build, self.device), swept


def row_key(row: MeasurementRow | Verdict) -> RowKey:
    """Return the coordinates of a row of the store as one value."""
    swept = tuple(sorted(row["extra"].items()))
    return (row["model"], row["scheme"], row["build"], row["device"]), swept


def candidates(store: Store, run: str) -> list[Candidate]:
    """Return the rows of a run in the order of its deploy steps, which is that of the recipe."""
    positions = _deploy_positions(store.steps(run))
    unplanned = len(positions)
    measured = sorted(
        store.measurements(run), key=lambda row: positions.get(row_key(row)[0], unplanned)
    )
    rows_of_build: dict[RowKey, list[MeasurementRow]] = {}
    for row in measured:
        rows_of_build.setdefault(row_key(row), []).append(row)
    return [_candidate(rows, store) for rows in rows_of_build.values()]


def _deploy_positions(steps: Sequence[StepRow]) -> dict[tuple[str | None, ...], int]:
    """Return the position of each deployed build in the plan, by its coordinates."""
    deploy_steps = [step for step in steps if step["kind"] == "deploy"]
    return {
        tuple(step[name] for name in COORDINATES): position
        for position, step in enumerate(deploy_steps)
    }


def _candidate(rows: Sequence[MeasurementRow], store: Store) -> Candidate:
    first = rows[0]
    return Candidate(
        model=first["model"],
        scheme=first["scheme"],
        build=first["build"],
        device=first["device"],
        extra=first["extra"],
        runtime=first["runtime"] or "",
        is_float=first["is_float"],
        metrics={row["metric"]: read_measurement(row, store) for row in rows},
        emulated=first["emulated"],
    )


def read_measurement(row: MeasurementRow, store: Store) -> Measurement:
    """Return a measurement as it was recorded, with its raw values, from its row in the store."""
    return Measurement(
        metric=row["metric"],
        value=row["value"],
        unit=row["unit"],
        low=row["low"],
        high=row["high"],
        n=row["n"],
        better=row["better"],
        raw=row["raw"],
        rounds=store.values(row["id"]),
        conditions=store.rounds(row["id"]),
        detail=row["detail"],
    )

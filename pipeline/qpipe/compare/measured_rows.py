"""What a run measured, a row for each deployed build, as comparing needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from qpipe.storage.results import COORDINATES, Store
from qpipe.types import Emulation, Measurement

RowLike = TypeVar("RowLike")
Place = tuple[str, str]  # model, device


@dataclass(frozen=True)
class Candidate:
    """A deployed build and all that was measured of it."""

    model: str
    scheme: str
    build: str
    device: str
    extra: Mapping[str, str]  # the coordinates a sweep added
    runtime: str
    is_float: bool
    metrics: Mapping[str, Measurement]
    emulated: Emulation | None = None

    @property
    def name(self) -> str:
        return "/".join(
            [
                self.scheme,
                self.build,
                *(f"{key}={value}" for key, value in sorted(self.extra.items())),
            ]
        )


def grouped(
    rows: Iterable[RowLike], place: Callable[[RowLike], Place]
) -> dict[Place, list[RowLike]]:
    """Rows that compete with each other: those of one model on one device, in the order of these."""
    found: dict[Place, list[RowLike]] = {}
    for row in rows:
        found.setdefault(place(row), []).append(row)
    return dict(sorted(found.items()))


def candidates(store: Store, run: str) -> list[Candidate]:
    """All rows of a run with their raw values, in the order of its steps, which is the recipe's."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    planned = [
        tuple(step[name] for name in COORDINATES)
        for step in store.steps(run)
        if step["kind"] == "deploy"
    ]
    place = {coordinates: number for number, coordinates in enumerate(planned)}
    measured = store.measurements(run)
    for row in sorted(
        measured, key=lambda row: place.get(tuple(row[name] for name in COORDINATES), len(place))
    ):
        found.setdefault(
            (*(row[name] for name in COORDINATES), *sorted(row["extra"].items())), []
        ).append(row)
    return [
        Candidate(
            **{name: rows[0][name] for name in COORDINATES},
            extra=rows[0]["extra"],
            runtime=rows[0]["runtime"] or "",
            is_float=bool(rows[0]["is_float"]),
            metrics={row["metric"]: measurement(row, store) for row in rows},
            emulated=rows[0]["emulated"],
        )
        for rows in found.values()
    ]


def measurement(row: Mapping[str, Any], store: Store) -> Measurement:
    """A measurement as it was, from its row in the store."""
    names = ("metric", "value", "unit", "low", "high", "n", "better", "raw")
    fields: dict[str, Any] = {name: row[name] for name in names}
    rounds = store.values(row["id"])
    conditions = store.rounds(row["id"])
    return Measurement(**fields, rounds=rounds, conditions=conditions, detail=row["detail"] or {})

"""The rows that `qpipe pareto --json` and `qpipe compare --json` print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import (
    Any,
    Literal,
    NotRequired,  # pydantic reads no other before Python 3.12
    TypeVar,
)

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from qpipe.storage.rows import RawValues
from qpipe.types import Emulation

DESCRIBED = ConfigDict(use_attribute_docstrings=True)  # fields, in a JSON Schema
AnyRow = TypeVar("AnyRow")
Place = tuple[str, str]  # model, device: the rows of one place compete with each other


@with_config(DESCRIBED)
class MetricValue(TypedDict):
    """A measured number of a row."""

    value: float
    unit: str
    low: float | None
    high: float | None
    n: int
    raw: NotRequired[RawValues]
    """Of a score: what its raw values are of."""
    single: NotRequired[bool]
    """Measured only once, so that its interval is not known."""
    detail: NotRequired[Mapping[str, Any]]
    """What is behind the number."""


@with_config(DESCRIBED)
class ParetoRow(TypedDict):
    """A deployed build, its metrics and verdict; the coordinates of a sweep are further keys."""

    recipe: str
    run: str
    model: str
    scheme: str
    build: str
    runtime: str
    device: str
    emulated: Emulation | None
    name: str
    """The shortest that is unique at its place."""
    is_float: bool
    on_front: bool
    reason: str
    """Why it is not on the front."""
    ties: list[str]
    notes: dict[str, str]
    metrics: dict[str, MetricValue]


Comparison = Literal["better", "worse", "tied", "not comparable", "new", "missing"]


@with_config(DESCRIBED)
class ComparedValue(TypedDict):
    """A number of one of the two runs."""

    value: float
    low: float | None
    high: float | None
    n: int


@with_config(DESCRIBED)
class Ratio(TypedDict):
    """After / before, with its interval."""

    value: float
    low: float
    high: float


@with_config(DESCRIBED)
class ComparedRow(TypedDict):
    """A metric of a row in two runs; the coordinates of a sweep are further keys."""

    model: str
    scheme: str
    build: str
    device: str
    metric: str
    before: ComparedValue | None
    after: ComparedValue | None
    unit: str
    emulated: Emulation | None
    differs: list[str]
    """What was not the same in both runs, so that they are not comparable."""
    doubt: str
    """Why one of the numbers is not to be trusted."""
    difference: list[float] | None
    """The interval of after - before."""
    ratio: Ratio | None
    verdict: Comparison


def group_by_place(
    rows: Iterable[AnyRow], place_of: Callable[[AnyRow], Place]
) -> dict[Place, list[AnyRow]]:
    """Return the rows of each place, sorted by model and device."""
    groups: dict[Place, list[AnyRow]] = {}
    for row in rows:
        groups.setdefault(place_of(row), []).append(row)
    return dict(sorted(groups.items()))


def groups(rows: Iterable[ParetoRow]) -> dict[Place, list[ParetoRow]]:
    """Return the rows of each model and device."""
    return group_by_place(rows, lambda row: (row["model"], row["device"]))


def doubt_of(measured: MetricValue) -> str:
    """Return why a number is not to be trusted; empty where it is."""
    return str(measured.get("detail", {}).get("doubt") or "")

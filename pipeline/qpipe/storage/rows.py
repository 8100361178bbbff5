"""The rows of the store: their types, which columns hold JSON, and the ids of measurements."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from qpipe.digests import digest_json
from qpipe.errors import QpipeError
from qpipe.types import Capabilities, Emulation, Measurement

Row = dict[str, Any]  # a row of any table: values by column

Coordinate = Literal["model", "scheme", "build", "device"]
# what a sweep adds to them is stored in the column `extra`, as JSON
COORDINATES: tuple[Coordinate, ...] = get_args(Coordinate)

RunState = Literal["running", "done", "partial", "failed", "interrupted"]
StepState = Literal["pending", "running", "done", "cached", "failed", "skipped"]
AttemptState = Literal["running", "done", "cached", "failed", "skipped", "interrupted"]
Goal = Literal["min", "max"]
RawValues = Literal["rounds", "samples", "resamples"]

FindingKind = Literal["change", "board", "device", "failure"]
FindingState = Literal["new", "sustained", "recovered", "flaky"]
FindingStatus = Literal["open", "acknowledged", "closed"]

JSON_COLUMNS = frozenset(
    {
        "versions",
        "request",
        "key_fields",
        "capabilities",
        "curve",
        "target",
        "extra",
        "objectives",
        "margins",
        "detail",
        "environment",
        "ties",
        "notes",
        "missed",
        "beside",
        "parameters",
        "chain",
        "metrics",
    }
)
# JSON objects that keep their order: that in which the recipe names its objectives
ORDERED_COLUMNS = frozenset({"objectives", "margins"})
BOOLEAN_COLUMNS = frozenset({"is_float", "on_front", "moved", "is_regression"})


class RunRow(TypedDict):
    """A run: one execution of a recipe."""

    id: str
    recipe: str
    recipe_path: str
    recipe_digest: str  # of the expanded recipe and its devices
    recipe_text: str
    request: dict[str, Any]  # the options of the command that started or continued it
    objectives: dict[str, Goal]
    started: str
    finished: str | None
    state: RunState
    versions: dict[str, str]
    host: str
    margins: dict[str, float]


class StepRow(TypedDict):
    """A step of a run."""

    run: str
    step: str
    kind: str
    stage: str
    state: StepState
    key: str
    key_fields: dict[str, Any]  # what the key is the digest of
    seconds: float | None
    started: str | None
    finished: str | None
    device: str | None
    model: str | None
    scheme: str | None
    build: str | None
    error: str | None
    failure: str | None
    attempts: int | None


class AttemptRow(TypedDict):
    """One attempt at a step."""

    run: str
    step: str
    attempt: int  # from 1
    state: AttemptState
    failure: str | None
    error: str | None
    started: str | None
    finished: str | None


class TrainingRow(TypedDict):
    """How training went in a step: its own steps, losses and scores in dB."""

    step: str
    model: str | None
    scheme: str | None
    curve: list[tuple[int, float | None, float]]


class MeasurementFacts(TypedDict, total=False):
    """What a measurement depends on, besides its coordinates."""

    step: str | None
    attempt: int | None  # None where the measurement came from the cache
    runtime: str
    is_float: bool
    model_digest: str | None
    build_digest: str | None
    evaluation_digest: str | None
    metric_digest: str | None
    target: dict[str, Any] | None
    fingerprint: str
    emulated: Emulation | None


class MeasurementRow(TypedDict):
    """A measurement: one metric of one deployed build."""

    id: str
    run: str
    model: str
    scheme: str
    build: str
    device: str
    extra: dict[str, str]  # the coordinates that a sweep adds
    runtime: str | None
    metric: str
    value: float
    unit: str
    low: float | None
    high: float | None
    n: int
    better: Goal
    raw: RawValues
    is_float: bool
    model_digest: str | None
    build_digest: str | None
    evaluation_digest: str | None
    metric_digest: str | None
    target: dict[str, Any] | None
    fingerprint: str | None
    measured_at: str
    step: str | None
    detail: dict[str, Any]
    attempt: int | None
    emulated: Emulation | None


class RoundRow(TypedDict):
    """A round of a measurement."""

    measurement: str
    round: int  # from 0
    invalid: str | None  # why it does not count; None where it does
    environment: dict[str, Any]  # of the device, before and after the round


class Verdict(TypedDict):
    """Whether a row is on the Pareto front of its model and device, why not, and notes on it."""

    model: str
    scheme: str
    build: str
    device: str
    extra: dict[str, str]
    on_front: bool
    reason: str  # why it is not on the front
    objectives: dict[str, Goal]  # those that were measured there
    margins: dict[str, float]  # for each objective, as a part of the value
    ties: list[str]  # rows of the front that it is tied with
    notes: dict[str, str]  # by topic


class VerdictRow(Verdict):
    """A verdict as it is stored."""

    run: str
    judged_on: str  # digest of what the run had when it was judged; empty where that is unknown


class DeviceRow(TypedDict):
    """A device at its last check."""

    name: str
    kind: str
    capabilities: Capabilities
    fingerprint: str
    checked: str


class EventRow(TypedDict):
    """Something that happened to a device."""

    id: int
    device: str
    at: str
    event: str  # health, power, ...
    was: str | None
    now: str
    why: str
    during: str | None  # a run
    step: str | None


class HealthRow(TypedDict):
    """The health of a device."""

    device: str
    health: Literal["good", "unknown", "bad"]
    since: str
    why: str
    during: str | None
    step: str | None


class LeaseRow(TypedDict):
    """A time in which a run had a device to itself."""

    id: int
    run: str
    device: str
    step: str  # the newest one
    since: str
    until: str | None  # None while the run has it, or where the run was killed


class NightRow(TypedDict):
    """A night of a lab."""

    lab: str
    night: str
    started: str
    finished: str | None
    missed: list[str]  # what was not done, and why


class NightRunRow(TypedDict):
    """The run of a recipe in a night."""

    lab: str
    night: str
    recipe: str
    run: str


class NightMeasurementRow(MeasurementRow):
    """A measurement, and the night that it was made in."""

    night: str


class CanaryRow(TypedDict):
    """What the canary measured on a device in a night."""

    lab: str
    night: str
    device: str
    value: float | None  # ms
    problem: str | None  # why it does not count
    moved: bool
    environment: dict[str, Any]  # of its first round


class FindingColumns(TypedDict, total=False):
    """What is found in a night, as columns of `findings`."""

    kind: FindingKind
    subject: str
    metric: str
    device: str
    state: FindingState
    status: FindingStatus
    is_regression: bool
    start: str
    reported: str
    newest: str
    before: float | None
    after: float | None
    unit: str
    text: str
    evidence: str
    beside: list[str]
    command: str
    note: str


class FindingRow(FindingColumns):
    """A finding of a lab, as it is now: it has all columns."""

    id: int
    lab: str


class TrialRow(TypedDict):
    """A scheme that a search has tried."""

    search: str
    number: int
    scheme: str
    parameters: dict[str, Any]
    chain: list[Any]
    metrics: dict[str, float] | None  # None where it failed
    run: str


class TagRow(TypedDict):
    """A tag of a run."""

    run: str
    tag: str


def is_smoke_run(run: RunRow) -> bool:
    """Whether it was a run on a handful of samples, whose numbers do not count."""
    return bool((run["request"] or {}).get("smoke"))


def encode(row: Mapping[str, object]) -> Row:
    """Return a row with its JSON columns as text."""
    return {column: _encode_value(column, value) for column, value in row.items()}


def _encode_value(column: str, value: object) -> object:
    if column in JSON_COLUMNS and value is not None:
        return json.dumps(value, sort_keys=column not in ORDERED_COLUMNS)
    return value


def decode(row: Row) -> Row:
    """Return a row of SQLite with its JSON and boolean columns as Python values."""
    return {column: _decode_value(column, value) for column, value in row.items()}


def _decode_value(column: str, value: Any) -> Any:
    if value is None:
        return None
    if column in JSON_COLUMNS:
        return json.loads(value)
    if column in BOOLEAN_COLUMNS:
        return bool(value)
    return value


def coordinate_columns(coordinates: Mapping[str, str]) -> Row:
    """Return coordinates as columns: the four, and those of a sweep as `extra`."""
    columns: Row = {name: coordinates[name] for name in COORDINATES}
    extra = {name: value for name, value in coordinates.items() if name not in COORDINATES}
    return {**columns, "extra": extra}


def measurement_id(place: Row, metric: str) -> str:
    """Return the id of a metric at a place, run and coordinates: the same on every machine."""
    return digest_json([place, metric])[:24]


def measurement_columns(place: Row, measurement: Measurement) -> Row:
    """Return a measurement's own columns.

    Raise QpipeError where a number of it is not finite, or its interval is upside down.
    """
    _check_numbers(place, measurement)
    low = measurement.low
    high = measurement.high
    return {
        "metric": measurement.metric,
        "value": float(measurement.value),
        "unit": measurement.unit,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "n": int(measurement.n),
        "better": measurement.better,
        "raw": measurement.raw,
        "detail": dict(measurement.detail),
    }


def _check_numbers(place: Row, measurement: Measurement) -> None:
    where = "/".join(str(place[name]) for name in COORDINATES)
    raw_values = [value for values in measurement.rounds for value in values]
    if not all(math.isfinite(number) for number in (measurement.value, *raw_values)):
        message = f"{measurement.metric} is not a number; a metric must give a finite number"
        raise QpipeError(f"{where}: {message}", failure="bug")
    low = measurement.low
    high = measurement.high
    if low is not None and high is not None and not low <= high:
        message = f"the interval of {measurement.metric} is {low:g} to {high:g}"
        raise QpipeError(f"{where}: {message}; low must not exceed high", failure="bug")


def value_rows(id_: str, rounds: Sequence[Sequence[float]]) -> list[Row]:
    """Return the raw values of a measurement as rows of the table `values`."""
    return [
        {"measurement": id_, "round": number, "position": position, "value": float(value)}
        for number, values in enumerate(rounds)
        for position, value in enumerate(values)
    ]


def round_rows(id_: str, conditions: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return what is known of each round of a measurement as rows of the table `rounds`."""
    rows = []
    for number, condition in enumerate(conditions):
        environment = condition.get("environment", {})
        rows.append(
            {
                "measurement": id_,
                "round": number,
                "invalid": condition.get("invalid"),
                "environment": environment,
            }
        )
    return rows


def timestamp(time: datetime | None = None) -> str:
    """Return a time, by default now, as the store writes it: UTC, ISO 8601 with microseconds."""
    moment = time or datetime.now(UTC)
    return moment.isoformat(timespec="microseconds")

"""How the store writes what qpipe knows: columns, which of them hold JSON, identities of numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from qpipe.errors import QpipeError
from qpipe.types import Measurement

Row = dict[str, Any]

COORDINATES = (
    "model",
    "scheme",
    "build",
    "device",
)  # what a sweep adds goes into the column `extra`, as JSON
FACTS = (
    "step",
    "attempt",
    "runtime",
    "is_float",
    "model_digest",
    "build_digest",
    "evaluation_digest",
    "metric_digest",
    "target",
    "fingerprint",
    "emulated",
)
JSON = (
    "versions",
    "request",
    "key_fields",
    "capabilities",
    "target",
    "extra",
    "objectives",
    "margins",
    "detail",
    "environment",
    "ties",
    "notes",
)
_ORDERED = ("objectives", "margins")  # the recipe's order says which it names first


def encoded(row: Row) -> Row:
    """A row as SQLite takes it."""
    return {
        key: json.dumps(v, sort_keys=key not in _ORDERED) if key in JSON else v
        for key, v in row.items()
    }


def decoded(row: Row) -> Row:
    """A row of SQLite as it was given."""
    return {
        key: json.loads(value) if key in JSON and value is not None else value
        for key, value in row.items()
    }


def placed(coordinates: Mapping[str, str]) -> Row:
    """Coordinates as columns."""
    extra = {key: value for key, value in coordinates.items() if key not in COORDINATES}
    return {**{name: coordinates[name] for name in COORDINATES}, "extra": extra}


def measurement_id(place: Row, metric: str) -> str:
    """The same for the same coordinates and metric, wherever it was measured."""
    return hashlib.sha256(json.dumps([place, metric], sort_keys=True).encode()).hexdigest()[:24]


def measured(place: Row, measurement: Measurement) -> Row:
    """A measurement's own columns; QpipeError where a number in it is none."""
    numbers = [measurement.value, *(value for round_ in measurement.rounds for value in round_)]
    if not all(math.isfinite(number) for number in numbers):
        where = "/".join(place[name] for name in COORDINATES)
        raise QpipeError(
            f"{where}: {measurement.metric} is not a number; a metric gives a finite one",
            failure="bug",
        )
    row = asdict(measurement)
    kept = {
        name: row[name]
        for name in ("metric", "value", "unit", "low", "high", "n", "better", "raw", "detail")
    }
    return {**kept, "value": float(measurement.value)}


def raw_values(id_: str, measurement: Measurement) -> list[Row]:
    """Its raw values, as rows of `values`."""
    return [
        {"measurement": id_, "round": number, "position": position, "value": float(value)}
        for number, round_ in enumerate(measurement.rounds)
        for position, value in enumerate(round_)
    ]


def conditions(id_: str, measurement: Measurement) -> list[Row]:
    """What is known of each of a measurement's rounds, as rows of `rounds`."""
    told = [(each.get("invalid"), each.get("environment", {})) for each in measurement.conditions]
    return [
        {"measurement": id_, "round": number, "invalid": invalid, "environment": environment}
        for number, (invalid, environment) in enumerate(told)
    ]


def iso(time: datetime | None = None) -> str:
    """A moment as the store writes it; now unless given."""
    return (time or datetime.now(UTC)).isoformat(timespec="microseconds")

"""What a plugin measured, as Python's own numbers and plain JSON; what is neither is its error, and no broken run."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np

from qpipe.errors import PluginError
from qpipe.types import Measurement

LARGEST = 2**63  # SQLite's integers end there


def plain(measurement: Measurement) -> Measurement:
    """The same with numpy's numbers as Python's; PluginError, in one line, for a field that cannot be kept."""
    metric = measurement.metric
    deployed = measurement.deployed
    if not isinstance(metric, str) or not metric.isprintable() or not metric:
        raise _wrong("a measurement", "metric", metric, "the name of a metric")
    where = f"{metric} of {deployed}" if deployed else metric
    try:
        return _plain(measurement, where)
    except PluginError:
        raise
    except Exception as error:  # foreign objects, which may do anything when they are looked at
        what = f"{where}: it cannot be read: {type(error).__name__}: {error}; give finite numbers, and plain JSON"
        raise PluginError(what, failure="bug") from error


def _plain(given: Measurement, where: str) -> Measurement:
    _check_words(given, where)
    return replace(
        given,
        value=_number(given.value, where, "value"),
        low=None if given.low is None else _number(given.low, where, "low"),
        high=None if given.high is None else _number(given.high, where, "high"),
        n=_count(given.n, where),
        rounds=[
            _values(each, where, f"rounds[{i}]")
            for i, each in enumerate(_listed(given.rounds, where, "rounds"))
        ],
        detail=_mapping(given.detail, where, "detail"),
        conditions=[
            _mapping(each, where, f"conditions[{i}]")
            for i, each in enumerate(_listed(given.conditions, where, "conditions"))
        ],
    )


def _check_words(given: Measurement, where: str) -> None:
    for name in ("unit", "deployed"):
        word = getattr(given, name)
        if not isinstance(word, str) or not word.isprintable():
            raise _wrong(where, name, word, "a word")
    hints = get_type_hints(Measurement)
    for name in ("better", "raw"):
        allowed = get_args(hints[name])
        if getattr(given, name) not in allowed:
            raise _wrong(where, name, getattr(given, name), " or ".join(map(repr, allowed)))


def _number(value: Any, where: str, field: str) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(
        value, int | float | np.integer | np.floating | np.bool_
    ) or not math.isfinite(value):
        raise _wrong(where, field, value, "a finite number")
    return float(value)


def _count(value: Any, where: str) -> int:
    found = _number(value, where, "n")
    if not found.is_integer() or not 0 <= found < LARGEST:
        raise _wrong(where, "n", value, "how many values it is of")
    return int(found)


def _values(values: Any, where: str, field: str) -> list[float]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise _wrong(where, field, values, "a list of finite numbers")
    return [float(value) for value in array.tolist()]


def _listed(values: Any, where: str, field: str) -> Sequence[Any]:
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise _wrong(where, field, values, "a list")
    return list(values)


def _mapping(value: Any, where: str, field: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, field, value, "a mapping")
    return {
        _key(key, where, field): _json(own, where, f"{field}[{key!r}]")
        for key, own in value.items()
    }


def _key(key: Any, where: str, field: str) -> str:
    if not isinstance(key, str | int | np.integer):
        raise _wrong(where, f"a name in {field}", key, "text")
    return str(key)


def _json(value: Any, where: str, field: str) -> Any:
    if isinstance(value, np.ndarray) and value.ndim:
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return _mapping(value, where, field)
    if isinstance(value, list | tuple):
        return [_json(each, where, f"{field}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, float | np.floating | np.ndarray):
        return _number(value, where, field)
    raise _wrong(where, field, value, "plain JSON")


def _wrong(where: str, field: str, value: Any, right: str) -> PluginError:
    return PluginError(f"{where}: {field} is {reprlib.repr(value)}; give {right}", failure="bug")

"""Measurements of plugins, checked and converted to Python's own numbers and plain JSON.

Whatever cannot be kept is an error of the plugin, and does not break the run.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np

from qpipe.errors import PluginError
from qpipe.types import Measurement

INTEGER_LIMIT = 2**63  # SQLite's integers are smaller


def plain_measurement(measurement: Measurement) -> Measurement:
    """Return the measurement with numpy's numbers as Python's.

    Raise PluginError, in one line, for a field that cannot be kept.
    """
    metric = measurement.metric
    if not isinstance(metric, str) or not metric.isprintable() or not metric:
        raise _invalid(metric, "a measurement: metric", "the name of a metric")
    where = metric
    if measurement.deployed:
        where = f"{metric} of {measurement.deployed}"
    try:
        return _convert(measurement, where)
    except PluginError:
        raise
    except Exception as error:  # foreign objects may raise anything when they are looked at
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(
            f"{where}: it cannot be read: {reason}; give finite numbers, and plain JSON",
            failure="bug",
        ) from error


def _convert(measurement: Measurement, where: str) -> Measurement:
    _check_texts(measurement, where)
    rounds = []
    for index, values in enumerate(_list(measurement.rounds, f"{where}: rounds")):
        rounds.append(_numbers(values, f"{where}: rounds[{index}]"))
    conditions = []
    for index, condition in enumerate(_list(measurement.conditions, f"{where}: conditions")):
        conditions.append(_mapping(condition, f"{where}: conditions[{index}]"))
    return replace(
        measurement,
        value=_number(measurement.value, f"{where}: value"),
        low=_optional_number(measurement.low, f"{where}: low"),
        high=_optional_number(measurement.high, f"{where}: high"),
        n=_count(measurement.n, f"{where}: n"),
        rounds=rounds,
        detail=_mapping(measurement.detail, f"{where}: detail"),
        conditions=conditions,
    )


def _check_texts(measurement: Measurement, where: str) -> None:
    for name in ("unit", "deployed"):
        text = getattr(measurement, name)
        if not isinstance(text, str) or not text.isprintable():
            raise _invalid(text, f"{where}: {name}", "a word")
    hints = get_type_hints(Measurement)
    for name in ("better", "raw"):
        valid = get_args(hints[name])
        value = getattr(measurement, name)
        if value not in valid:
            raise _invalid(value, f"{where}: {name}", " or ".join(map(repr, valid)))


def _number(value: Any, place: str) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    is_number = isinstance(value, int | float | np.integer | np.floating | np.bool_)
    if not is_number or not math.isfinite(value):
        raise _invalid(value, place, "a finite number")
    return float(value)


def _optional_number(value: Any, place: str) -> float | None:
    if value is None:
        return None
    return _number(value, place)


def _count(value: Any, place: str) -> int:
    number = _number(value, place)
    if not number.is_integer() or not 0 <= number < INTEGER_LIMIT:
        raise _invalid(value, place, "the number of values behind it")
    return int(number)


def _numbers(values: Any, place: str) -> list[float]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise _invalid(values, place, "a list of finite numbers")
    return [float(value) for value in array.tolist()]


def _list(values: Any, place: str) -> list[Any]:
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise _invalid(values, place, "a list")
    return list(values)


def _mapping(mapping: Any, place: str) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):
        raise _invalid(mapping, place, "a mapping")
    converted = {}
    for key, value in mapping.items():
        if not isinstance(key, str | int | np.integer):
            raise _invalid(key, f"{place}: a key", "text")
        converted[str(key)] = _json(value, f"{place}[{key!r}]")
    return converted


def _json(value: Any, place: str) -> Any:
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
        return _mapping(value, place)
    if isinstance(value, list | tuple):
        return [_json(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float | np.floating | np.ndarray):
        return _number(value, place)
    raise _invalid(value, place, "plain JSON")


def _invalid(value: Any, place: str, expected: str) -> PluginError:
    message = f"{place} is {reprlib.repr(value)}; give {expected}"
    return PluginError(message, failure="bug")

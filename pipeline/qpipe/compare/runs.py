"""One run against another: what of each row became better or worse, and what cannot be compared, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from qpipe.compare.device_changes import differing_devices
from qpipe.compare.evidence import MARGINS, Goal, bounds, difference, is_better
from qpipe.compare.intervals import Interval, t_quantile
from qpipe.compare.measured_rows import measurement
from qpipe.storage.results import COORDINATES, Row, Store
from qpipe.types import Measurement

Verdict = Literal["better", "worse", "tied", "not comparable", "new", "missing"]

# digests that must agree, in words; of what is measured with a metric or samples, those too
SAME = {
    "model_digest": "the model",
    "metric_digest": "the metric and its options",
    "fingerprint": "the device or runtime",
}
SCORED = {"evaluation_digest": "the evaluation samples"}


def compared(
    store: Store, before: str, after: str, metrics: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """A row for each metric of each row of either run: both values, their ratio with its interval, the verdict.

    Samples, and resamples of them, are paired where both runs scored the same; times of two runs are of different
    moments, and never are. Not comparable is what is of another model, device, ... (`differs`), or in doubt (`doubt`).
    """
    olds, news = (_by_place(store, run, set(metrics)) for run in (before, after))
    margins = _margins(store, after)
    devices = differing_devices(store, before, after)
    return [
        _line(store, place, olds.get(place), news.get(place), margins, devices)
        for place in dict.fromkeys([*olds, *news])
    ]


def _by_place(store: Store, run: str, metrics: set[str]) -> dict[tuple[Any, ...], Row]:
    rows = store.measurements(run)
    return {
        (
            *(row[name] for name in COORDINATES),
            tuple(sorted(row["extra"].items())),
            row["metric"],
        ): row
        for row in rows
        if not metrics or row["metric"] in metrics
    }


def _margins(store: Store, run: str) -> dict[str, float]:
    return {
        metric: margin
        for verdict in store.verdicts(run)
        for metric, margin in verdict["margins"].items()
    }


def _line(
    store: Store,
    place: Sequence[Any],
    old: Row | None,
    new: Row | None,
    margins: Mapping[str, float],
    devices: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    metric = place[-1]
    line: dict[str, Any] = {
        **dict(zip(COORDINATES, place, strict=False)),
        **dict(place[-2]),
        "metric": metric,
    }
    line |= {"before": _shown(old), "after": _shown(new), "unit": (new or old or {})["unit"]}
    line["emulated"] = (new or old or {})["emulated"]
    line |= {"differs": [], "doubt": _doubt(old, new), "difference": None, "ratio": None}
    if old is None or new is None:
        return {**line, "verdict": "new" if old is None else "missing"}
    differs = [word for name, word in _held(new).items() if old[name] != new[name]]
    was, now = (measurement(row, store) for row in (old, new))
    paired = not differs and now.raw in ("samples", "resamples")
    apart = difference(now, was) if paired else _apart(now, was)
    comparable = not differs and not line["doubt"]
    return {
        **line,
        "verdict": _verdict(was, now, margins.get(metric), paired, apart)
        if comparable
        else "not comparable",
        "differs": [_named(word, devices.get(new["device"], ())) for word in differs],
        "difference": list(apart) if np.isfinite(apart).all() else None,
        "ratio": _ratio(was, now),
    }


def _doubt(old: Row | None, new: Row | None) -> str:
    """Why either number is not to be believed; nothing where both are."""
    told = {
        when: ((row or {}).get("detail") or {}).get("doubt")
        for when, row in (("before", old), ("now", new))
    }
    return "; ".join(f"{when} {why}" for when, why in told.items() if why)


def _named(word: str, fields: Sequence[str]) -> str:
    """What differs, in words, and where it is the device, what of it."""
    return f"{word} ({', '.join(fields)})" if word == SAME["fingerprint"] and fields else word


def _shown(row: Row | None) -> dict[str, Any] | None:
    return {key: row[key] for key in ("value", "low", "high", "n")} if row else None


def _held(row: Row) -> dict[str, str]:
    """What must be the same of both for a number to be compared: the samples too where it is of samples."""
    return {**SAME, **(SCORED if row["raw"] in ("samples", "resamples") else {})}


def _spread(measured: Measurement) -> float:
    """Its standard error, as its interval has it."""
    low, high = bounds(measured)
    return (high - low) / 2 / t_quantile(max(1, measured.n - 1))


def _apart(now: Measurement, was: Measurement) -> Interval:
    """The interval of the difference of two independent numbers, by the spread that the interval of each tells and the
    fewer rounds of the two (never narrower than Welch's)."""
    half = t_quantile(max(1, min(now.n, was.n) - 1)) * float(np.hypot(_spread(now), _spread(was)))
    return now.value - was.value - half, now.value - was.value + half


def _verdict(
    was: Measurement, now: Measurement, margin: float | None, paired: bool, apart: Interval
) -> Verdict:
    goal: Goal = now.better
    if paired:
        return (
            "better"
            if is_better(now, was, goal, margin)
            else "worse"
            if is_better(was, now, goal, margin)
            else "tied"
        )
    margin = MARGINS[goal] if margin is None else margin
    if apart[0] <= 0 <= apart[1] or abs(now.value - was.value) <= margin * abs(was.value):
        return "tied"
    return "better" if (now.value > was.value) == (goal == "max") else "worse"


def _ratio(was: Measurement, now: Measurement) -> dict[str, float] | None:
    """now / was, with its interval on the logarithm; None where one is not positive, or was taken but once."""
    ends = (*bounds(was), *bounds(now))
    if min(ends) <= 0 or not np.isfinite(ends).all():
        return None
    value = now.value / was.value
    if max(ends[1] - ends[0], ends[3] - ends[2]) == 0:
        return {"value": value, "low": value, "high": value}
    spreads = [
        np.log(high / low) / 2 / t_quantile(max(1, each.n - 1))
        for each, (low, high) in ((was, ends[:2]), (now, ends[2:]))
    ]
    factor = float(np.exp(t_quantile(max(1, min(was.n, now.n) - 1)) * np.hypot(*spreads)))
    return {"value": value, "low": value / factor, "high": value * factor}

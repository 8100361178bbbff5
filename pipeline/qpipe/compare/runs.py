"""One run against another: which numbers became better or worse, which cannot be compared, why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

import numpy as np

from qpipe.compare.device_changes import differing_devices
from qpipe.compare.evidence import MARGINS, bounds, difference, is_better
from qpipe.compare.intervals import Interval, t_quantile
from qpipe.compare.json_rows import ComparedRow, ComparedValue, Comparison, Ratio
from qpipe.compare.measured_rows import RowKey, read_measurement, row_key
from qpipe.storage.results import Store
from qpipe.storage.rows import MeasurementRow, is_smoke_run
from qpipe.types import Measurement

Digest = Literal["model_digest", "metric_digest", "fingerprint", "evaluation_digest"]

# what must be the same in both runs, in words
COMPARED_DIGESTS: Mapping[Digest, str] = {
    "model_digest": "the model",
    "metric_digest": "the metric and its options",
    "fingerprint": "the device or runtime",
}
# and of what is measured on samples, these, too
DIGESTS_OF_SCORES: Mapping[Digest, str] = {"evaluation_digest": "the evaluation samples"}


@dataclass(frozen=True)
class _Comparison:
    """What rows of two runs are compared with."""

    store: Store
    margins: Mapping[str, float]  # by metric, of the later run
    changed_devices: Mapping[str, Sequence[str]]  # device -> what differs in its report
    smoke_runs: int = 0  # how many of the two are smoke runs, whose numbers do not count


class _ComparedNumbers(TypedDict):
    """The part of a ComparedRow that compares its numbers."""

    difference: list[float] | None
    ratio: Ratio | None
    verdict: Comparison


def compared(
    store: Store, before: str, after: str, metrics: Iterable[str] = ()
) -> list[ComparedRow]:
    """Return a row for each metric of each row of either run: values, ratio, verdict.

    Samples, and resamples of them, are paired where both runs scored the same ones. Times of two
    runs are of different moments and never paired. Not comparable is what was measured on another
    model, device, ... (`differs`), or is in doubt (`doubt`).
    """
    old_rows = _rows_by_key(store, before, set(metrics))
    new_rows = _rows_by_key(store, after, set(metrics))
    comparison = _Comparison(
        store,
        _margins(store, after),
        differing_devices(store, before, after),
        sum(is_smoke_run(store.run(run)) for run in (before, after)),
    )
    keys = dict.fromkeys([*old_rows, *new_rows])
    return [_compare(old_rows.get(key), new_rows.get(key), comparison) for key in keys]


def paired_change(
    store: Store, old: MeasurementRow, new: MeasurementRow
) -> tuple[Interval, Comparison]:
    """Return the interval of new - old over the same samples, and whether it is better or worse.

    Whatever else may have changed, it is what both scored that is paired.
    """
    before = read_measurement(old, store)
    after = read_measurement(new, store)
    return difference(after, before), _paired_verdict(before, after, {})


def _rows_by_key(
    store: Store, run: str, metrics: set[str]
) -> dict[tuple[RowKey, str], MeasurementRow]:
    rows = store.measurements(run)
    if metrics:
        rows = [row for row in rows if row["metric"] in metrics]
    return {(row_key(row), row["metric"]): row for row in rows}


def _margins(store: Store, run: str) -> dict[str, float]:
    margins: dict[str, float] = {}
    for verdict in store.verdicts(run):
        margins |= verdict["margins"]
    return margins


def _compare(
    old: MeasurementRow | None, new: MeasurementRow | None, comparison: _Comparison
) -> ComparedRow:
    row = _either(old, new)
    doubt = _doubt(old, new)
    differs: list[str] = []
    numbers: _ComparedNumbers
    if old is None:
        numbers = {"difference": None, "ratio": None, "verdict": "new"}
    elif new is None:
        numbers = {"difference": None, "ratio": None, "verdict": "missing"}
    else:
        differs = _differing_digests(old, new, comparison)
        if comparison.smoke_runs == 1:
            differs.append("samples and rounds: one is a smoke run")
        elif comparison.smoke_runs:
            doubt = doubt or "numbers of smoke runs do not count"
        is_comparable = not differs and not doubt
        is_paired = not differs and new["raw"] in ("samples", "resamples")
        numbers = _compare_numbers(
            old, new, comparison, is_comparable=is_comparable, is_paired=is_paired
        )
    fields = {
        "model": row["model"],
        "scheme": row["scheme"],
        "build": row["build"],
        "device": row["device"],
        **dict(sorted(row["extra"].items())),
        "metric": row["metric"],
        "before": _value(old),
        "after": _value(new),
        "unit": row["unit"],
        "emulated": row["emulated"],
        "differs": differs,
        "doubt": doubt,
        **numbers,
    }
    return cast("ComparedRow", fields)  # with the coordinates of a sweep as further keys


def _compare_numbers(
    old: MeasurementRow,
    new: MeasurementRow,
    comparison: _Comparison,
    *,
    is_comparable: bool,
    is_paired: bool,
) -> _ComparedNumbers:
    before = read_measurement(old, comparison.store)
    after = read_measurement(new, comparison.store)
    if is_paired:
        interval = difference(after, before)
        verdict = _paired_verdict(before, after, comparison.margins)
    else:
        interval = _independent_difference(after, before)
        verdict = _independent_verdict(before, after, interval, comparison.margins)
    return {
        "difference": list(interval) if np.isfinite(interval).all() else None,
        "ratio": _ratio(before, after),
        "verdict": verdict if is_comparable else "not comparable",
    }


def _either(old: MeasurementRow | None, new: MeasurementRow | None) -> MeasurementRow:
    row = new or old
    assert row is not None
    return row


def _value(row: MeasurementRow | None) -> ComparedValue | None:
    if row is None:
        return None
    return {"value": row["value"], "low": row["low"], "high": row["high"], "n": row["n"]}


def _doubt(old: MeasurementRow | None, new: MeasurementRow | None) -> str:
    """Return why either number is not to be trusted; empty where both are."""
    doubts = []
    for when, row in (("before", old), ("now", new)):
        doubt = row["detail"].get("doubt") if row else None
        if doubt:
            doubts.append(f"{when} {doubt}")
    return "; ".join(doubts)


def _differing_digests(
    old: MeasurementRow, new: MeasurementRow, comparison: _Comparison
) -> list[str]:
    """Return in words what was not the same, and of a device what of it changed."""
    digests = dict(COMPARED_DIGESTS)
    if new["raw"] in ("samples", "resamples"):
        digests |= DIGESTS_OF_SCORES
    differs = []
    for digest, words in digests.items():
        if old[digest] != new[digest]:
            changes = comparison.changed_devices.get(new["device"])
            if digest == "fingerprint" and changes:
                words += f" ({', '.join(changes)})"
            differs.append(words)
    return differs


# ---- numbers of two runs


def _independent_difference(after: Measurement, before: Measurement) -> Interval:
    """Return the interval of the difference of two independent numbers.

    By the spread of the interval of each, and the fewer rounds of the two: it is never narrower
    than Welch's.
    """
    degrees = max(1, min(after.n, before.n) - 1)
    spread = float(np.hypot(_standard_error(after), _standard_error(before)))
    half = t_quantile(degrees) * spread
    return after.value - before.value - half, after.value - before.value + half


def _standard_error(measured: Measurement) -> float:
    """Return the standard error that the interval of a number implies."""
    low, high = bounds(measured)
    return (high - low) / 2 / t_quantile(max(1, measured.n - 1))


def _paired_verdict(
    before: Measurement, after: Measurement, margins: Mapping[str, float]
) -> Comparison:
    margin = margins.get(after.metric)
    if is_better(after, before, after.better, margin):
        return "better"
    if is_better(before, after, after.better, margin):
        return "worse"
    return "tied"


def _independent_verdict(
    before: Measurement, after: Measurement, interval: Interval, margins: Mapping[str, float]
) -> Comparison:
    margin = margins.get(after.metric, MARGINS[after.better])
    low, high = interval
    change = after.value - before.value
    if low <= 0 <= high or abs(change) <= margin * abs(before.value):
        return "tied"
    is_rise = after.value > before.value
    is_improvement = is_rise == (after.better == "max")
    return "better" if is_improvement else "worse"


def _ratio(before: Measurement, after: Measurement) -> Ratio | None:
    """Return after / before, with its interval on the logarithm.

    None where one is not positive, or was measured only once.
    """
    before_low, before_high = bounds(before)
    after_low, after_high = bounds(after)
    ends = (before_low, before_high, after_low, after_high)
    if min(ends) <= 0 or not np.isfinite(ends).all():
        return None
    value = after.value / before.value
    if before_low == before_high and after_low == after_high:
        return {"value": value, "low": value, "high": value}
    degrees = max(1, min(before.n, after.n) - 1)
    spread = np.hypot(_logarithmic_standard_error(before), _logarithmic_standard_error(after))
    factor = float(np.exp(t_quantile(degrees) * spread))
    return {"value": value, "low": value / factor, "high": value * factor}


def _logarithmic_standard_error(measured: Measurement) -> float:
    low, high = bounds(measured)
    return float(np.log(high / low) / 2 / t_quantile(max(1, measured.n - 1)))

"""Latency under a load of minutes, when a device has warmed up, beside that of a short burst."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import qpipe
from qpipe_plugins.measure.timing_metrics import doubt

SETTLED_PART = 3  # the last third of the curve
# how the agent's reasons against a round begin where a sustained load is itself the cause
EFFECTS_OF_LOAD = ("throttled", "clocks changed: limit")


def sustained_latency(load: qpipe.Round, burst_ms: float) -> qpipe.Measurement:
    """Return the median of the last third of a load; its raw values are one median a second.

    `burst_ms` is the median of short rounds. A device that slows down under the load is not
    disturbed; one that other processes slow down is.
    """
    reasons = load.invalid.split("; ") if load.invalid else []
    disturbances = [reason for reason in reasons if not reason.startswith(EFFECTS_OF_LOAD)]
    disturbance = "; ".join(disturbances) or None
    ends, medians, inferences = zip(*load.sustained, strict=True)
    settled_count = max(1, len(medians) // SETTLED_PART)
    settled: Sequence[float] = medians[-settled_count:]
    value = statistics.median(settled)
    detail = {
        "ends_s": ends,
        "inferences": inferences,
        "burst_ms": burst_ms,
        "slower": value / burst_ms,
        **doubt([disturbance]),
    }
    return qpipe.Measurement(
        "sustained_ms",
        value,
        "ms",
        n=settled_count,
        rounds=[list(medians)],
        detail=detail,
        conditions=[{"invalid": disturbance, "environment": load.environment}],
    )

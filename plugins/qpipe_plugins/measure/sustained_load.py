"""Latency under a load that goes on for minutes, when a device has warmed up: told apart from that of a short burst."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import qpipe
from qpipe_plugins.measure.timing_metrics import doubt

SETTLED = 3  # the last third of the curve is what it comes to
# how the agent's reasons for not believing a round begin, where a load that goes on is itself the cause
HEAT = ("throttled", "clocks changed: limit")


def sustained(taken: qpipe.Round, burst_ms: float) -> qpipe.Measurement:
    """The median of the last third of a load's seconds; its curve as raw values, one median a second.

    `burst_ms` is the median of rounds that were short. A device that slows down meanwhile is no disturbance here; what
    others do to it is.
    """
    reasons = taken.invalid.split("; ") if taken.invalid else []
    reason = "; ".join(each for each in reasons if not each.startswith(HEAT)) or None
    ends, medians, inferences = zip(*taken.sustained, strict=True)
    settled: Sequence[float] = medians[-max(1, len(medians) // SETTLED) :]
    value = statistics.median(settled)
    burst = {"burst_ms": burst_ms, "slower": value / burst_ms}
    detail = {"ends_s": ends, "inferences": inferences, **burst, **doubt([reason])}
    return qpipe.Measurement(
        "sustained_ms",
        value,
        "ms",
        n=len(settled),
        rounds=[list(medians)],
        detail=detail,
        conditions=[{"invalid": reason, "environment": taken.environment}],
    )

"""Latency under a load that goes on for minutes, when a device has warmed up: told apart from that of a short burst."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import qpipe

SETTLED = 3  # the last third of the curve is what it comes to


def sustained(taken: qpipe.Round, burst_ms: float) -> qpipe.Measurement:
    """The median of the last third of a load's seconds; its curve as raw values, one median a second.

    `burst_ms` is the median of rounds that were short. A device that slows down meanwhile is no disturbance here.
    """
    ends, medians, inferences = zip(*taken.sustained, strict=True)
    settled: Sequence[float] = medians[-max(1, len(medians) // SETTLED) :]
    value = statistics.median(settled)
    detail = {"ends_s": ends, "inferences": inferences, "burst_ms": burst_ms, "slower": value / burst_ms}
    return qpipe.Measurement(
        "sustained_ms", value, "ms", n=len(settled), rounds=[list(medians)], detail=detail,
        conditions=[{"invalid": None, "environment": taken.environment}],
    )  # fmt: skip

"""What a build needs of the device's memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import qpipe
from qpipe.amounts import Count
from qpipe_plugins.measure.rounds import interval


def memory(
    deployed: qpipe.Deployed,
    device: qpipe.Device,
    device_samples: qpipe.Stored,
    progress: qpipe.Progress,
    *,
    rounds: Count = 3,
    values: Count = 5,
) -> list[qpipe.Measurement]:
    """Peak resident memory of a process that runs the build, and how much of it is not the bare runtime's.

    Medians over `rounds` fresh processes of `values` inferences, in MB (10^6 bytes). The peak is the kernel's (VmHWM).
    """
    peaks, above = [], []
    for index in range(rounds):
        taken = device.round(deployed.stored, device_samples, warmup_s=0, values=values, budget_s=10)
        peaks.append(taken.peak_mb)
        above.append(taken.peak_mb - taken.runtime_mb)
        progress(index + 1, rounds, "rounds")
    return [
        _measurement("memory_mb", peaks, deployed.name),
        _measurement("memory_above_runtime_mb", above, deployed.name),
    ]


def _measurement(metric: str, values: Sequence[float], deployed: str) -> qpipe.Measurement:
    median = statistics.median(values)
    low, high = interval(median, values) or (None, None)
    rounds = [[value] for value in values]
    return qpipe.Measurement(metric, median, "MB", low, high, len(values), deployed=deployed, rounds=rounds)

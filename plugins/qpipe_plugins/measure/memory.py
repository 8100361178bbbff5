"""What a build needs of the device's memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import qpipe
from qpipe.stages.bounds import Count, Threads
from qpipe_plugins.measure.round_journal import interval
from qpipe_plugins.measure.round_options import round_options

METRICS = ("memory_mb", "memory_above_runtime_mb", "memory_load_mb", "memory_run_mb")


def memory(
    deployed: qpipe.Deployed,
    device: qpipe.Device,
    device_samples: qpipe.Stored,
    progress: qpipe.Progress,
    *,
    rounds: Count = 3,
    values: Count = 5,
    threads: Threads | None = None,
    batch: Count = 1,
) -> list[qpipe.Measurement]:
    """Peak resident memory of a process that runs the build, of loading it and of running it told apart.

    memory_mb is the whole peak, memory_above_runtime_mb what of it is not the bare runtime's; memory_load_mb the peak
    until the model is loaded, memory_run_mb that after it, where runner and kernel tell. Medians over `rounds` fresh
    processes of `values` inferences, in MB (10^6 bytes). The peak is the kernel's (VmHWM). `threads` and `batch` are as
    for latency.
    """
    asked: dict[str, Any] = {"warmup_s": 0, "values": values, "budget_s": 10}
    asked["options"] = round_options(threads, batch)
    taken = []
    for index in range(rounds):
        taken.append(device.round(deployed.stored, device_samples, **asked))
        progress(index + 1, rounds, "rounds")
    found = {
        "memory_mb": [each.peak_mb for each in taken],
        "memory_above_runtime_mb": [each.peak_mb - each.runtime_mb for each in taken],
        "memory_load_mb": [each.load_peak_mb for each in taken if each.load_peak_mb is not None],
        "memory_run_mb": [each.run_peak_mb for each in taken if each.run_peak_mb is not None],
    }
    return [_measurement(metric, peaks, deployed.name) for metric, peaks in found.items() if peaks]


def _measurement(metric: str, values: Sequence[float], deployed: str) -> qpipe.Measurement:
    median = statistics.median(values)
    low, high = interval(median, values) or (None, None)
    rounds = [[value] for value in values]
    return qpipe.Measurement(
        metric, median, "MB", low, high, len(values), deployed=deployed, rounds=rounds
    )

"""Memory of a process that runs a build."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import qpipe
from qpipe.stages.bounds import Count, Threads
from qpipe_plugins.measure.round_journal import interval
from qpipe_plugins.measure.round_options import round_options

BUDGET_S = 10.0  # seconds of timed inferences at most
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
    """Measure peak resident memory of a process that runs the build, for loading and running apart.

    memory_mb is the whole peak, memory_above_runtime_mb what exceeds the bare runtime;
    memory_load_mb is the peak until the model is loaded, memory_run_mb the peak after it, where
    runner and kernel tell them apart. Medians over `rounds` fresh processes of `values` inferences,
    in MB (10^6 bytes). The peak is the kernel's (VmHWM). `threads` and `batch` are as for latency.
    """
    options = round_options(threads=threads, batch=batch)
    results: list[qpipe.Round] = []
    for index in range(rounds):
        result = device.round(
            deployed.stored,
            device_samples,
            warmup_s=0,
            values=values,
            budget_s=BUDGET_S,
            options=options,
        )
        results.append(result)
        progress(index + 1, rounds, "rounds")
    load_peaks = [result.load_peak_mb for result in results]
    run_peaks = [result.run_peak_mb for result in results]
    peaks = {
        "memory_mb": [result.peak_mb for result in results],
        "memory_above_runtime_mb": [result.peak_mb - result.runtime_mb for result in results],
        "memory_load_mb": [peak for peak in load_peaks if peak is not None],
        "memory_run_mb": [peak for peak in run_peaks if peak is not None],
    }
    return [
        _measurement(metric, values_mb, deployed.name)
        for metric, values_mb in peaks.items()
        if values_mb
    ]


def _measurement(metric: str, values: Sequence[float], deployed: str) -> qpipe.Measurement:
    median = statistics.median(values)
    low, high = interval(median, values) or (None, None)
    rounds = [[value] for value in values]
    return qpipe.Measurement(
        metric, median, "MB", low, high, len(values), deployed=deployed, rounds=rounds
    )

"""How inferences are timed on a device, whatever the runtime: first, warmup, values; and what memory they took."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Mapping  # noqa: UP035  (Python 3.8 on the board)

STEADY = 0.05  # warmup ends when the medians of two windows differ by less
PATIENCE = 4  # or after so many times the warmup asked for


def take_values(infer: Callable[[], object], wanted: Mapping[str, float]) -> dict[str, Any]:
    """The answer to `time`: the first inference, warmup, then the values, all in this process."""

    def once() -> int:
        start = time.perf_counter_ns()
        infer()
        return time.perf_counter_ns() - start

    gc.collect()
    gc.disable()
    first = once()
    end = time.monotonic() + wanted["budget_s"]
    warmups = warm_up(once, wanted["warmup_s"], wanted["budget_s"] / 2)
    once()  # after the arithmetic of the warmup, caches hold other things
    values = [once()]
    while len(values) < wanted["values"] and time.monotonic() < end:
        values.append(once())
    gc.enable()
    return {"first_ms": first / 1e6, "warmups": warmups, "values_ns": values, "peak_mb": memory_mb("VmHWM")}


def warm_up(once: Callable[[], int], seconds: float, most: float) -> int:
    """Run for at least `seconds`, then until steady, PATIENCE times as long or `most`; how many runs that were.

    Steady: the medians of two windows, each a third of `seconds`, differ by less than STEADY.
    """
    start, count, before = time.monotonic(), 0, 0.0
    while True:
        window, end = [once(), once(), once()], time.monotonic() + seconds / 3
        while time.monotonic() < end:
            window.append(once())
        count, median = count + len(window), statistics.median(window)
        passed = time.monotonic() - start
        is_steady = before > 0 and abs(median / before - 1) < STEADY
        if passed >= min(PATIENCE * seconds, most) or (passed >= seconds and is_steady):
            return count
        before = median


def memory_mb(field: str) -> float:
    """A memory field of this process in MB (10^6 bytes), VmRSS or VmHWM; its peak where the kernel has no /proc."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

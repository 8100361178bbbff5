"""How inferences are timed on a device, for any runtime, and how much memory they take."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

if TYPE_CHECKING:
    from .messages import TimeAnswer

STEADY = 0.05  # warmup ends when the medians of two windows differ by less
FEWEST_IN_WINDOW = 3  # inferences; a window with fewer says nothing
PATIENCE = 4  # warmup ends after so many times its seconds, steady or not
BUCKET_S = 1.0  # of the curve of a sustained load


class _TimeFields(TypedDict):
    values: int
    warmup_s: float
    budget_s: float


class TimeRequest(_TimeFields, total=False):
    """The fields of a `time` request."""

    sustained_s: float


class Warmup(NamedTuple):
    """How many inferences it took, and whether they became steady; None where it was too short."""

    inferences: int
    steady: bool | None


def take_values(infer: Callable[[], object], request: TimeRequest) -> TimeAnswer:
    """Return the answer to `time`: the first inference, warmup, then the values."""

    def time_once() -> int:
        start = time.perf_counter_ns()
        infer()
        return time.perf_counter_ns() - start

    gc.collect()
    gc.disable()
    first_ns = time_once()
    deadline = time.monotonic() + request["budget_s"]
    warmup = warm_up(time_once, seconds=request["warmup_s"], most_s=request["budget_s"] / 2)
    time_once()  # the arithmetic of the warmup has filled the caches with other things
    start = time.monotonic_ns()
    values = [time_once()]
    while len(values) < request["values"] and time.monotonic() < deadline:
        values.append(time_once())
    end = time.monotonic_ns()
    sustained: list[Sequence[float]] = []
    if request.get("sustained_s"):
        sustained = sustain(time_once, request["sustained_s"])
    gc.enable()
    answer: TimeAnswer = {
        "first_ms": first_ns / 1e6,
        "values_ns": values,
        "window_ns": [start, end],
        "warmups": warmup.inferences,
        "steady": warmup.steady,
        "peak_mb": memory_mb("VmHWM"),
    }
    if sustained:
        answer["sustained"] = sustained
    return answer


def warm_up(time_once: Callable[[], int], *, seconds: float, most_s: float) -> Warmup:
    """Run for at least `seconds`, then until the times are steady.

    They are steady when the medians of two windows differ by less than STEADY; a window is a third
    of `seconds` and FEWEST_IN_WINDOW inferences at least. No inference but the first begins after
    PATIENCE times `seconds`, or `most_s` seconds.
    """
    start = time.monotonic()
    deadline = start + min(PATIENCE * seconds, most_s)
    inferences = 0
    previous_median = 0.0
    steady: bool | None = None
    while True:
        window = [time_once()]
        window_end = time.monotonic() + seconds / 3
        while time.monotonic() < deadline and (
            len(window) < FEWEST_IN_WINDOW or time.monotonic() < window_end
        ):
            window.append(time_once())
        inferences += len(window)
        now = time.monotonic()
        if len(window) >= FEWEST_IN_WINDOW and now >= window_end:
            median = statistics.median(window)
            if previous_median:
                steady = abs(median / previous_median - 1) < STEADY
            previous_median = median
        is_done = steady and now - start >= seconds
        if is_done or now >= deadline:
            return Warmup(inferences, steady)


def sustain(time_once: Callable[[], int], seconds: float) -> list[Sequence[float]]:
    """Run without pause for `seconds`; return [end in s, median in ms, inferences] a second."""
    curve: list[Sequence[float]] = []
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        values = [time_once()]
        bucket_end = start + BUCKET_S * (len(curve) + 1)
        while time.monotonic() < bucket_end:
            values.append(time_once())
        end_s = round(time.monotonic() - start, 3)
        curve.append([end_s, statistics.median(values) / 1e6, len(values)])
    return curve


def memory_after_load() -> dict[str, float]:
    """Return what the answer to `load` says of memory, and reset the peak of this process.

    `load_peak_mb` is the peak so far. `loaded_mb`, resident memory now, is there where the system
    lets the peak be reset.
    """
    memory = {"load_peak_mb": memory_mb("VmHWM")}
    if reset_peak():
        memory["loaded_mb"] = memory_mb("VmRSS")
    return memory


def memory_after_run(peak_mb: float, after_load: Mapping[str, float]) -> dict[str, float]:
    """Return what the answer to `time` says of memory.

    `peak_mb` is VmHWM now, `after_load` the result of memory_after_load. The peak of running,
    `run_peak_mb`, is there where it can be told from that of loading.
    """
    load_peak_mb = after_load["load_peak_mb"]
    memory = {"peak_mb": max(peak_mb, load_peak_mb)}
    if "loaded_mb" in after_load or peak_mb > load_peak_mb:
        memory["run_peak_mb"] = peak_mb
    return memory


def memory_mb(field: str) -> float:
    """Return a memory field of this process, VmRSS or VmHWM, in MB of 10^6 bytes.

    Where the kernel has no /proc it is the peak, whichever the field.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6


def reset_peak() -> bool:
    """Reset VmHWM to what is resident now (proc(5), clear_refs); return whether the system did."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True

"""How inferences are timed on a device, whatever the runtime: first, warmup, values; and what memory they took."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Mapping, NamedTuple  # noqa: UP035  (Python 3.8 on the board)

STEADY = 0.05  # warmup ends when the medians of two windows differ by less
WHOLE = 3  # inferences; of fewer in a window nothing is said
PATIENCE = 4  # or after so many times the warmup asked for
BUCKET_S = 1.0  # of a sustained load's curve


class Warmup(NamedTuple):
    """How many inferences it was, and whether they became steady; None where it was too short to tell."""

    inferences: int
    steady: bool | None


def take_values(infer: Callable[[], object], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to `time`: the first inference, warmup, then the values, all in this process."""

    def once() -> int:
        start = time.perf_counter_ns()
        infer()
        return time.perf_counter_ns() - start

    gc.collect()
    gc.disable()
    first = once()
    end = time.monotonic() + wanted["budget_s"]
    warmup = warm_up(once, wanted["warmup_s"], wanted["budget_s"] / 2)
    once()  # after the arithmetic of the warmup, caches hold other things
    began = time.monotonic_ns()
    values = [once()]
    while len(values) < wanted["values"] and time.monotonic() < end:
        values.append(once())
    ended = time.monotonic_ns()
    answer: dict[str, Any] = {
        "first_ms": first / 1e6,
        "values_ns": values,
        "window_ns": [began, ended],
    }
    answer.update(warmups=warmup.inferences, steady=warmup.steady)
    if wanted.get("sustained_s"):
        answer["sustained"] = sustain(once, wanted["sustained_s"])
    gc.enable()
    return {**answer, "peak_mb": memory_mb("VmHWM")}


def warm_up(once: Callable[[], int], seconds: float, most: float) -> Warmup:
    """Run for at least `seconds`, then until steady; no inference but the first begins once PATIENCE times as long, or
    `most` seconds, are over.

    Steady: the medians of two windows, each a third of `seconds` and WHOLE inferences at least, differ by less than
    STEADY.
    """
    start = time.monotonic()
    end = start + min(PATIENCE * seconds, most)
    count = 0
    before = 0.0
    steady: bool | None = None
    while True:
        window = [once()]
        until = time.monotonic() + seconds / 3
        while (len(window) < WHOLE or time.monotonic() < until) and time.monotonic() < end:
            window.append(once())
        count = count + len(window)
        now = time.monotonic()
        if len(window) >= WHOLE and now >= until:
            median = statistics.median(window)
            steady = abs(median / before - 1) < STEADY if before else None
            before = median
        if now >= end or (steady and now - start >= seconds):
            return Warmup(count, steady)


def sustain(once: Callable[[], int], seconds: float) -> List[List[float]]:  # noqa: UP006
    """Run without a pause for so long: for each second the time at its end, its median in ms, how many inferences."""
    curve: list[list[float]] = []
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        values = [once()]
        end = start + BUCKET_S * (len(curve) + 1)
        while time.monotonic() < end:
            values.append(once())
        curve.append(
            [round(time.monotonic() - start, 3), statistics.median(values) / 1e6, len(values)]
        )
    return curve


def after_load() -> dict[str, float]:
    """What the answer to `load` says of memory; VmHWM begins anew, where the system lets it, at what is resident."""
    peak = memory_mb("VmHWM")
    return {"load_peak_mb": peak, **({"loaded_mb": memory_mb("VmRSS")} if forget_peak() else {})}


def peaks(peak_mb: float, loaded: Mapping[str, float]) -> dict[str, float]:
    """What the answer to `time` says of memory, by VmHWM now and what `after_load` gave: the peak of all, and that of
    running, where it can be told from that of loading."""
    whole = {"peak_mb": max(peak_mb, loaded["load_peak_mb"])}
    is_told = "loaded_mb" in loaded or peak_mb > loaded["load_peak_mb"]
    return {**whole, "run_peak_mb": peak_mb} if is_told else whole


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


def forget_peak() -> bool:
    """Let VmHWM begin anew at what is resident now (proc(5), clear_refs); whether the system does so."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True

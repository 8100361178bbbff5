"""The runner of ONNX Runtime: loads one model, then runs or times it, as PROTOCOL.md says."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import wire

LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
OPTIONS = ("intra_op_num_threads", "inter_op_num_threads", "graph_optimization_level", "providers", "config")
STEADY = 0.05  # warmup ends when the medians of two windows differ by less
PATIENCE = 4  # or after so many times the warmup asked for


def main() -> None:
    """Answer requests until stdin ends."""
    source, sink = wire.claim()
    runtime: Runtime | None = None
    while True:
        message = wire.read(source)
        if message is None:
            return
        try:
            if message.fields["do"] == "load":
                runtime = Runtime(message.fields)
                wire.write(sink, runtime.loaded)
            elif runtime is None:
                raise ValueError("nothing is loaded")
            elif message.fields["do"] == "run":
                wire.write(sink, {}, runtime.run(message.arrays))
            else:
                wire.write(sink, runtime.time(message.fields, message.arrays))
        except Exception as error:  # noqa: BLE001  the runtime's own exceptions go to whoever asked, as text
            wire.write(sink, {"error": str(error) or type(error).__name__})


class Runtime:
    """One inference session."""

    def __init__(self, request: Dict[str, Any]) -> None:  # noqa: UP006
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        runtime_mb = memory_mb("VmRSS")
        options = dict(request.get("options") or {})
        providers = options.pop("providers", ["CPUExecutionProvider"])
        start = time.perf_counter_ns()
        model = str(Path(request["build"]) / request["model"])
        self.session = onnxruntime.InferenceSession(model, session_options(options), providers=providers)
        load_ms = (time.perf_counter_ns() - start) / 1e6
        self.outputs = [output.name for output in self.session.get_outputs()]
        placed = self.session.get_providers()
        if not set(providers) <= set(placed):
            raise ValueError(f"asked for {', '.join(providers)}, the runtime took {', '.join(placed)}")
        self.loaded = {
            "load_ms": load_ms,
            "runtime_mb": runtime_mb,
            "inputs": [each.name for each in self.session.get_inputs()],
            "outputs": self.outputs,
            "placement": {"providers": placed},
        }

    def run(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:  # noqa: UP006
        """All outputs by name."""
        return dict(zip(self.outputs, self.session.run(self.outputs, feeds)))  # noqa: B905  (Python 3.8)

    def time(self, request: Dict[str, Any], feeds: Dict[str, np.ndarray]) -> Dict[str, Any]:  # noqa: UP006
        """First inference, warmup, then the values, all in this process."""

        def once() -> int:
            start = time.perf_counter_ns()
            self.session.run(self.outputs, feeds)
            return time.perf_counter_ns() - start

        gc.collect()
        gc.disable()
        first = once()
        end = time.monotonic() + request["budget_s"]
        warmups = warm_up(once, request["warmup_s"], request["budget_s"] / 2)
        once()  # after the arithmetic of the warmup, caches hold other things
        values = [once()]
        while len(values) < request["values"] and time.monotonic() < end:
            values.append(once())
        gc.enable()
        return {"first_ms": first / 1e6, "warmups": warmups, "values_ns": values, "peak_mb": memory_mb("VmHWM")}


def session_options(given: Dict[str, Any]) -> Any:  # noqa: UP006
    """ONNX Runtime's session options from those of build.json; ValueError for one that is unknown."""
    import onnxruntime

    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise ValueError(f"build.json: unknown option '{unknown[0]}'; there is {', '.join(OPTIONS)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(given.get("intra_op_num_threads", 1))
    options.inter_op_num_threads = int(given.get("inter_op_num_threads", 1))
    level = LEVELS[given.get("graph_optimization_level", "all")]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for key, value in given.get("config", {}).items():
        options.add_session_config_entry(key, str(value))
    return options


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
    """A memory field of this process in MB (10^6 bytes); its peak where the kernel has no /proc."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()

"""What every runner in Python shares: requests answered on stdin and stdout as PROTOCOL.md says, times taken alike."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Protocol, Sequence  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import failures, timing, wire

Feeds = Dict[str, np.ndarray]  # noqa: UP006


class Runtime(Protocol):
    """A loaded model: what a runner hands to `serve`."""

    inputs: List[str]  # noqa: UP006
    outputs: List[str]  # noqa: UP006

    def infer(self, feeds: Feeds) -> Sequence[np.ndarray]:
        """One inference, outputs in their order: what is timed."""

    def placement(self) -> Mapping[str, Any]:
        """`nodes` and `float_nodes` of the answer to `placement`; nothing where the runtime does not say."""


def serve(runtime_name: str, load: Callable[[Mapping[str, Any]], Runtime]) -> None:
    """Answer requests until stdin ends. `runtime_name` is the module to import, `load` gets the request."""
    source, sink = wire.claim()
    runtime: Runtime | None = None
    memory: dict[str, float] = {}
    answer: dict[str, Any]
    while True:
        message = wire.read(source)
        if message is None:
            return
        arrays: Feeds = {}
        try:
            if message.fields["do"] == "load":
                runtime_mb = _import(runtime_name)
                start = time.perf_counter_ns()
                runtime = load(message.fields)
                answer = {
                    "load_ms": (time.perf_counter_ns() - start) / 1e6,
                    "runtime_mb": runtime_mb,
                }
                memory = timing.after_load()
                answer.update(inputs=list(runtime.inputs), outputs=list(runtime.outputs), **memory)
                if "threads" in message.fields and hasattr(runtime, "threads"):
                    answer["threads"] = runtime.threads
            elif runtime is None:
                raise ValueError("nothing is loaded")
            else:
                answer, arrays = _answer(runtime, message)
                if "peak_mb" in answer:
                    answer.update(timing.peaks(answer["peak_mb"], memory))
        except Exception as error:  # noqa: BLE001  the runtime's own exceptions go to whoever asked, as text
            answer = {"error": str(error) or type(error).__name__, "failure": failures.of(error)}
        wire.write(sink, answer, arrays)


def _import(runtime: str) -> float:
    """Resident memory with the runtime imported."""
    try:
        importlib.import_module(runtime)
    except ImportError as error:
        fix = f"install it there: {sys.executable} -m pip install {runtime}"
        raise failures.RuntimeMissingError(
            f"{runtime} cannot be imported ({error}); {fix}"
        ) from error
    return timing.memory_mb("VmRSS")


def _answer(runtime: Runtime, message: wire.Message) -> tuple[dict[str, Any], Feeds]:
    asked = message.fields["do"]
    feeds = message.arrays
    if asked == "run":
        return {}, dict(zip(runtime.outputs, runtime.infer(feeds)))  # noqa: B905  (Python 3.8)
    if asked == "time":
        return timing.take_values(lambda: runtime.infer(feeds), message.fields), {}
    if asked == "placement":
        return dict(runtime.placement()), {}
    raise ValueError(f"there is no request '{asked}'; there is load, run, time, placement")

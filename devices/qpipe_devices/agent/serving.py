"""What all runners in Python share: they answer requests as PROTOCOL.md says and time alike."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Dict, List, Protocol, cast  # noqa: UP035  (evaluated by Python 3.8)

import numpy as np

from . import failures, timing, wire

Feeds = Dict[str, np.ndarray]  # noqa: UP006
Fields = Dict[str, Any]  # noqa: UP006


class Runtime(Protocol):
    """A loaded model: what a runner passes to `serve`."""

    inputs: List[str]  # noqa: UP006
    outputs: List[str]  # noqa: UP006

    def infer(self, feeds: Feeds) -> Sequence[np.ndarray]:
        """Infer once, outputs in order; this is what is timed."""

    def placement(self) -> Mapping[str, Any]:
        """Return `nodes` and `float_nodes` of the answer to `placement`; {} where unknown."""


def serve(runtime_name: str, load: Callable[[Mapping[str, Any]], Runtime]) -> None:
    """Answer requests until stdin ends.

    `runtime_name` is the module to import; `load` is called with the fields of a `load` request.
    """
    source, sink = wire.claim()
    server = _Server(runtime_name, load)
    while True:
        message = wire.read_message(source)
        if message is None:
            return
        outputs: Feeds = {}
        try:
            answer, outputs = server.answer(message)
        except Exception as error:  # noqa: BLE001  a runtime's own exceptions go to the host as text
            reason = str(error) or type(error).__name__
            answer = {"error": reason, "failure": failures.failure_of(error)}
        wire.write_message(sink, answer, outputs)


class _Server:
    """The state between requests: the loaded runtime, and the memory after loading."""

    def __init__(self, runtime_name: str, load: Callable[[Mapping[str, Any]], Runtime]) -> None:
        self.runtime_name = runtime_name
        self.load_runtime = load
        self.runtime: Runtime | None = None
        self.memory_after_load: dict[str, float] = {}

    def answer(self, message: wire.Message) -> tuple[Fields, Feeds]:
        """Return the fields and the arrays of the answer."""
        request = message.fields["do"]
        if request == "load":
            return self._load(message.fields), {}
        if self.runtime is None:
            raise ValueError("no model is loaded")
        runtime = self.runtime
        if request == "run":
            outputs = runtime.infer(message.arrays)
            return {}, dict(zip(runtime.outputs, outputs))  # noqa: B905  (Python 3.8)
        if request == "time":
            return self._time(runtime, message), {}
        if request == "placement":
            return dict(runtime.placement()), {}
        raise ValueError(
            f"request '{request}' is not known; valid requests are load, run, time, placement"
        )

    def _load(self, fields: Mapping[str, Any]) -> Fields:
        runtime_mb = _import_runtime(self.runtime_name)
        start = time.perf_counter_ns()
        runtime = self.load_runtime(fields)
        self.runtime = runtime
        load_ms = (time.perf_counter_ns() - start) / 1e6
        self.memory_after_load = timing.memory_after_load()
        answer = {
            "load_ms": load_ms,
            "runtime_mb": runtime_mb,
            "inputs": list(runtime.inputs),
            "outputs": list(runtime.outputs),
            **self.memory_after_load,
        }
        if "threads" in fields and hasattr(runtime, "threads"):
            answer["threads"] = runtime.threads
        return answer

    def _time(self, runtime: Runtime, message: wire.Message) -> Fields:
        request = cast("timing.TimeRequest", message.fields)
        answer = timing.take_values(lambda: runtime.infer(message.arrays), request)
        return {**answer, **timing.memory_after_run(answer["peak_mb"], self.memory_after_load)}


def _import_runtime(runtime_name: str) -> float:
    """Import a runtime; return the resident memory in MB with it imported."""
    try:
        importlib.import_module(runtime_name)
    except ImportError as error:
        fix = f"install it there: {sys.executable} -m pip install {runtime_name}"
        raise failures.RuntimeMissingError(
            f"{runtime_name} cannot be imported ({error}); {fix}"
        ) from error
    return timing.memory_mb("VmRSS")

"""The runner of ONNX Runtime: loads a model on the providers and with the options of its build."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import serving
from .kernels import count, kernels_in_profile, provider_name

if TYPE_CHECKING:
    from .messages import PlacementAnswer

OPTIONS = ("session", "config", "free_dimensions", "providers", "fallback")
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
DISABLE_CPU = "session.disable_cpu_ep_fallback"
ALLOW_FALLBACK = "or set fallback: allow"
NUMPY_TYPES = {"float": "float32", "double": "float64"}  # others are named alike


class Session:
    """One inference session.

    `options` of the request: session {attribute: value}, config {key: value}, free_dimensions
    {name of an open dimension: the size to optimize for}, providers (pairs of name and
    {key: value}, in order of preference), fallback (error or allow: what happens where a provider
    is missing, idle, or leaves nodes to the CPU).
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.model = str(Path(request["build"]) / request["model"])
        self.options = dict(request.get("options") or {})
        if request.get("threads") is not None:
            self.threads = thread_count(request["threads"])
            session = self.options.get("session", {})
            self.options["session"] = {**session, "intra_op_num_threads": self.threads}
        free_dimensions = self.options.get("free_dimensions", {})
        if request.get("batch") is not None and "batch" in free_dimensions:
            self.options["free_dimensions"] = {**free_dimensions, "batch": request["batch"]}
        _check_options(self.options)
        self.is_strict = self.options.get("fallback", "error") == "error"
        self.providers = available_providers(self.options, strict=self.is_strict)
        self.session = self._open(session_options(self.options))
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = _output_names(self.session)

    def infer(self, feeds: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Infer once; this is what is timed."""
        outputs: Sequence[np.ndarray] = self.session.run(self.outputs, feeds)
        return outputs

    def placement(self) -> PlacementAnswer:
        """Return the runtime's own profile of one inference of zeros, in a separate session."""
        options = session_options(self.options)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._open(options)
            session.run(None, {entry.name: _zeros(entry) for entry in session.get_inputs()})
            profile_path = Path(session.end_profiling())
            profile = json.loads(profile_path.read_text(encoding="utf-8"))
        return count(kernels_in_profile(profile))

    def _open(self, options: Any) -> Any:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        names = [provider_name(name) for name, _ in self.providers]
        accelerators = [name for name in names if name != "cpu"]
        if accelerators and self.is_strict:
            options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
            if "cpu" not in names:
                options.add_session_config_entry(DISABLE_CPU, "1")
        try:
            session = onnxruntime.InferenceSession(self.model, options, providers=self.providers)
        except Exception as error:
            if "fallback to CPU EP has been explicitly disabled" not in str(error):
                raise
            raise ValueError(
                f"{', '.join(accelerators)} does not take all nodes; "
                f"add cpu to providers, {ALLOW_FALLBACK}"
            ) from error
        if self.is_strict:
            _check_placed(session, accelerators)
        return session


def _output_names(session: Any) -> list[str]:
    """Return the outputs that are tensors of numbers; all where none is."""
    entries = session.get_outputs()
    numbers = [entry.name for entry in entries if _is_tensor_of_numbers(entry.type)]
    return numbers or [entry.name for entry in entries]


def _is_tensor_of_numbers(type_name: str) -> bool:
    return type_name.startswith("tensor(") and type_name != "tensor(string)"


def available_providers(
    options: Mapping[str, Any], *, strict: bool
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the providers of a build, each as (ONNX Runtime's name, options).

    Raise ValueError for one that is not available; unless `strict`, it is left out instead. The
    CPU is there in any case to take what no other provider takes.
    """
    import onnxruntime

    names = {provider_name(name): name for name in onnxruntime.get_available_providers()}
    requested = options.get("providers") or [("cpu", {})]
    missing = [name for name, _ in requested if name not in names]
    if missing and strict:
        raise ValueError(
            f"provider {missing[0]} is not available; available providers are "
            f"{', '.join(sorted(names))}; install an onnxruntime that has it, {ALLOW_FALLBACK}"
        )
    providers = [(names[name], settings) for name, settings in requested if name in names]
    return providers or [(names["cpu"], {})]


def session_options(options: Mapping[str, Any]) -> Any:
    """Return ONNX Runtime's session options for the options of build.json."""
    import onnxruntime

    result = onnxruntime.SessionOptions()
    result.log_severity_level = 3
    attributes = {"intra_op_num_threads": 1, **options.get("session", {})}
    for name, value in attributes.items():
        if not hasattr(result, name):
            raise ValueError(f"build.json: this onnxruntime has no session option '{name}'")
        setattr(result, name, _attribute_value(name, value))
    for name, size in options.get("free_dimensions", {}).items():
        result.add_free_dimension_override_by_name(name, size)
    for key, value in options.get("config", {}).items():
        result.add_session_config_entry(key, str(value))
    return result


def thread_count(threads: int) -> int:
    """Return the number of threads to ask ONNX Runtime for.

    It takes 0 to mean one thread on each core of the machine, bound to that core. Where this
    process is bound to some of the cores, the result is their number instead.
    """
    if threads != 0 or not hasattr(os, "sched_getaffinity"):
        return threads
    usable_cores = len(os.sched_getaffinity(0))
    if usable_cores < (os.cpu_count() or 1):
        return usable_cores
    return threads


def _attribute_value(name: str, value: Any) -> Any:
    """Return the value of a session option as ONNX Runtime takes it."""
    import onnxruntime

    if name == "graph_optimization_level":
        return getattr(onnxruntime.GraphOptimizationLevel, value)
    if name == "intra_op_num_threads":
        return thread_count(value)
    return value


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of build.json that does not exist."""
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(
            f"build.json: option '{unknown[0]}' is not known; valid options are "
            f"{', '.join(OPTIONS)}"
        )


def _check_placed(session: Any, accelerators: Sequence[str]) -> None:
    """Raise ValueError for a provider that did not start, or runs no node."""
    started = [provider_name(name) for name in session.get_providers()]
    for name in accelerators:
        if name not in started:
            raise ValueError(f"provider {name} did not start; see the log, {ALLOW_FALLBACK}")
    if not accelerators or not hasattr(session, "get_provider_graph_assignment_info"):
        return  # ONNX Runtime reports it since 1.23
    assignments = session.get_provider_graph_assignment_info()
    busy = {provider_name(entry.ep_name) for entry in assignments}
    for name in accelerators:
        if name not in busy:
            raise ValueError(
                f"provider {name} takes no node of this network; leave it out, {ALLOW_FALLBACK}"
            )


def _zeros(model_input: Any) -> np.ndarray:
    """Return zeros for an input of a session; dimensions without a size are 1."""
    element_type = model_input.type[len("tensor(") : -1]
    shape = [size if isinstance(size, int) else 1 for size in model_input.shape]
    return np.zeros(shape, NUMPY_TYPES.get(element_type, element_type))


if __name__ == "__main__":
    serving.serve("onnxruntime", Session)

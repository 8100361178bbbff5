"""The runner of ONNX Runtime: loads one model on the providers and with the session options of its build."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence  # noqa: UP035  (Python 3.8 on the board)

import numpy as np

from . import serving
from .kernels import count, of_profile, short

OPTIONS = ("session", "config", "free_dimensions", "providers", "fallback")
ASSIGNED = "session.record_ep_graph_assignment_info"
NO_CPU = "session.disable_cpu_ep_fallback"
ALLOW = "or set fallback: allow"
TYPES = {"float": "float32", "double": "float64"}


class Session:
    """One inference session. `options`: session {attribute: value}, config {key: value}, free_dimensions {name of an
    open dimension: the size to optimize for}, providers (pairs of name and {key: value}, in order of preference),
    fallback (error or allow: where one is missing, idle, or leaves nodes to the CPU)."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.model = str(Path(request["build"]) / request["model"])
        self.given = dict(request.get("options") or {})
        if request.get("threads") is not None:
            self.threads = thread_count(request["threads"])
            self.given["session"] = {
                **self.given.get("session", {}),
                "intra_op_num_threads": self.threads,
            }
        if request.get("batch") is not None and "batch" in self.given.get("free_dimensions", {}):
            self.given["free_dimensions"] = {
                **self.given["free_dimensions"],
                "batch": request["batch"],
            }
        unknown = sorted(set(self.given) - set(OPTIONS))
        if unknown:
            raise ValueError(
                f"build.json: unknown option '{unknown[0]}'; there is {', '.join(OPTIONS)}"
            )
        self.strict = self.given.get("fallback", "error") == "error"
        self.providers = providers(self.given, self.strict)
        self.session = self._open(session_options(self.given))
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def infer(self, feeds: Dict[str, np.ndarray]) -> Sequence[np.ndarray]:  # noqa: UP006
        """One inference: what is timed."""
        found: Sequence[np.ndarray] = self.session.run(self.outputs, feeds)
        return found

    def placement(self) -> Dict[str, Any]:  # noqa: UP006
        """From the runtime's own profile of one inference of zeros, in a session for it alone."""
        options = session_options(self.given)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._open(options)
            session.run(None, {each.name: _zeros(each) for each in session.get_inputs()})
            profile = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return count(of_profile(profile))

    def _open(self, options: Any) -> Any:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        others = [short(name) for name, _ in self.providers if short(name) != "cpu"]
        if others and self.strict:
            options.add_session_config_entry(ASSIGNED, "1")
            if len(others) == len(self.providers):
                options.add_session_config_entry(NO_CPU, "1")
        try:
            session = onnxruntime.InferenceSession(self.model, options, providers=self.providers)
        except Exception as error:
            if "fallback to CPU EP has been explicitly disabled" not in str(error):
                raise
            names = ", ".join(others)
            raise ValueError(
                f"{names} takes not all nodes; add cpu to providers, {ALLOW}"
            ) from error
        if self.strict:
            _check_placed(session, others)
        return session


def providers(given: Mapping[str, Any], strict: bool) -> List[Any]:  # noqa: UP006
    """The providers asked for, each as (ONNX Runtime's name, options); ValueError for one that is not there.

    Those that are missing are left out unless `strict`; the CPU is always there to take what no other takes.
    """
    import onnxruntime

    here = {short(name): name for name in onnxruntime.get_available_providers()}
    wanted = given.get("providers") or [("cpu", {})]
    missing = [name for name, _ in wanted if name not in here]
    if missing and strict:
        fix = f"install an onnxruntime that has it, {ALLOW}"
        raise ValueError(
            f"there is no provider {missing[0]}, there is {', '.join(sorted(here))}; {fix}"
        )
    return [(here[name], options) for name, options in wanted if name in here] or [
        (here["cpu"], {})
    ]


def _check_placed(session: Any, others: Sequence[str]) -> None:
    started = [short(name) for name in session.get_providers()]
    for name in others:
        if name not in started:
            raise ValueError(f"provider {name} did not start; see the log, {ALLOW}")
    if others and hasattr(session, "get_provider_graph_assignment_info"):  # since 1.23
        busy = {short(each.ep_name) for each in session.get_provider_graph_assignment_info()}
        for name in others:
            if name not in busy:
                raise ValueError(
                    f"provider {name} takes no node of this network; leave it out, {ALLOW}"
                )


def session_options(given: Mapping[str, Any]) -> Any:
    """ONNX Runtime's session options from those of build.json."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in {"intra_op_num_threads": 1, **given.get("session", {})}.items():
        if not hasattr(options, name):
            raise ValueError(f"build.json: this onnxruntime has no session option '{name}'")
        if name == "graph_optimization_level":
            value = getattr(onnxruntime.GraphOptimizationLevel, value)
        if name == "intra_op_num_threads":
            value = thread_count(value)
        setattr(options, name, value)
    for name, size in given.get("free_dimensions", {}).items():
        options.add_free_dimension_override_by_name(name, size)
    for key, value in given.get("config", {}).items():
        options.add_session_config_entry(key, str(value))
    return options


def thread_count(wanted: int) -> int:
    """As many as it says. By 0 ONNX Runtime means one on each core of the machine, bound to it; where this process is
    bound to some of them, it is as many as those."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return own if wanted == 0 and own < (os.cpu_count() or 1) else wanted


def _zeros(wanted: Any) -> np.ndarray:
    """Zeros for an input; dimensions without a size are 1."""
    kind = wanted.type[len("tensor(") : -1]
    return np.zeros(
        [size if isinstance(size, int) else 1 for size in wanted.shape], TYPES.get(kind, kind)
    )


if __name__ == "__main__":
    serving.serve("onnxruntime", Session)

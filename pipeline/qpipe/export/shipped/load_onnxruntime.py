"""Open the model in ONNX Runtime with the options that it was measured with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  (Python 3.8 on the board)

import onnxruntime


def load(folder: Path, manifest: Any) -> Callable[[Any], Any]:
    """Return the model as a function, from inputs by name to outputs by name."""
    session = onnxruntime.InferenceSession(
        str(folder / manifest["model"]),
        session_options(manifest["options"]),
        providers=available_providers(manifest["options"]),
    )
    output_names = [declaration["name"] for declaration in manifest["outputs"]]

    def infer(feeds: Any) -> Any:
        outputs = session.run(output_names, feeds)
        return dict(zip(output_names, outputs))  # noqa: B905  (Python 3.8 on the board)

    return infer


def session_options(options: Any) -> Any:
    """Return the session options, on one thread unless it was measured on more."""
    session_options = onnxruntime.SessionOptions()
    for name, value in {"intra_op_num_threads": 1, **options.get("session", {})}.items():
        if name == "graph_optimization_level":
            value = getattr(onnxruntime.GraphOptimizationLevel, value)
        setattr(session_options, name, value)
    for key, value in options.get("config", {}).items():
        session_options.add_session_config_entry(key, value)
    return session_options


def available_providers(options: Any) -> Any:
    """Return the execution providers that it was measured on, as far as they are installed."""
    full_names = {}
    for full_name in onnxruntime.get_available_providers():
        full_names[full_name.replace("ExecutionProvider", "").lower()] = full_name
    providers = []
    for name, provider_options in options.get("providers", [["cpu", {}]]):
        if name in full_names:
            providers.append((full_names[name], provider_options))
        else:
            sys.stderr.write(f"it was measured on {name}, which is missing here\n")
    return providers or [(full_names["cpu"], {})]

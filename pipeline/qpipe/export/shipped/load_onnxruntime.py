"""Opens the model in ONNX Runtime with the options that it was measured with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  (Python 3.8 on the board)

import onnxruntime


def load(folder: Path, manifest: Any) -> Callable[[Any], Any]:
    """The model as a function, from inputs by name to outputs by name."""
    wanted = manifest["options"]
    options = onnxruntime.SessionOptions()
    for name, value in {"intra_op_num_threads": 1, **wanted.get("session", {})}.items():
        levels = onnxruntime.GraphOptimizationLevel
        setattr(
            options, name, getattr(levels, value) if name == "graph_optimization_level" else value
        )
    for key, value in wanted.get("config", {}).items():
        options.add_session_config_entry(key, value)
    here = {
        name.replace("ExecutionProvider", "").lower(): name
        for name in onnxruntime.get_available_providers()
    }
    asked = wanted.get("providers", [["cpu", {}]])
    for name, _ in asked:
        if name not in here:
            sys.stderr.write(f"it was measured on {name}, which is missing here\n")
    providers = [(here[name], given) for name, given in asked if name in here] or [
        (here["cpu"], {})
    ]
    session = onnxruntime.InferenceSession(
        str(folder / manifest["model"]), options, providers=providers
    )
    names = [each["name"] for each in manifest["outputs"]]
    return lambda feeds: dict(zip(names, session.run(names, feeds)))  # noqa: B905  (Python 3.8 on the board)

"""Opens the model in OpenVINO with the properties that it was measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable  # noqa: UP035  (Python 3.8 on the board)

import openvino


def load(folder: Path, manifest: Any) -> Callable[[Any], Any]:
    """The model as a function, from inputs by name to outputs by name."""
    wanted = manifest["options"]
    path = str(folder / manifest["model"])
    compiled = openvino.Core().compile_model(path, wanted["device"], wanted["properties"])
    ports = {each["name"]: compiled.output(each["name"]) for each in manifest["outputs"]}

    def infer(feeds: Any) -> Any:
        found = compiled(feeds)
        return {name: found[port] for name, port in ports.items()}

    return infer

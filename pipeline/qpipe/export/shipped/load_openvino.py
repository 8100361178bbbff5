"""Open the model in OpenVINO with the properties that it was measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable  # noqa: UP035  (Python 3.8 on the board)

import openvino


def load(folder: Path, manifest: Any) -> Callable[[Any], Any]:
    """Return the model as a function, from inputs by name to outputs by name."""
    options = manifest["options"]
    path = str(folder / manifest["model"])
    compiled = openvino.Core().compile_model(path, options["device"], options["properties"])
    output_names = [declaration["name"] for declaration in manifest["outputs"]]
    ports = {name: compiled.output(name) for name in output_names}

    def infer(feeds: Any) -> Any:
        outputs = compiled(feeds)
        return {name: outputs[port] for name, port in ports.items()}

    return infer

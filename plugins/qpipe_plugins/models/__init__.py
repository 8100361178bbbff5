"""Built-in stages of kind import."""

from __future__ import annotations

import qpipe
from qpipe_plugins.models.onnx_file import onnx_file


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    register("import", onnx_file, name="onnx")

"""Built-in stages of kind compile."""

from __future__ import annotations

import qpipe
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.compile.openvino import openvino


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the compile stages of this folder."""
    register("compile", onnxruntime, runtime="onnxruntime")
    register("compile", openvino, runtime="openvino")

"""Built-in stages of kind compile."""

from __future__ import annotations

import qpipe
from qpipe_plugins.compile.onnxruntime import onnxruntime


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Bring this folder's stages."""
    register("compile", onnxruntime)

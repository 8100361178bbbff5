"""Built-in stages of kind import."""

from __future__ import annotations

import qpipe
from qpipe_plugins.models.download import download
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.models.torch_module import TORCH_MODULES, torch_module


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the import stages of this folder."""
    register("import", download)
    register("import", onnx_file, name="onnx")
    register("import", torch_module, name="torch", modules=TORCH_MODULES)

"""Built-in stages of kind quantize."""

from __future__ import annotations

import qpipe
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.gptq import gptq
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.symmetric import symmetric


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Bring this folder's stages."""
    for stage in (symmetric, asymmetric, logarithmic, activations, correct_bias, gptq, onnxruntime_static):
        register("quantize", stage)

"""Built-in stages of kind quantize."""

from __future__ import annotations

import qpipe
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.compensate import compensate
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.learn_rounding import learn_rounding
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.mixed import mixed
from qpipe_plugins.quantize.neural_compressor import neural_compressor
from qpipe_plugins.quantize.nncf import nncf
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.qat import qat
from qpipe_plugins.quantize.quark import quark
from qpipe_plugins.quantize.symmetric import symmetric


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the quantize stages of this folder."""
    stages = (
        symmetric,
        asymmetric,
        logarithmic,
        mixed,
        activations,
        compensate,
        correct_bias,
        learn_rounding,
        qat,
        onnxruntime_static,
        nncf,
        quark,
        neural_compressor,
    )
    for stage in stages:
        register("quantize", stage)

"""Built-in stages of kind quantize."""

from __future__ import annotations

import qpipe
from qpipe.types import Resources
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.compensate import compensate
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.learn_rounding import learn_rounding
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.mixed import mixed
from qpipe_plugins.quantize.neural_compressor import (
    NEURAL_COMPRESSOR_MODULES,
    neural_compressor,
)
from qpipe_plugins.quantize.nncf import NNCF_MODULES, nncf
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.qat import qat
from qpipe_plugins.quantize.quark import QUARK_MODULES, quark
from qpipe_plugins.quantize.symmetric import symmetric
from qpipe_plugins.quantize.training_extra import TRAINING_MODULES

ALL_THREADS = Resources(threads=0)  # of a library that is not told how many
TORCH_MB = 600  # of the library itself
# besides the activations that `memory_mb` bounds: two networks, and what their sessions hold
COMPENSATION_MB = 650


@qpipe.hookimpl
def register_stages(register: qpipe.Register) -> None:
    """Register the quantize stages of this folder."""
    stages = (
        symmetric,
        asymmetric,
        logarithmic,
        mixed,
        activations,
        correct_bias,
    )
    for stage in stages:
        register("quantize", stage)
    register("quantize", compensate, resources=Resources(memory_mb=COMPENSATION_MB))
    register("quantize", onnxruntime_static, resources=ALL_THREADS)
    training = Resources(memory_mb=TORCH_MB, gpus=1)
    register("quantize", learn_rounding, modules=TRAINING_MODULES, resources=training)
    register("quantize", qat, modules=TRAINING_MODULES, resources=training)
    rival = Resources(threads=0, memory_mb=TORCH_MB)
    register("quantize", nncf, modules=NNCF_MODULES, resources=rival)
    register("quantize", quark, modules=QUARK_MODULES, resources=rival)
    register("quantize", neural_compressor, modules=NEURAL_COMPRESSOR_MODULES, resources=rival)

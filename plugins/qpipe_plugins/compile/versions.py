"""The opset and IR version of a build: what the device's runtime loads, lowered where the network allows it."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter

from qpipe.errors import StageError
from qpipe.quant.inference import zeros_or_noise
from qpipe.types import Platform

"""Whether a quantized network is what a target takes, whoever quantized it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant.graph import constant
from qpipe.types import Array, Target


def check_target(model: ir.Model, target: Target) -> None:
    """StageError naming the first tensor that is quantized as the target does not take it."""
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = constant(node.inputs[1])
        zero_point = constant(node.inputs[2] if len(node.inputs) > 2 else None)
        reason = _objection(scale, zero_point, target)
        if reason:
            raise StageError(f"'{node.inputs[0].name}': {reason}" if node.inputs[0] else reason)


def _objection(scale: Array | None, zero_point: Array | None, target: Target) -> str | None:
    if target.per_tensor_weights and scale is not None and scale.size > 1:
        return "a scale per channel, but the target takes one a tensor; use granularity tensor"
    if target.power_of_two_scales and scale is not None and (np.frexp(scale)[0] != 0.5).any():
        return "a scale that is no power of two, but the target takes no other; use a stage that respects it"
    if (
        target.symmetric_only
        and zero_point is not None
        and (zero_point != _middle(zero_point)).any()
    ):
        return "a zero point off the middle, but the target takes no other; use symmetric"
    return None


def _middle(zero_point: Array) -> int:
    limits = np.iinfo(zero_point.dtype)
    return (int(limits.max) + int(limits.min) + 1) // 2

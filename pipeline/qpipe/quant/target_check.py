"""The check that a quantized network respects a target, whichever stage or tool quantized it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import integer_range
from qpipe.types import Array, Target


def check_target(model: ir.Model, target: Target) -> None:
    """Raise StageError naming the first tensor that is quantized as the target does not support."""
    for node in model.graph:
        if node.op_type not in qdq.QDQ_OPERATORS:
            continue
        scale, zero_point = qdq.scale_and_zero_point_of(node)
        reason = _scale_violation(scale, target) or _zero_point_violation(zero_point, target)
        if reason:
            tensor = node.inputs[0]
            raise StageError(reason if tensor is None else f"'{tensor.name}': {reason}")


def _scale_violation(scale: Array | None, target: Target) -> str | None:
    if scale is None:
        return None
    if target.per_tensor_weights and scale.size > 1:
        return "one scale per channel, but the target takes one per tensor; use granularity tensor"
    mantissa, _ = np.frexp(scale)
    if target.power_of_two_scales and (mantissa != 0.5).any():
        return (
            "a scale that is not a power of two, but the target takes no other; "
            "use a stage that respects the target"
        )
    return None


def _zero_point_violation(zero_point: Array | None, target: Target) -> str | None:
    if zero_point is None or not target.symmetric_only:
        return None
    lowest, highest = integer_range(zero_point.dtype)
    middle = (lowest + highest + 1) // 2
    if (zero_point != middle).any():
        return "a zero point other than the middle, but the target takes no other; use symmetric"
    return None

"""The stage: the solver on every weight of a network."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

import qpipe
from qpipe.quant import qdq
from qpipe.quant.codebook import full_range, uniform
from qpipe_hqq.solver import ITERATIONS, Array, solve

Bits = Annotated[int, Field(ge=2, le=8)]
Norm = Annotated[float, Field(gt=0, le=1)]
Iterations = Annotated[int, Field(ge=0, le=1000)]
ANY_TARGET = qpipe.Target()


def hqq(
    model: ir.Model,
    target: qpipe.Target = ANY_TARGET,
    *,
    bits: Bits = 4,
    granularity: Literal["tensor", "channel"] = "channel",
    norm: Norm = 0.7,
    iterations: Iterations = ITERATIONS,
    symmetric: bool = False,
) -> ir.Model:
    """Quantize weights by half-quadratic splitting: scales and zero points without samples.

    It minimizes the sum of |error|^norm, in which few large errors count less than many small ones.
    Activations stay float: put `activations` behind it. With `symmetric`, zero points are 0 and
    only scales are solved, as kernels of many runtimes prefer; a target that takes nothing else
    sets it. Takes seconds.
    Method: Badri and Shaji 2023, with whole zero points, as integer kernels take them.
    """
    if target.power_of_two_scales:
        raise qpipe.StageError("quantize hqq: the device takes powers of two only; use symmetric")
    is_symmetric = symmetric or target.symmetric_only
    codebook = uniform(bits) if is_symmetric else full_range(bits)
    is_per_tensor = granularity == "tensor" or target.per_tensor_weights
    for weight in qdq.float_weights(model):
        rows = weight.to_rows(weight.array)
        shape = rows.shape
        if is_per_tensor:
            rows = rows.reshape(1, -1)
        levels = solve(rows, bits, p=norm, iterations=iterations, is_symmetric=is_symmetric)
        codes = levels.codes(rows).astype(np.int8).reshape(shape)
        quantized = qdq.QuantizedWeight(
            weight.from_rows(codes),
            _parameter(levels.scale, np.float32, is_per_tensor=is_per_tensor),
            _parameter(levels.zero_point, np.int8, is_per_tensor=is_per_tensor),
            None if is_per_tensor else weight.channel_axis,
            codebook,
        )
        qdq.quantize_weight(model, weight, quantized)
    return model


def _parameter(values: Array, dtype: type, *, is_per_tensor: bool) -> Array:
    """Return scales or zero points as qdq has them: [] for a tensor, [C] for its channels."""
    return values.reshape(() if is_per_tensor else -1).astype(dtype)

"""What a network must be for qpipe to take it: each thing that it cannot be is refused in one line."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.types import Array

MOST_NODES = 200_000
MOST_ELEMENTS = 1 << 29  # of one tensor: 2 GiB of float32
FED = ("float", "uint8", "int8", "uint16", "int16", "int32", "int64", "bool")
FLOATS = ("float16", "bfloat16", "double")
MULTIPLYING = {
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "GRU",
    "LSTM",
    "LayerNormalization",
    "MatMul",
    "RNN",
}
# how many elements these give depends on values: what follows may stay without a shape
OPEN = {"NonMaxSuppression", "NonZero", "Unique", "Compress", "If", "Loop", "Scan"}


def check_inputs(proto: onnx.ModelProto, where: str) -> None:
    """StageError unless the network takes tensors, of numbers that samples can have."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if not inputs:
        raise StageError(f"{where}: the network takes no input; export one that does")
    for value in inputs:
        kind = value.type.WhichOneof("value")
        dtype = value.type.tensor_type.elem_type
        name = (
            onnx.TensorProto.DataType.Name(dtype).lower()
            if kind == "tensor_type"
            else f"of type {kind}".removesuffix("_type")
        )
        if name in FLOATS:
            raise StageError(
                f"{where}: input '{value.name}' is {name}; export the network as float32"
            )
        if name not in FED:
            raise StageError(
                f"{where}: input '{value.name}' is {name}; qpipe feeds tensors of {', '.join(FED)}"
            )


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """StageError for too many nodes, counted before functions are inlined: one may call others twice, and these too."""
    calls = {
        (f.domain, f.name): [(node.domain, node.op_type) for node in f.node]
        for f in proto.functions
    }
    sizes: dict[tuple[str, str], int] = {}

    def size(called: Iterable[tuple[str, str]]) -> int:
        return sum(inlined(call) if call in calls else 1 for call in called)

    def inlined(function: tuple[str, str]) -> int:
        if function not in sizes:
            sizes[function] = size(calls[function])
        return sizes[function]

    total = size((node.domain, node.op_type) for node in proto.graph.node)
    if total > MOST_NODES:
        raise StageError(f"{where}: {total} nodes; qpipe takes networks of at most {MOST_NODES}")


def check_weights(model: ir.Model, where: str) -> None:
    """StageError for weights that are not float32, or not numbers."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        if tensor.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
            raise StageError(
                f"{where}: weight '{name}' is {tensor.dtype.name.lower()}; export the network as float32"
            )
        if tensor.dtype == ir.DataType.FLOAT and not _is_sound(value, tensor.numpy()):
            raise StageError(
                f"{where}: weight '{name}' holds NaN or infinity; export a network that was trained well"
            )


def _is_sound(value: ir.Value, array: Array) -> bool:
    """Whether all its numbers are finite; where nothing multiplies by it, infinity is as good: a mask adds it."""
    if np.isfinite(array).all():
        return True
    return not np.isnan(array).any() and not any(
        reader.op_type in MULTIPLYING for reader in value.consumers()
    )


def check_shapes(model: ir.Model, where: str) -> None:
    """StageError for a tensor of unknown shape, unless its values decide it, and for one beyond all memory."""
    open_values: set[ir.Value | None] = set()
    for node in model.graph:
        if (
            node.op_type in OPEN
            or node.domain
            or any(value in open_values for value in node.inputs)
        ):
            open_values.update(node.outputs)
            continue
        for value in node.outputs:
            made = f"'{value.name}', output of {node.op_type} '{node.name}',"
            size = (
                math.prod(d for d in value.shape if isinstance(d, int))
                if value.shape is not None
                else 0
            )
            if size > MOST_ELEMENTS:
                raise StageError(
                    f"{where}: {made} has {size} elements; qpipe takes tensors of up to {MOST_ELEMENTS}"
                )
            if value.name and value.uses() and (value.shape is None or not value.shape.is_static()):
                raise StageError(
                    f"{where}: the shape of {made} is not known; export the network with static shapes"
                )

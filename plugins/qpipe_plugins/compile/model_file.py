"""The file that a runtime loads: int32 biases, weights packed to their bits, and nothing in it that costs bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.biases import quantize_biases
from qpipe.quant.weight_bits import weight_bits
from qpipe.types import Platform
from qpipe_plugins.compile import dynamic_batch
from qpipe_plugins.compile.opset_versions import fit
from qpipe_plugins.compile.packing import is_smaller_packed, pack
from qpipe_plugins.compile.redundancy import QDQ, derive_bias_scales, drop_clips, strip

NAME = "model.onnx"
INT4_OPSET = 21  # has the type
INT4_CAST = 24  # the newest opset of ONNX Runtime 1.23, the first whose Cast takes it


def write_network(
    model: ir.Model, platform: Platform, folder: Path, where: str, *, free_batch: bool = False
) -> dict[str, Any]:
    """Write the network into the folder in the versions that the platform loads; what build.json says of it.

    Weights of less than 8 bits are packed, and unpacked again when the file is loaded: smaller, not slower. With
    `free_batch` axis 0 of inputs and outputs is open.
    """
    own = {node for node in model.graph if node.op_type not in QDQ}
    count, bits = weight_bits(model)
    quantize_biases(model)
    native = model.opset_imports.get("", 0) >= INT4_OPSET and platform.max_opset >= INT4_CAST
    for weight in qdq.weights(model):
        if weight.quantized is not None and is_smaller_packed(weight.quantized):
            pack(model, weight, weight.quantized, native)
    if platform.runtime == "onnxruntime" and platform.arch in ("aarch64", "arm64"):
        _shift_activations(model)
    drop_clips(model)
    derive_bias_scales(model)
    if free_batch:
        dynamic_batch.open_reshapes(model)
    strip(model, own)
    proto = fit(model, platform, where)
    if free_batch:
        dynamic_batch.free(proto, where)
    written = ir.from_proto(proto).graph
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / NAME)
    return {
        "model": NAME,
        "weights": {"count": count, "bits": bits},
        "inputs": [_describe(value) for value in written.inputs],
        "outputs": [_describe(value) for value in written.outputs],
    }


def _describe(value: ir.Value) -> dict[str, Any]:
    shape = (
        [d if isinstance(d, int) else str(d) for d in value.shape]
        if value.shape is not None
        else None
    )
    return {
        "name": value.name,
        "dtype": value.dtype.numpy().name if value.dtype is not None else None,
        "shape": shape,
    }


# ---- what the device's kernels prefer, without loss


def _shift_activations(model: ir.Model) -> None:
    """uint8 activations as int8: every code and zero point less 128, the same real values."""
    for node in model.graph:
        users = [node, *node.outputs[0].consumers()]
        pair = {user.op_type for user in users} == {"QuantizeLinear", "DequantizeLinear"}
        if (
            node.op_type == "QuantizeLinear"
            and pair
            and all(len(user.inputs) > 2 for user in users)
        ):
            for user in users:
                _shift_zero_point(model, user)


def _shift_zero_point(model: ir.Model, node: ir.Node) -> None:
    old = node.inputs[2]
    zero_point = qdq.constant(old)
    if old is None or zero_point is None or zero_point.dtype != np.uint8:
        return
    shifted = (zero_point.astype(np.int16) - 128).astype(np.int8)
    name = f"{old.name}_int8"
    node.replace_input_with(
        2, model.graph.initializers.get(name) or qdq.initializer(model, name, shifted)
    )
    qdq.discard(model, old)

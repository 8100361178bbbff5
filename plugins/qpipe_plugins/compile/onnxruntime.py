"""A build for ONNX Runtime: int32 biases, weights packed to their bits, and nothing in the file that costs bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.biases import quantize_biases
from qpipe.types import Build, Platform
from qpipe_plugins.compile.packing import pack
from qpipe_plugins.compile.slimming import QDQ, derive_bias_scales, drop_clips, strip

INT4_OPSET = 21


def onnxruntime(
    model: ir.Model,
    platform: Platform,
    workdir: Path,
    *,
    threads: int = 1,
    optimization: Literal["disable", "basic", "extended", "all"] = "all",
) -> Build:
    """One ONNX file that stock ONNX Runtime loads and runs on integer kernels, with its session options.

    Weights of 4 bits or less are packed and unpacked again when the file is loaded: smaller, not slower. `threads` is
    for one inference (0: as many as the device has cores), `optimization` the runtime's own level, applied there.
    """
    own = {node for node in model.graph if node.op_type not in QDQ}
    quantize_biases(model)
    for weight in qdq.weights(model):
        if weight.quantized is not None and weight.quantized.codebook.bits <= 4:
            pack(model, weight, weight.quantized, model.opset_imports.get("", 0) >= INT4_OPSET)
    if platform.arch in ("aarch64", "arm64"):
        _shift_activations(model)
    drop_clips(model)
    derive_bias_scales(model)
    strip(model, own)
    _set_version(model, platform)
    workdir.mkdir(parents=True, exist_ok=True)
    ir.save(model, workdir / "model.onnx")
    return Build.write(workdir, _manifest(model, threads, optimization))


def _manifest(model: ir.Model, threads: int, optimization: str) -> dict[str, Any]:
    return {
        "runtime": "onnxruntime",
        "runner": "run_onnxruntime.py",
        "model": "model.onnx",
        "options": {"intra_op_num_threads": threads, "graph_optimization_level": optimization},
        "inputs": [_describe(value) for value in model.graph.inputs],
        "outputs": [_describe(value) for value in model.graph.outputs],
    }


def _describe(value: ir.Value) -> dict[str, Any]:
    shape = [d if isinstance(d, int) else str(d) for d in value.shape] if value.shape is not None else None
    return {"name": value.name, "dtype": value.dtype.numpy().name if value.dtype is not None else None, "shape": shape}


# ---- what the device's kernels prefer, without loss


def _shift_activations(model: ir.Model) -> None:
    """uint8 activations as int8: every code and zero point less 128, the same real values."""
    for node in model.graph:
        users = [node, *node.outputs[0].consumers()]
        pair = {user.op_type for user in users} == {"QuantizeLinear", "DequantizeLinear"}
        if node.op_type == "QuantizeLinear" and pair and all(len(user.inputs) > 2 for user in users):
            for user in users:
                _shift_zero_point(model, user)


def _shift_zero_point(model: ir.Model, node: ir.Node) -> None:
    old = node.inputs[2]
    zero_point = qdq.constant(old)
    if old is None or zero_point is None or zero_point.dtype != np.uint8:
        return
    shifted = (zero_point.astype(np.int16) - 128).astype(np.int8)
    name = f"{old.name}_int8"
    node.replace_input_with(2, model.graph.initializers.get(name) or qdq.initializer(model, name, shifted))
    qdq.discard(model, old)


def _set_version(model: ir.Model, platform: Platform) -> None:
    """The oldest IR version that the operators allow: what loads in most runtimes."""
    opset = model.opset_imports.get("", 0)
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], ignore_unknown=True)
    if opset > platform.max_opset or needed > platform.max_ir_version:
        raise StageError(
            f"compile onnxruntime: the network is opset {opset} (IR {needed}), the device's {platform.runtime} loads up "
            f"to opset {platform.max_opset} (IR {platform.max_ir_version}); export it with an older opset, or update the "
            "runtime on the device"
        )
    model.ir_version = needed

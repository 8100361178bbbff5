"""A build for ONNX Runtime: int32 biases, weights packed to their bits, and nothing in the file that costs bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.biases import quantize_biases
from qpipe.types import Array, Build, Target

INT4_OPSET = 21


def onnxruntime(
    model: ir.Model,
    target: Target,
    workdir: Path,
    *,
    threads: int = 1,
    optimization: Literal["disable", "basic", "extended", "all"] = "all",
) -> Build:
    """One ONNX file that stock ONNX Runtime loads and runs on integer kernels, with its session options.

    Weights of 4 bits or less are packed and unpacked again when the file is loaded: smaller, not slower. `threads` is
    for one inference (0: as many as the device has cores), `optimization` the runtime's own level, applied there.
    """
    quantize_biases(model)
    for weight in qdq.weights(model):
        if weight.quantized is not None and weight.quantized.codebook.bits <= 4:
            _pack(model, weight, weight.quantized, model.opset_imports.get("", 0) >= INT4_OPSET)
    if target.arch in ("aarch64", "arm64"):
        _shift_activations(model)
    _strip(model)
    _set_version(model, target)
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


# ---- packing


def _pack(model: ir.Model, weight: qdq.Weight, quantized: qdq.QuantizedWeight, native: bool) -> None:
    """Put packed codes and the nodes that unpack them in the place of the int8 constant; all are constant, so the
    runtime folds them when it loads the file, and the kernels see the same int8 weights.

    A 4-bit DequantizeLinear straight into Conv would not fuse, hence INT4, Cast to int8, DequantizeLinear."""
    dequantize = weight.value.producer()
    assert dequantize is not None
    whole = dequantize.inputs[0]
    if native and quantized.codebook.name in ("uniform", "full_range"):
        nodes = _unpack_int4(model, weight.name, quantized.codes)
    else:
        nodes = _unpack_table(model, weight.name, quantized)
    model.graph.insert_before(dequantize, nodes)
    dequantize.replace_input_with(0, nodes[-1].outputs[0])
    qdq.discard(model, whole)


def _unpack_int4(model: ir.Model, name: str, codes: Array) -> list[ir.Node]:
    packed = ir.val(f"{name}_int4", const_value=ir.tensor(codes, dtype=ir.DataType.INT4, name=f"{name}_int4"))
    model.graph.register_initializer(packed)
    return [_node("Cast", [packed], f"{name}_int8", to=ir.DataType.INT8)]


def _unpack_table(model: ir.Model, name: str, quantized: qdq.QuantizedWeight) -> list[ir.Node]:
    """uint8 bytes of two codes (four at 2 bits), looked up in a table of the levels of every possible byte."""
    book = quantized.codebook
    per_byte = 4 if book.bits <= 2 else 2
    width = 8 // per_byte
    index = np.searchsorted(book.levels, quantized.codes.ravel()).astype(np.uint8)
    index = np.pad(index, (0, -len(index) % per_byte)).reshape(-1, per_byte)
    packed = np.bitwise_or.reduce(index << (width * np.arange(per_byte, dtype=np.uint8)), axis=1).astype(np.uint8)
    shape = np.array(quantized.codes.shape, np.int64)
    inputs = [
        qdq.initializer(model, f"{name}_packed", packed),
        _shared(model, f"{book.name}_{book.bits}", _table(book.levels, per_byte, width)),
    ]
    count = int(shape.prod())
    nodes = [
        _node("Cast", [inputs[0]], f"{name}_bytes", to=ir.DataType.INT32),
        _node("Gather", [inputs[1], None], f"{name}_levels"),
    ]
    nodes[1].replace_input_with(1, nodes[0].outputs[0])
    last = nodes[-1].outputs[0]
    if count % per_byte:  # cut the padding off
        flat = _node("Reshape", [last, _shared(model, "flat", np.array([-1], np.int64))], f"{name}_flat")
        bounds = [_shared(model, "zero", np.array([0], np.int64)), _shared(model, f"end_{count}", np.array([count]))]
        cut = _node("Slice", [flat.outputs[0], *bounds], f"{name}_cut")
        nodes += [flat, cut]
        last = cut.outputs[0]
    dims = _shared(model, "shape_" + "_".join(map(str, shape)), shape)
    return [*nodes, _node("Reshape", [last, dims], f"{name}_int8")]


def _table(levels: tuple[int, ...], per_byte: int, width: int) -> Array:
    """int8 [256, per_byte]: the levels of each byte's codes, lowest bits first; codes without a level mean 0."""
    padded = np.zeros(2**width, np.int8)
    padded[: len(levels)] = levels
    codes = (np.arange(256)[:, np.newaxis] >> (width * np.arange(per_byte))) & (2**width - 1)
    table: Array = padded[codes]
    return table


def _shared(model: ir.Model, name: str, array: Array) -> ir.Value:
    name = f"qpipe_{name}"
    return model.graph.initializers.get(name) or qdq.initializer(model, name, array)


def _node(operator: str, inputs: list[ir.Value | None], name: str, **attributes: int) -> ir.Node:
    node = ir.node(operator, inputs, attributes, name=name)
    node.outputs[0].name = name
    return node


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


# ---- the file


def _strip(model: ir.Model) -> None:
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.DeduplicateInitializersPass()(model)  # zero points, mostly
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    kept = {*model.graph.inputs, *model.graph.outputs}
    inner = [*model.graph.initializers.values(), *(value for node in model.graph for value in node.outputs)]
    for value in inner:
        value.metadata_props.clear()
        if value not in kept:  # an inner tensor's type and shape are inferred by whoever loads the file
            value.type = value.shape = None


def _set_version(model: ir.Model, target: Target) -> None:
    """The oldest IR version that the operators allow: what loads in most runtimes."""
    opset = model.opset_imports.get("", 0)
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], ignore_unknown=True)
    if opset > target.max_opset or needed > target.max_ir_version:
        raise StageError(
            f"compile onnxruntime: the network is opset {opset} (IR {needed}), the device's {target.runtime} loads up "
            f"to opset {target.max_opset} (IR {target.max_ir_version}); export it with an older opset, or update the "
            "runtime on the device"
        )
    model.ir_version = needed

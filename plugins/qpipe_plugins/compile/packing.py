"""Weights of four bits or less: packed in the file, unpacked by nodes that the runtime folds when it loads it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.types import Array


def pack(model: ir.Model, weight: qdq.Weight, quantized: qdq.QuantizedWeight, native: bool) -> None:
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
    return [node("Cast", [packed], f"{name}_int8", to=ir.DataType.INT8)]


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
        node("Cast", [inputs[0]], f"{name}_bytes", to=ir.DataType.INT32),
        node("Gather", [inputs[1], None], f"{name}_levels"),
    ]
    nodes[1].replace_input_with(1, nodes[0].outputs[0])
    last = nodes[-1].outputs[0]
    if count % per_byte:  # cut the padding off
        flat = node("Reshape", [last, _shared(model, "flat", np.array([-1], np.int64))], f"{name}_flat")
        bounds = [_shared(model, "zero", np.array([0], np.int64)), _shared(model, f"end_{count}", np.array([count]))]
        cut = node("Slice", [flat.outputs[0], *bounds], f"{name}_cut")
        nodes += [flat, cut]
        last = cut.outputs[0]
    dims = _shared(model, "shape_" + "_".join(map(str, shape)), shape)
    return [*nodes, node("Reshape", [last, dims], f"{name}_int8")]


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


def node(operator: str, inputs: list[ir.Value | None], name: str, **attributes: int) -> ir.Node:
    node = ir.node(operator, inputs, attributes, name=name)
    node.outputs[0].name = name
    return node

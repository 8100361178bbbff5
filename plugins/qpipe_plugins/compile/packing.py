"""Weights of less than eight bits: packed in the file, unpacked by nodes that the runtime folds when it loads it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.types import Array

# how a code that no whole number of which fills a byte is cut: as many bits of each part do; lowest bits first
PARTS = {3: (1, 2), 5: (1, 4), 6: (2, 4), 7: (1, 2, 4)}
WORTH_PARTS = (
    4096  # weights; with fewer, the nodes that put parts together take more room than they save
)


def is_smaller_packed(quantized: qdq.QuantizedWeight) -> bool:
    """Whether packing makes the file smaller."""
    bits = quantized.codebook.bits
    return bits <= 4 or (bits < 8 and quantized.codes.size >= WORTH_PARTS)


def pack(model: ir.Model, weight: qdq.Weight, quantized: qdq.QuantizedWeight, native: bool) -> None:
    """Put packed codes and the nodes that unpack them in the place of the int8 constant; all are constant, so the
    runtime folds them when it loads the file, and the kernels see the same int8 weights.

    A 4-bit DequantizeLinear straight into Conv would not fuse, hence INT4, Cast to int8, DequantizeLinear."""
    dequantize = weight.value.producer()
    assert dequantize is not None
    whole = dequantize.inputs[0]
    if quantized.codebook.bits in PARTS and quantized.codes.size >= WORTH_PARTS:
        nodes = _unpack_parts(model, weight.name, quantized)
    elif native and quantized.codebook.name in ("uniform", "full_range"):
        nodes = _unpack_int4(model, weight.name, quantized.codes)
    else:
        nodes = _unpack_table(model, weight.name, quantized)
    model.graph.insert_before(dequantize, nodes)
    dequantize.replace_input_with(0, nodes[-1].outputs[0])
    qdq.discard(model, whole)


def _unpack_int4(model: ir.Model, name: str, codes: Array) -> list[ir.Node]:
    packed = ir.val(
        f"{name}_int4", const_value=ir.tensor(codes, dtype=ir.DataType.INT4, name=f"{name}_int4")
    )
    model.graph.register_initializer(packed)
    return [node("Cast", [packed], f"{name}_int8", to=ir.DataType.INT8)]


def _unpack_table(model: ir.Model, name: str, quantized: qdq.QuantizedWeight) -> list[ir.Node]:
    """uint8 bytes of two codes (four at 2 bits), looked up in a table of the levels of every possible byte."""
    book = quantized.codebook
    per_byte = 4 if book.bits <= 2 else 2
    width = 8 // per_byte
    index = np.searchsorted(book.levels, quantized.codes.ravel()).astype(np.uint8)
    index = np.pad(index, (0, -len(index) % per_byte)).reshape(-1, per_byte)
    packed = np.bitwise_or.reduce(
        index << (width * np.arange(per_byte, dtype=np.uint8)), axis=1
    ).astype(np.uint8)
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
    if count % per_byte:
        nodes += _flat(model, last, count, True, name)
        last = nodes[-1].outputs[0]
    dims = _shared(model, "shape_" + "_".join(map(str, shape)), shape)
    return [*nodes, node("Reshape", [last, dims], f"{name}_int8")]


def _unpack_parts(model: ir.Model, name: str, quantized: qdq.QuantizedWeight) -> list[ir.Node]:
    """The parts of all codes, each packed on its own and looked up in a table of what it stands for, added up; the sum
    is looked up in the levels."""
    book = quantized.codebook
    index = np.searchsorted(book.levels, quantized.codes.ravel())
    nodes: list[ir.Node] = []
    code: ir.Value | None = None
    shift = 0
    for width in PARTS[book.bits]:
        own = _unpack_part(
            model, f"{name}_{shift}", (index >> shift) & (2**width - 1), width, shift
        )
        nodes += own
        if code is not None:
            nodes.append(node("Add", [code, own[-1].outputs[0]], f"{name}_{shift}_sum"))
        code = nodes[-1].outputs[0]
        shift = shift + width
    levels = _shared(model, f"levels_{book.name}_{book.bits}", np.array(book.levels, np.int8))
    shape = np.array(quantized.codes.shape, np.int64)
    nodes.append(node("Gather", [levels, code], f"{name}_levels"))
    dims = _shared(model, "shape_" + "_".join(map(str, shape)), shape)
    return [*nodes, node("Reshape", [nodes[-1].outputs[0], dims], f"{name}_int8")]


def _unpack_part(model: ir.Model, name: str, part: Array, width: int, shift: int) -> list[ir.Node]:
    """Nodes that give a part of each code, in its place, as int32 [count]."""
    per_byte = 8 // width
    padded = np.pad(part, (0, -len(part) % per_byte)).reshape(-1, per_byte)
    packed = np.bitwise_or.reduce(padded << (width * np.arange(per_byte)), axis=1).astype(np.uint8)
    values = (np.arange(256)[:, np.newaxis] >> (width * np.arange(per_byte))) & (2**width - 1)
    table = _shared(model, f"part_{width}_{shift}", (values << shift).astype(np.uint8))
    cast = node(
        "Cast",
        [qdq.initializer(model, f"{name}_packed", packed)],
        f"{name}_bytes",
        to=ir.DataType.INT32,
    )
    gather = node("Gather", [table, cast.outputs[0]], f"{name}_values")
    wide = node("Cast", [gather.outputs[0]], f"{name}_wide", to=ir.DataType.INT32)  # what Add takes
    return [
        cast,
        gather,
        wide,
        *_flat(model, wide.outputs[0], len(part), len(part) % per_byte > 0, name),
    ]


def _flat(
    model: ir.Model, values: ir.Value, count: int, is_padded: bool, name: str
) -> list[ir.Node]:
    """Nodes that lay codes end to end, and cut off those that only fill the last byte."""
    flat = node(
        "Reshape", [values, _shared(model, "flat", np.array([-1], np.int64))], f"{name}_flat"
    )
    if not is_padded:
        return [flat]
    bounds = [
        _shared(model, "zero", np.array([0], np.int64)),
        _shared(model, f"end_{count}", np.array([count])),
    ]
    return [flat, node("Slice", [flat.outputs[0], *bounds], f"{name}_cut")]


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

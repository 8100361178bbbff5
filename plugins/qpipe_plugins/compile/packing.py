"""Packing of weights with less than eight bits, and the nodes that unpack them.

The nodes depend on constants alone, so the runtime folds them when it loads the file, and its
kernels see the same int8 weights.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.graph import add_initializer, remove_unused, shared_initializer
from qpipe.types import Array

# how a code is split that does not fill a byte a whole number of times: into parts, of that many
# bits each, that do; lowest bits first
PART_WIDTHS = {3: (1, 2), 5: (1, 4), 6: (2, 4), 7: (1, 2, 4)}
# with fewer weights the nodes that put the parts together take more bytes than they save
MIN_WEIGHTS_FOR_PARTS = 4096
BYTE_VALUES = np.arange(256)


def is_smaller_packed(quantized: qdq.QuantizedWeight) -> bool:
    """Return whether packing makes the file smaller."""
    bits = quantized.codebook.bits
    return bits <= 4 or (bits < 8 and quantized.codes.size >= MIN_WEIGHTS_FOR_PARTS)


def pack(
    model: ir.Model, weight: qdq.Weight, quantized: qdq.QuantizedWeight, *, native_int4: bool
) -> None:
    """Replace the int8 constant by packed codes and the nodes that unpack them.

    Where INT4 is native: INT4, Cast to int8, DequantizeLinear. A 4-bit DequantizeLinear straight
    into Conv would not fuse.
    """
    dequantize = weight.value.producer()
    assert dequantize is not None
    int8_codes = dequantize.inputs[0]
    codebook = quantized.codebook
    if codebook.bits in PART_WIDTHS and quantized.codes.size >= MIN_WEIGHTS_FOR_PARTS:
        nodes = _unpack_parts(model, weight.name, quantized)
    elif native_int4 and codebook.name in ("uniform", "full_range"):
        nodes = _unpack_int4(model, weight.name, quantized.codes)
    else:
        nodes = _unpack_bytes(model, weight.name, quantized)
    model.graph.insert_before(dequantize, nodes)
    dequantize.replace_input_with(0, nodes[-1].outputs[0])
    remove_unused(model.graph, int8_codes)


def named_node(
    operator: str, inputs: list[ir.Value | None], name: str, **attributes: int
) -> ir.Node:
    """Return a node whose output has the node's name."""
    node = ir.node(operator, inputs, attributes, name=name)
    node.outputs[0].name = name
    return node


# ---- the ways to unpack: each gives nodes, the last of which has int8 weights in their shape


def _unpack_int4(model: ir.Model, name: str, codes: Array) -> list[ir.Node]:
    packed = add_initializer(model.graph, f"{name}_int4", codes, dtype=ir.DataType.INT4)
    return [named_node("Cast", [packed], f"{name}_int8", to=ir.DataType.INT8)]


def _unpack_bytes(model: ir.Model, name: str, quantized: qdq.QuantizedWeight) -> list[ir.Node]:
    """Look up bytes of two codes (four at 2 bits) in a table of the levels of every byte."""
    codebook = quantized.codebook
    width = 2 if codebook.bits <= 2 else 4
    index = np.searchsorted(codebook.levels, quantized.codes.ravel())
    packed = add_initializer(model.graph, f"{name}_packed", _pack_bytes(index, width))
    table_name = f"{codebook.name}_{codebook.bits}"
    table = _shared(model, table_name, _level_table(codebook.levels, width))
    wide = named_node("Cast", [packed], f"{name}_bytes", to=ir.DataType.INT32)
    levels = named_node("Gather", [table, wide.outputs[0]], f"{name}_levels")
    nodes = [wide, levels]
    if _has_padding(len(index), width):
        nodes += _flatten(model, levels.outputs[0], len(index), is_padded=True, name=name)
    reshape = _reshape_to_weights(model, nodes[-1].outputs[0], quantized.codes.shape, name)
    return [*nodes, reshape]


def _unpack_parts(model: ir.Model, name: str, quantized: qdq.QuantizedWeight) -> list[ir.Node]:
    """Unpack each part of the codes on its own, add the parts up, and look the sum up in the
    levels.
    """
    codebook = quantized.codebook
    index = np.searchsorted(codebook.levels, quantized.codes.ravel())
    nodes: list[ir.Node] = []
    code: ir.Value | None = None
    shift = 0
    for width in PART_WIDTHS[codebook.bits]:
        part_name = f"{name}_{shift}"
        part = (index >> shift) & (2**width - 1)
        part_nodes = _unpack_part(model, part_name, part, width=width, shift=shift)
        nodes += part_nodes
        if code is not None:
            total = named_node("Add", [code, part_nodes[-1].outputs[0]], f"{part_name}_sum")
            nodes.append(total)
        code = nodes[-1].outputs[0]
        shift += width
    levels = np.array(codebook.levels, np.int8)
    level_table = _shared(model, f"levels_{codebook.name}_{codebook.bits}", levels)
    gather = named_node("Gather", [level_table, code], f"{name}_levels")
    reshape = _reshape_to_weights(model, gather.outputs[0], quantized.codes.shape, name)
    return [*nodes, gather, reshape]


def _unpack_part(
    model: ir.Model, name: str, part: Array, *, width: int, shift: int
) -> list[ir.Node]:
    """Return nodes that give one part of each code, shifted to its place, as int32 [count]."""
    values = (_byte_fields(width) << shift).astype(np.uint8)
    table = _shared(model, f"part_{width}_{shift}", values)
    packed = add_initializer(model.graph, f"{name}_packed", _pack_bytes(part, width))
    cast = named_node("Cast", [packed], f"{name}_bytes", to=ir.DataType.INT32)
    gather = named_node("Gather", [table, cast.outputs[0]], f"{name}_values")
    # int32 is what Add takes
    wide = named_node("Cast", [gather.outputs[0]], f"{name}_wide", to=ir.DataType.INT32)
    is_padded = _has_padding(len(part), width)
    flat = _flatten(model, wide.outputs[0], len(part), is_padded=is_padded, name=name)
    return [cast, gather, wide, *flat]


# ---- nodes


def _flatten(
    model: ir.Model, values: ir.Value, count: int, *, is_padded: bool, name: str
) -> list[ir.Node]:
    """Return nodes that lay codes end to end and cut off those that only fill the last byte."""
    flat_shape = _shared(model, "flat", np.array([-1], np.int64))
    flat = named_node("Reshape", [values, flat_shape], f"{name}_flat")
    if not is_padded:
        return [flat]
    start = _shared(model, "zero", np.array([0], np.int64))
    end = _shared(model, f"end_{count}", np.array([count]))
    return [flat, named_node("Slice", [flat.outputs[0], start, end], f"{name}_cut")]


def _reshape_to_weights(
    model: ir.Model, values: ir.Value, shape: tuple[int, ...], name: str
) -> ir.Node:
    shape_name = "shape_" + "_".join(map(str, shape))
    shape_value = _shared(model, shape_name, np.array(shape, np.int64))
    return named_node("Reshape", [values, shape_value], f"{name}_int8")


def _shared(model: ir.Model, name: str, array: Array) -> ir.Value:
    """Return a constant that all packed weights share."""
    return shared_initializer(model.graph, f"qpipe_{name}", array)


# ---- bytes


def _has_padding(count: int, width: int) -> bool:
    """Return whether so many codes leave a part of the last byte unused."""
    return count % (8 // width) > 0


def _pack_bytes(codes: Array, width: int) -> Array:
    """Return uint8 bytes of codes of `width` bits each, lowest bits first."""
    per_byte = 8 // width
    padded = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)
    shifted = padded << (width * np.arange(per_byte))
    packed: Array = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)
    return packed


def _byte_fields(width: int) -> Array:
    """Return [256, per_byte]: the codes of `width` bits in each byte, lowest bits first."""
    shifts = width * np.arange(8 // width)
    fields: Array = (BYTE_VALUES[:, np.newaxis] >> shifts) & (2**width - 1)
    return fields


def _level_table(levels: tuple[int, ...], width: int) -> Array:
    """Return int8 [256, per_byte]: the levels of each byte's codes, 0 for codes without a level."""
    padded = np.zeros(2**width, np.int8)
    padded[: len(levels)] = levels
    table: Array = padded[_byte_fields(width)]
    return table

"""Packing of weights with less than eight bits, and the nodes that unpack them.

The nodes depend on constants alone, so the runtime folds them when it loads the file, and its
kernels see the same int8 weights. Until the file is loaded, the runtime keeps what each of the
nodes gives. A MobileNetV2 (3.5 million weights) on ONNX Runtime 1.32, x86:

    bits                  8    2    3    4    5    6    7    float
    file, MB              3.6  1.0  1.5  1.9  2.3  2.8  3.2  14.0
    peak of loading, MB   78   83   94   87   96   98   107  125
    time of loading, ms   35   50   80   60   85   90   95   65
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.codebook import Codebook
from qpipe.quant.graph import add_initializer, remove_unused, shared_initializer
from qpipe.types import Array

Packing = Literal["auto", "always", "never"]
Widths = tuple[int, ...]  # of the parts that a code is split into, in bits, lowest first

# a part fills a byte a whole number of times; three bits may have one to spare
WIDTHS: Mapping[int, tuple[Widths, ...]] = {
    2: ((2,),),
    3: ((4,), (1, 2)),
    4: ((4,),),
    5: ((1, 4),),
    6: ((2, 4),),
    7: ((1, 2, 4),),
}
# bytes of the nodes that unpack a weight, at most
NODE_BYTES = 150
NODE_BYTES_PER_PART = 200
# what saves a smaller part is not worth memory and nodes: of a weight, and of the whole file
MIN_SAVED_SHARE_OF_WEIGHT = 0.2
MIN_SAVED_SHARE_OF_FILE = 0.05
BYTE_VALUES = np.arange(256)
CODES_TOGETHER = 8  # of which each part fills whole bytes


# ---- what to pack


def choose_widths(
    weights: Iterable[qdq.Weight], packing: Packing, file_bytes: int, *, adds_int8: bool
) -> dict[qdq.Weight, Widths]:
    """Return the weights to pack, and how their codes are split.

    None is packed that would not make the file smaller with the nodes and the tables that it needs.
    With `auto` these are only weights that lose a fifth of their bytes, as of 6 bits or less, and
    only where the file, of `file_bytes` without packing, loses 5 %. Several parts of a code are put
    together only by a runtime that adds int8.
    """
    if packing == "never":
        return {}
    min_share = MIN_SAVED_SHARE_OF_WEIGHT if packing == "auto" else 0
    chosen: dict[qdq.Weight, Widths] = {}
    saved_bytes = 0
    for codebook, same_levels in _by_codebook(weights).items():
        candidates = _candidate_widths(codebook, adds_int8=adds_int8)
        smaller = _smaller_weights(same_levels, candidates, min_share)
        saved = sum(_saved_bytes(weight, widths) for weight, widths in smaller.items())
        saved -= sum(_table_bytes(codebook, widths) for widths in set(smaller.values()))
        if saved > 0:
            chosen.update(smaller)
            saved_bytes += saved
    if packing == "auto" and saved_bytes < MIN_SAVED_SHARE_OF_FILE * file_bytes:
        return {}
    return chosen


def unpacking_bytes(widths: Mapping[qdq.Weight, Widths]) -> int:
    """Return how much memory the results of all nodes that unpack weights take together."""
    return sum(weight.array.size * _bytes_per_weight(parts) for weight, parts in widths.items())


def _by_codebook(weights: Iterable[qdq.Weight]) -> dict[Codebook, list[qdq.Weight]]:
    groups: dict[Codebook, list[qdq.Weight]] = {}
    for weight in weights:
        if weight.quantized is not None:
            groups.setdefault(weight.quantized.codebook, []).append(weight)
    return groups


def _candidate_widths(codebook: Codebook, *, adds_int8: bool) -> Sequence[Widths]:
    candidates = WIDTHS.get(codebook.bits, ())
    if adds_int8:
        return candidates
    return [widths for widths in candidates if len(widths) == 1]


def _smaller_weights(
    weights: Iterable[qdq.Weight], candidates: Sequence[Widths], min_share: float
) -> dict[qdq.Weight, Widths]:
    """Return the weights that lose more than a share of their bytes, each in its smallest way."""
    smaller: dict[qdq.Weight, Widths] = {}
    for weight in weights:
        best = max(candidates, key=partial(_saved_bytes, weight), default=None)
        if best is not None and _saved_bytes(weight, best) > min_share * weight.array.size:
            smaller[weight] = best
    return smaller


def _saved_bytes(weight: qdq.Weight, widths: Widths) -> int:
    count = weight.array.size
    packed_bytes = sum(-(-count * width // 8) for width in widths)
    node_bytes = NODE_BYTES if len(widths) == 1 else NODE_BYTES_PER_PART * len(widths)
    return count - packed_bytes - node_bytes


def _table_bytes(codebook: Codebook, widths: Widths) -> int:
    tables = sum(BYTE_VALUES.size * 8 // width for width in widths)
    return tables + len(codebook.levels)


def _bytes_per_weight(widths: Widths) -> int:
    """Return the bytes that nodes give for one weight: indices of 4 bytes, parts, sums, shape."""
    indices = sum(widths) / 8 * 4
    sums = len(widths) - 1
    return round(indices) + len(widths) + sums + 1


# ---- packing


def pack(
    model: ir.Model,
    weight: qdq.Weight,
    quantized: qdq.QuantizedWeight,
    widths: Widths,
    *,
    native_int4: bool,
) -> None:
    """Replace the int8 constant by packed codes and the nodes that unpack them.

    Where INT4 is native: INT4, Cast to int8, DequantizeLinear. A 4-bit DequantizeLinear straight
    into Conv would not fuse.
    """
    dequantize = weight.value.producer()
    assert dequantize is not None
    int8_codes = dequantize.inputs[0]
    is_uniform = quantized.codebook.name in ("uniform", "full_range")
    if len(widths) > 1:
        nodes = _unpack_parts(model, weight.name, quantized, widths)
    elif native_int4 and is_uniform and widths == (4,):
        nodes = _unpack_int4(model, weight.name, quantized.codes)
    else:
        nodes = _unpack_bytes(model, weight.name, quantized, widths[0])
    model.graph.insert_before(dequantize, nodes)
    dequantize.replace_input_with(0, nodes[-1].outputs[0])
    remove_unused(model.graph, int8_codes)


def named_node(
    operator: str, inputs: Sequence[ir.Value | None], name: str, **attributes: int
) -> ir.Node:
    """Return a node whose output has the node's name."""
    node = ir.node(operator, inputs, attributes, name=name)
    node.outputs[0].name = name
    return node


# ---- the ways to unpack: each gives nodes, the last of which has int8 weights in their shape


def _unpack_int4(model: ir.Model, name: str, codes: Array) -> list[ir.Node]:
    packed = add_initializer(model.graph, f"{name}_int4", codes, dtype=ir.DataType.INT4)
    return [named_node("Cast", [packed], f"{name}_int8", to=ir.DataType.INT8)]


def _unpack_bytes(
    model: ir.Model, name: str, quantized: qdq.QuantizedWeight, width: int
) -> list[ir.Node]:
    """Look up bytes of two codes (four at 2 bits) in a table of the levels of every byte."""
    codebook = quantized.codebook
    index = np.searchsorted(codebook.levels, quantized.codes.ravel())
    packed = add_initializer(model.graph, f"{name}_packed", _pack_bytes(index, width))
    table_name = f"{codebook.name}_{codebook.bits}"
    table = _shared(model, table_name, _level_table(codebook.levels, width))
    wide = named_node("Cast", [packed], f"{name}_bytes", to=ir.DataType.INT32)
    levels = named_node("Gather", [table, wide.outputs[0]], f"{name}_levels")
    nodes = [wide, levels]
    if _has_padding(len(index), width):
        nodes += _cut(model, levels.outputs[0], len(index), name)
    reshape = _reshape_to_weights(model, nodes[-1].outputs[0], quantized.codes.shape, name)
    return [*nodes, reshape]


def _unpack_parts(
    model: ir.Model, name: str, quantized: qdq.QuantizedWeight, widths: Widths
) -> list[ir.Node]:
    """Look up each part of the codes in a table of its own and add the parts up.

    The sum is the level itself where levels are consecutive, else its index. All parts of eight
    codes have the shape [2, 2, 2], so that they can be added as they are.
    """
    codebook = quantized.codebook
    index = np.searchsorted(codebook.levels, quantized.codes.ravel())
    lowest = codebook.levels[0] if codebook.is_uniform else 0
    nodes: list[ir.Node] = []
    total: ir.Value | None = None
    shift = 0
    for width in widths:
        part_name = f"{name}_{shift}"
        part = (index >> shift) & (2**width - 1)
        offset = lowest if shift == 0 else 0
        nodes += _look_up_part(model, part_name, part, width=width, shift=shift, offset=offset)
        if total is not None:
            nodes.append(named_node("Add", [total, nodes[-1].outputs[0]], f"{part_name}_sum"))
        total = nodes[-1].outputs[0]
        shift += width
    if not codebook.is_uniform:
        levels = np.array(codebook.levels, np.int8)
        level_table = _shared(model, f"levels_{codebook.name}_{codebook.bits}", levels)
        wide = named_node("Cast", [total], f"{name}_index", to=ir.DataType.INT32)
        nodes += [wide, named_node("Gather", [level_table, wide.outputs[0]], f"{name}_levels")]
    if len(index) % CODES_TOGETHER:
        nodes += _cut(model, nodes[-1].outputs[0], len(index), name)
    reshape = _reshape_to_weights(model, nodes[-1].outputs[0], quantized.codes.shape, name)
    return [*nodes, reshape]


def _look_up_part(
    model: ir.Model, name: str, part: Array, *, width: int, shift: int, offset: int
) -> list[ir.Node]:
    """Return nodes that give one part of each code, shifted to its place, plus an offset.

    It is int8 [count / 8, 2, 2, 2].
    """
    values = ((_byte_fields(width) << shift) + offset).astype(np.int8)
    table_shape = [2] * (8 // width).bit_length()
    table_shape[0] = BYTE_VALUES.size
    table = _shared(model, f"part_{width}_{shift}_{offset}", values.reshape(table_shape))
    padded = np.pad(part, (0, -len(part) % CODES_TOGETHER))
    index_shape = [2] * (4 - len(table_shape))
    packed_bytes = _pack_bytes(padded, width).reshape(-1, *index_shape)
    packed = add_initializer(model.graph, f"{name}_packed", packed_bytes)
    cast = named_node("Cast", [packed], f"{name}_bytes", to=ir.DataType.INT32)
    return [cast, named_node("Gather", [table, cast.outputs[0]], f"{name}_values")]


# ---- nodes


def _cut(model: ir.Model, values: ir.Value, count: int, name: str) -> list[ir.Node]:
    """Return nodes that lay codes end to end and cut off those that only fill the last byte."""
    flat_shape = _shared(model, "flat", np.array([-1], np.int64))
    flat = named_node("Reshape", [values, flat_shape], f"{name}_flat")
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

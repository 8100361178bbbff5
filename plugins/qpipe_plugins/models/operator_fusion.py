"""Operators that exporters take apart, put together again: the same function, as runtimes and quantizers know it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from qpipe.quant.graph import (
    add_initializer,
    constant,
    is_row,
    names,
    replace_constant,
    unique_name,
)
from qpipe.quant.integer_operators import only_reader
from qpipe.quant.qdq import WEIGHTED
from qpipe.types import Array

Names = set[str | None]


def join(graph: ir.Graph) -> bool:
    """MatMul and the Add of a bias become Gemm, hard swish by hand HardSwish; whether there were any. Shapes must be
    known before, and inferred again behind."""
    _separate_weights(graph)
    before = len(graph)
    _join_biases(graph)
    _join_hard_swish(graph)
    return len(graph) != before


def _put(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """A node in another's place, giving its output."""
    graph.insert_before(old, new)
    before = old.outputs[0]
    after = new.outputs[0]
    name = before.name
    after.shape = before.shape
    after.type = before.type
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    after.name = name


def _split(values: Iterable[ir.Value | None]) -> tuple[ir.Value, Array] | None:
    """Two inputs as the one that is computed and the other's constant; None where they are not such a pair."""
    first, second = values
    for value, other in ((first, second), (second, first)):
        array = constant(other)
        if array is not None and value is not None and constant(value) is None:
            return value, array
    return None


def _separate_weights(graph: ir.Graph) -> None:
    """A constant that layers read in different ways is copied for each way: it cannot have one axis of channels."""
    ways: dict[ir.Value, list[tuple[str, int]]] = {}
    for node in graph:
        value = node.inputs[1] if len(node.inputs) > 1 else None
        array = constant(value) if node.op_type in WEIGHTED and not node.domain else None
        if value is None or array is None:
            continue
        way = (
            "Conv" if node.op_type == "Conv" else "product",
            node.attributes.get_int("transB", 0),
        )
        known = ways.setdefault(value, [way])
        if way not in known:
            known.append(way)
        if way != known[0]:
            replace_constant(node, 1, array)


# ---- biases


def _join_biases(graph: ir.Graph) -> None:
    """Quantization knows the bias of a Gemm. Tensors of more than two axes are reshaped around it, as runtimes do it
    too: once for all products of the same tensor."""
    taken = names(graph)
    rows = dict[ir.Value, ir.Value]()
    for node in list(graph):
        found = _split(node.inputs) if node.op_type == "Add" else None
        product = found[0].producer() if found is not None else None
        if found is not None and product is not None and _takes(product, node, found[1]):
            _join_bias(graph, product, node, found[1], rows, taken)


def _join_bias(
    graph: ir.Graph,
    product: ir.Node,
    sum_: ir.Node,
    bias: Array,
    rows: dict[ir.Value, ir.Value],
    taken: Names,
) -> None:
    source, weight = product.inputs
    array = constant(weight)
    assert source is not None
    assert source.shape is not None
    assert array is not None
    is_matrix = len(source.shape) == 2
    if source not in rows:
        flat = (
            source
            if is_matrix
            else _reshape(graph, product, source, [-1, array.shape[0]], taken).outputs[0]
        )
        rows[source] = flat
    row = np.broadcast_to(bias.reshape(-1), array.shape[1]).copy()
    added = add_initializer(graph, f"{product.name}_bias", row, taken)
    gemm = ir.node("Gemm", [rows[source], weight, added], name=product.name)
    gemm.outputs[0].name = unique_name(graph, f"{sum_.outputs[0].name}_rows", taken)
    if is_matrix:
        _put(graph, sum_, gemm)
    else:
        graph.insert_before(sum_, gemm)
        whole = [*(size for size in source.shape[:-1] if isinstance(size, int)), array.shape[1]]
        _put(graph, sum_, _reshape(graph, None, gemm.outputs[0], whole, taken))
    graph.remove(product, safe=True)


def _takes(product: ir.Node, node: ir.Node, bias: Array) -> bool:
    """Whether a product is one by a constant matrix, which nothing but this Add of a bias reads."""
    weight, source = (
        (constant(product.inputs[1]), product.inputs[0])
        if product.op_type == "MatMul"
        else (None, None)
    )
    if (
        weight is None
        or weight.ndim != 2
        or weight.dtype != np.float32
        or only_reader(product.outputs[0]) is not node
    ):
        return False
    if (
        source is None
        or source.shape is None
        or not source.shape.is_static()
        or len(source.shape) < 2
    ):
        return False
    fits = is_row(bias) and bias.size in (1, weight.shape[1])
    return fits and node.outputs[0].shape == product.outputs[0].shape


def _reshape(
    graph: ir.Graph, before: ir.Node | None, value: ir.Value, shape: Sequence[int], taken: Names
) -> ir.Node:
    wanted = add_initializer(graph, f"{value.name}_shape", np.array(shape, np.int64), taken)
    node = ir.node("Reshape", [value, wanted], name=f"{value.name}_reshape")
    node.outputs[0].name = unique_name(graph, f"{value.name}_reshaped", taken)
    if before is not None:
        graph.insert_before(before, node)
    return node


# ---- hard swish


def _join_hard_swish(graph: ir.Graph) -> None:
    """x * clip(x + 3, 0, 6) / 6, in whatever order it is multiplied, and x * HardSigmoid(x)."""
    for node in list(graph):
        if node.op_type not in ("Mul", "Div"):
            continue
        factor, values = _factors(node.outputs[0])
        x = _hard_swish_of(factor, values) if len(values) == 2 else None
        if x is not None:
            new = ir.node("HardSwish", [x], name=node.name)
            _put(graph, node, new)


def _factors(value: ir.Value) -> tuple[float, list[ir.Value]]:
    """A product as its constant factor and the tensors that are multiplied."""
    node = value.producer()
    found = _split(node.inputs) if node is not None and node.op_type in ("Mul", "Div") else None
    if node is None or node.op_type not in ("Mul", "Div"):
        return 1.0, [value]
    if found is None:
        if node.op_type == "Div":
            return 1.0, [value]
        parts = [_inner(each) for each in node.inputs if each is not None]
        return math.prod(part[0] for part in parts), [each for part in parts for each in part[1]]
    factor, values = _inner(found[0])
    if found[1].size != 1 or (node.op_type == "Div" and found[0] is not node.inputs[0]):
        return 1.0, [value]
    number = float(found[1].reshape(()))
    return (factor / number if node.op_type == "Div" and number else factor * number), values


def _inner(value: ir.Value) -> tuple[float, list[ir.Value]]:
    return _factors(value) if only_reader(value) is not None else (1.0, [value])


def _hard_swish_of(factor: float, values: list[ir.Value]) -> ir.Value | None:
    for x, gate in (values, values[::-1]):
        node = gate.producer()
        if node is None or x is gate:
            continue
        if node.op_type == "HardSigmoid" and node.inputs[0] is x and math.isclose(factor, 1):
            slope = node.attributes.get_float("alpha", 0.2)
            if (
                math.isclose(slope, 1 / 6, rel_tol=1e-5)
                and node.attributes.get_float("beta", 0.5) == 0.5
            ):
                return x
        if (
            node.op_type == "Clip"
            and _bounds(node) == (0, 6)
            and math.isclose(factor, 1 / 6, rel_tol=1e-5)
        ):
            before = node.inputs[0].producer() if node.inputs[0] is not None else None
            sum_ = _split(before.inputs) if before is not None and before.op_type == "Add" else None
            if sum_ is not None and sum_[0] is x and sum_[1].size == 1 and sum_[1].item() == 3:
                return x
    return None


def _bounds(clip: ir.Node) -> tuple[float, ...]:
    arrays = [constant(value) for value in clip.inputs[1:]]
    return tuple(
        float(array.reshape(())) for array in arrays if array is not None and array.size == 1
    )

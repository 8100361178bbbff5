"""What a network computes from constants alone is computed once: folding at import."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from qpipe.quant.graph import constant, names, replace_constant
from qpipe.types import Array
from qpipe_plugins.models.memory_limit import limited_memory
from qpipe_plugins.models.operator_fusion import join

# elements that folding one node may read and give, and all nodes together: more is better computed than stored
LARGEST = 1 << 24
LARGEST_SUM = 1 << 27
# of operators that look at each element more than a few times
LARGEST_PRODUCT = 1 << 20
LARGEST_OTHER = 1 << 16
PRODUCTS = {"Einsum", "Gemm", "MatMul"}
QUICK = {
    "Abs",
    "Add",
    "And",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pad",
    "Pow",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reshape",
    "Round",
    "Shape",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
}
SMALL = 1 << 10  # elements of constants that shape inference may look at
ROOM = (
    1 << 30
)  # bytes: shape inference lists the elements of a vector of any length, if it lies in the network's way
NOT_FOLDED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


def fold(model: ir.Model) -> bool:
    """Remove Identity and Dropout, fold constants and batch norm, infer all shapes; False where these contradict."""
    changed = True
    while changed:
        _drop_dropout(model.graph)
        common.IdentityEliminationPass()(model)
        if not _infer(model):
            return False
        changed = _fold_constants(model)
    _fold_factors(model.graph)
    _fold_batch_norms(model.graph)
    is_joined = join(model.graph)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    return _infer(model) if is_joined else True


def _infer(model: ir.Model) -> bool:
    # onnx_ir's own pass only warns where inference fails
    with _without_weights(model.graph):
        proto = ir.to_proto(model)
    infer = partial(onnx.shape_inference.infer_shapes, proto, check_type=True, data_prop=True)
    with limited_memory(ROOM + 4 * proto.ByteSize()):
        try:
            inferred = infer(strict_mode=True).graph
            is_sure = True
        except onnx.shape_inference.InferenceError:
            # it stumbles over some functions and branches that are sound; a contradiction leaves a shape unknown
            try:
                inferred = infer(strict_mode=False).graph
                is_sure = False
            except onnx.shape_inference.InferenceError:
                return False
    if not is_sure:
        sure = {info.name for info in (*inferred.value_info, *inferred.output) if _has_shape(info)}
        if any(
            value.name and value.name not in sure for node in model.graph for value in node.outputs
        ):
            return False
    infos = {info.name: info for info in (*inferred.value_info, *inferred.output)}
    for value in (value for node in model.graph for value in node.outputs):
        if value.name in infos:
            known = ir.from_proto(infos[value.name])
            if known.shape is not None:
                value.shape = known.shape
                value.type = known.type
    return True


def _has_shape(info: onnx.ValueInfoProto) -> bool:
    return info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape")


@contextmanager
def _without_weights(graph: ir.Graph) -> Iterator[None]:
    """Large constants are inputs meanwhile: shape inference copies all that it is given."""
    values = list(graph.initializers.values())
    count = len(graph.inputs)
    tensors = [value.const_value for value in values]
    for value, tensor in zip(values, tensors, strict=True):
        if tensor is not None and tensor.size > SMALL:
            value.shape = ir.Shape(tensor.shape.numpy())
            value.type = ir.TensorType(tensor.dtype)
            value.const_value = None
            del graph.initializers[value.name or ""]
            graph.inputs.append(value)
    try:
        yield
    finally:
        graph.inputs[:] = graph.inputs[:count]
        graph.initializers.clear()
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
            graph.register_initializer(value)


def _drop_dropout(graph: ir.Graph) -> None:
    for node in list(graph):
        # with training_mode true it is no inference network; a mask in use needs the node
        if node.op_type == "Dropout" and not any(
            value.uses() or value.is_graph_output() for value in node.outputs[1:]
        ):
            _replace(graph, node, ir.node("Identity", [node.inputs[0]], name=node.name))


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    new.outputs[0].name = old.outputs[0].name
    new.outputs[0].shape = old.outputs[0].shape
    new.outputs[0].type = old.outputs[0].type
    ir.convenience.replace_nodes_and_values(
        graph, old, [old], [new], old.outputs[:1], new.outputs[:1]
    )


# ---- constants


def _fold_constants(model: ir.Model) -> bool:
    changed = False
    total = 0
    for node in list(model.graph):
        values = _compute(node, model.opset_imports) if total < LARGEST_SUM else None
        if values is None:
            continue
        for old, array in zip(node.outputs, values, strict=True):
            name = old.name
            old.name = None
            if old.uses():
                new = ir.val(name, const_value=ir.Tensor(array, name=name))
                model.graph.register_initializer(new)
                old.replace_all_uses_with(new)
            total += array.size
        model.graph.remove(node, safe=True)
        changed = True
    return changed and total < LARGEST_SUM


def _compute(node: ir.Node, opsets: dict[str, int]) -> list[Array] | None:
    """The outputs of a node that depends on nothing fed; None for all other nodes."""
    if (
        node.domain
        or node.op_type in NOT_FOLDED
        or any(value.is_graph_output() for value in node.outputs)
    ):
        return None  # a constant output stays with its node
    if any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for a in node.attributes.values()
    ):
        return None
    shape = _static(node.inputs[0]) if node.op_type == "Shape" else None
    if shape is not None:
        start = node.attributes.get_int("start", 0)
        end = node.attributes.get_int("end", len(shape))
        return [np.array(shape[start:end], np.int64)]
    arrays: dict[str, Array] = {}
    for value in node.inputs:
        array = constant(value)
        if value is not None and array is None:
            return None
        if value is not None and value.name and array is not None:
            arrays[value.name] = array
    shapes = [_static(value) for value in node.outputs]
    if any(shape is None or math.prod(shape) > _limit(node) for shape in shapes):
        return None
    return (
        None
        if any(array.size > _limit(node) for array in arrays.values())
        else _evaluate(node, arrays, opsets)
    )


def _limit(node: ir.Node) -> int:
    if node.op_type in QUICK:
        return LARGEST
    return LARGEST_PRODUCT if node.op_type in PRODUCTS else LARGEST_OTHER


def _evaluate(
    node: ir.Node, arrays: dict[str, Array], opsets: dict[str, int]
) -> list[Array] | None:
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(ir.serde.serialize_node(node), opsets=opsets)
            return [np.asarray(array) for array in evaluator.run(None, arrays)]
    except Exception:  # noqa: BLE001  (whatever is wrong with it, the runtime will say so, if it ever gets there)
        return None


def _static(value: ir.Value | None) -> list[int] | None:
    shape = value.shape if value is not None else None
    sizes = [size for size in shape if isinstance(size, int)] if shape is not None else []
    return sizes if shape is not None and len(sizes) == len(shape) else None


# ---- layers


def _fold_factors(graph: ir.Graph) -> None:
    """The alpha and beta of a Gemm go into its weight and bias, where these are constant."""
    taken = names(graph)
    for node in graph:
        if node.op_type != "Gemm" or node.domain:
            continue
        for index, name in ((1, "alpha"), (2, "beta")):
            value = node.inputs[index] if index < len(node.inputs) else None
            factor = node.attributes.get_float(name, 1.0)
            array = constant(value)
            if value is not None and (array is None or array.dtype != np.float32):
                continue
            if array is not None and factor != 1.0:
                replace_constant(
                    node, index, (array * np.float64(factor)).astype(np.float32), taken=taken
                )
            node.attributes.pop(name, None)


def _fold_batch_norms(graph: ir.Graph) -> None:
    taken = names(graph)
    for node in list(graph):
        before = (
            node.inputs[0].producer()
            if node.op_type == "BatchNormalization" and node.inputs[0]
            else None
        )
        if (
            before is None
            or len(before.outputs[0].uses()) != 1
            or before.outputs[0].is_graph_output()
        ):
            continue
        if (
            node.attributes.get_int("training_mode", 0)
            or len([v for v in node.outputs if v.name]) > 1
        ):
            continue
        weight = constant(before.inputs[1])
        parameters = [constant(value) for value in node.inputs[1:5]]
        bias = (
            constant(before.inputs[2])
            if len(before.inputs) > 2 and before.inputs[2]
            else np.zeros(1, np.float32)
        )
        if (
            weight is None
            or bias is None
            or any(p is None for p in parameters)
            or not _scalable(before)
        ):
            continue
        gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
        factor = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        scaled = _scale_outputs(before, weight, factor)
        replace_constant(before, 1, scaled.astype(np.float32), taken=taken)
        moved = ((bias - mean) * factor + beta).astype(np.float32)
        replace_constant(before, 2, moved, f"{before.name}_bias", taken)
        _take_over(graph, node, before)


def _scalable(node: ir.Node) -> bool:
    if node.op_type == "Gemm":
        return (
            node.attributes.get_float("alpha", 1.0) == 1.0 == node.attributes.get_float("beta", 1.0)
        )
    return node.op_type in ("Conv", "ConvTranspose")


def _scale_outputs(node: ir.Node, weight: Array, factor: Array) -> Array:
    """The weight with each output channel times its factor."""
    if node.op_type == "Gemm":
        return weight * (factor[:, np.newaxis] if node.attributes.get_int("transB", 0) else factor)
    if node.op_type == "ConvTranspose":  # [inputs, outputs / group, ...]
        group = node.attributes.get_int("group", 1)
        split = weight.reshape(group, len(weight) // group, weight.shape[1], -1)
        return (split * factor.reshape(group, 1, -1, 1)).reshape(weight.shape)
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))


def _take_over(graph: ir.Graph, node: ir.Node, before: ir.Node) -> None:
    """Remove a node; the one before gives its output, under its name."""
    old = node.outputs[0]
    new = before.outputs[0]
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = name

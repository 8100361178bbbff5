"""What a file for the runtime can do without: the same numbers to the last bit from fewer bytes and nodes."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.quant import qdq
from qpipe_plugins.compile.packing import node

QDQ = ("QuantizeLinear", "DequantizeLinear")
# attributes of a convolution that say what holds without them; kernel_shape is its weight's
DEFAULTS: dict[str, int] = {"dilations": 1, "strides": 1, "pads": 0, "group": 1}


def drop_clips(model: ir.Model) -> None:
    """Take out each Clip and Relu whose work the quantizing after it does: both bounds are, or lie beyond, its ends."""
    for clip in model.graph:
        users = clip.outputs[0].consumers()
        if (
            len(users) == 1
            and users[0].op_type == "QuantizeLinear"
            and _saturates_within(clip, users[0])
        ):
            users[0].replace_input_with(0, clip.inputs[0])


def _saturates_within(node: ir.Node, quantizer: ir.Node) -> bool:
    scale, zero_point = (qdq.constant(value) for value in (*quantizer.inputs[1:], None)[:2])
    if (
        node.op_type not in ("Clip", "Relu")
        or scale is None
        or zero_point is None
        or scale.size != 1
    ):
        return False
    bounds = [0.0, np.inf] if node.op_type == "Relu" else [-np.inf, np.inf]
    for place, value in enumerate(node.inputs[1:]):
        bound = qdq.constant(value)
        if value is not None:
            bounds[place] = np.nan if bound is None else float(bound.reshape(()))
    ends = np.iinfo(zero_point.dtype)
    low, high = np.rint(np.array(bounds, np.float32) / scale.reshape(())) + int(
        zero_point.reshape(())
    )
    return bool(low <= ends.min and high >= ends.max)


def derive_bias_scales(model: ir.Model) -> None:
    """The scale of a bias per channel as the product that it is, activation scale times weight scale: the runtime folds
    it when it loads the file, where it takes no room."""
    for convolution in model.graph:
        sources = _dequantizers(convolution)
        if convolution.op_type != "Conv" or len(sources) != 3:
            continue
        activation, weight, bias = (source.inputs[1] for source in sources)
        values = (qdq.constant(activation), qdq.constant(weight))
        scale = qdq.constant(bias)
        if scale is None or scale.size == 1 or values[0] is None or values[1] is None:
            continue
        if np.array_equal(values[0] * values[1], scale):
            product = node(
                "Mul", [activation, weight], f"{sources[2].outputs[0].name}_scale_product"
            )
            model.graph.insert_before(sources[2], product)
            sources[2].replace_input_with(1, product.outputs[0])
            qdq.discard(model, bias)


def _dequantizers(reader: ir.Node) -> list[ir.Node]:
    """The DequantizeLinear nodes that a node reads, in the order of its inputs; none where its first input is float."""
    sources = [value.producer() for value in reader.inputs if value is not None]
    found = [
        source for source in sources if source is not None and source.op_type == "DequantizeLinear"
    ]
    return found if sources and sources[0] in found else []


def strip(model: ir.Model, own: set[ir.Node]) -> None:
    """Take out what says nothing to the runtime; in a small network that is a fifth of the file or more."""
    for each in model.graph:
        _drop_defaults(each)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.DeduplicateInitializersPass()(model)  # zero points, mostly
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    kept = {*model.graph.inputs, *model.graph.outputs}
    inner = [
        *model.graph.initializers.values(),
        *(value for node in model.graph for value in node.outputs),
    ]
    for value in inner:
        value.metadata_props.clear()
        if (
            value not in kept
        ):  # an inner tensor's type and shape are inferred by whoever loads the file
            value.type = value.shape = None
    taken = ir.convenience.create_value_mapping(model.graph)
    names = (name for number in itertools.count() if (name := f"t{number:x}") not in taken)
    for value in dict.fromkeys(inner):
        if value not in kept:
            value.name = next(names)
    for each in model.graph:
        if each not in own:  # the network's own keep theirs, by which a profile is read
            each.name = ""


def _drop_defaults(layer: ir.Node) -> None:
    """Of a convolution, the attributes and the zero points of constants that have the value they have when absent."""
    if layer.op_type != "Conv":
        return
    for name, default in DEFAULTS.items():
        if name in layer.attributes and np.all(np.array(layer.attributes[name].value) == default):
            del layer.attributes[name]
    layer.attributes.pop("kernel_shape", None)
    for source in _dequantizers(layer)[1:]:  # the first is the activation's
        zero_point = qdq.constant(source.inputs[2]) if len(source.inputs) > 2 else None
        if (
            zero_point is not None
            and zero_point.dtype in (np.int8, np.int32)
            and not zero_point.any()
        ):
            source.resize_inputs(2)

"""What a build can do without: the same numbers to the last bit from fewer bytes and nodes."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.quant import qdq
from qpipe.quant.arithmetic import dequantize
from qpipe.quant.code_bounds import code_limits
from qpipe.quant.graph import (
    constant,
    only_reader,
    optional_input,
    remove_unused,
    value_names,
    without_subgraphs,
)
from qpipe_plugins.compile.packing import named_node

# attributes of a convolution with their values when absent; kernel_shape is that of the weight
CONV_DEFAULTS: dict[str, int] = {"dilations": 1, "strides": 1, "pads": 0, "group": 1}

# of a scale: less than half a level over 255 levels
RESCALING_TOLERANCE = 1e-4


# ---- Clips that saturation makes up for


def remove_saturated_clips(model: ir.Model) -> None:
    """Remove each Clip and Relu that changes nothing, because the QuantizeLinear after it
    saturates at its bounds or within.
    """
    for node in model.graph:
        if node.op_type not in ("Clip", "Relu"):
            continue
        readers = node.outputs[0].consumers()
        if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
            continue
        quantizer = readers[0]
        if saturates_within(quantizer, _clip_bounds(node)):
            quantizer.replace_input_with(0, node.inputs[0])


def _clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Return the bounds of a Clip or Relu; NaN for one that is not constant."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [-np.inf, np.inf]
    for position, value in enumerate(node.inputs[1:]):
        if value is not None:
            array = constant(value)
            bounds[position] = np.nan if array is None else float(array.reshape(()))
    low, high = bounds
    return low, high


def saturates_within(quantizer: ir.Node, bounds: tuple[float, float]) -> bool:
    """Return whether a QuantizeLinear saturates at these bounds or within; False with NaN."""
    scale = constant(quantizer.inputs[1])
    zero_point = constant(optional_input(quantizer, 2))
    if scale is None or zero_point is None or scale.size != 1:
        return False
    lowest, highest = code_limits(quantizer, zero_point.dtype)
    codes = np.rint(np.array(bounds, np.float32) / scale.reshape(()))
    low, high = codes + int(zero_point.reshape(()))
    return bool(low <= lowest and high >= highest)


# ---- products that scales make up for


def remove_rescaling(model: ir.Model) -> None:
    """Remove each Mul by a constant number, with its QuantizeLinear, that leaves integers as they
    are: only the scale behind it is another.
    """
    for node in list(model.graph):
        quantizer = only_reader(node.outputs[0]) if node.op_type == "Mul" else None
        sources = _dequantizers(node)
        if quantizer is None or quantizer.op_type != "QuantizeLinear" or len(sources) != 2:
            continue
        factors = [source for source in sources if constant(source.inputs[0]) is not None]
        others = [source for source in sources if source not in factors]
        if len(factors) == len(others) == 1 and _rescales(others[0], factors[0], quantizer):
            codes = others[0].inputs[0]
            assert codes is not None
            quantizer.outputs[0].replace_all_uses_with(codes)
            model.graph.remove([quantizer, node], safe=True)


def _rescales(source: ir.Node, factor: ir.Node, quantizer: ir.Node) -> bool:
    """Return whether the codes of a source are those of its product by a constant factor."""
    scale, zero_point = qdq.scale_and_zero_point_of(source)
    new_scale, new_zero_point = qdq.scale_and_zero_point_of(quantizer)
    codes = constant(factor.inputs[0])
    factor_scale, factor_zero_point = qdq.scale_and_zero_point_of(factor)
    if scale is None or new_scale is None or factor_scale is None or codes is None:
        return False
    if zero_point is None or new_zero_point is None or factor_zero_point is None:
        return False
    if codes.size != 1 or scale.size != 1 or new_scale.size != 1:
        return False
    number = dequantize(codes, factor_scale, factor_zero_point)
    is_same_scale = np.allclose(scale * number, new_scale, rtol=RESCALING_TOLERANCE, atol=0)
    return bool(is_same_scale) and np.array_equal(zero_point, new_zero_point)


# ---- scales of biases


def derive_bias_scales(model: ir.Model) -> None:
    """Compute the scale of each per-channel bias in the graph: activation scale * weight scale.

    The runtime folds the product when it loads the file, where it takes no bytes.
    """
    for node in model.graph:
        sources = _dequantizers(node)
        if node.op_type != "Conv" or len(sources) != 3:
            continue
        activation_scale, weight_scale, bias_scale = (source.inputs[1] for source in sources)
        activation_array = constant(activation_scale)
        weight_array = constant(weight_scale)
        bias_array = constant(bias_scale)
        if activation_array is None or weight_array is None or bias_array is None:
            continue
        if bias_array.size > 1 and np.array_equal(activation_array * weight_array, bias_array):
            dequantizer = sources[2]
            name = f"{dequantizer.outputs[0].name}_scale_product"
            product = named_node("Mul", [activation_scale, weight_scale], name)
            model.graph.insert_before(dequantizer, product)
            dequantizer.replace_input_with(1, product.outputs[0])
            remove_unused(model.graph, bias_scale)


def _dequantizers(reader: ir.Node) -> list[ir.Node]:
    """Return the DequantizeLinear nodes that a node reads, in the order of its inputs.

    None of them where its first input is float.
    """
    producers = [value.producer() for value in reader.inputs if value is not None]
    dequantizers = [
        node for node in producers if node is not None and node.op_type == "DequantizeLinear"
    ]
    return dequantizers if producers and producers[0] in dequantizers else []


# ---- what the runtime does not need to be told


def remove_redundancy(model: ir.Model, network_nodes: set[ir.Node]) -> None:
    """Remove what tells the runtime nothing: in a small network a fifth of the file or more.

    Nodes of the network itself keep their names, by which a profile is read; quantization's lose
    them.
    """
    for node in model.graph:
        if node.op_type == "Conv":
            _remove_conv_defaults(node)
    with without_subgraphs(model.graph):
        common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    _join_equal_constants(model.graph)
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    _shorten_inner_values(model.graph)
    for node in model.graph:
        if node not in network_nodes:
            node.name = ""


def _join_equal_constants(graph: ir.Graph) -> None:
    """Let nodes read one constant where there were several with the same content.

    Those are zero points, mostly. An output of the network stays what it is. So does what is read
    by a BatchNormalization in training mode: ONNX Runtime writes new statistics over its inputs.
    """
    first_by_content: dict[object, ir.Value] = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        is_read_only = not any(_updates_inputs(reader) for reader in value.consumers())
        is_fixed = value.is_graph_input() or value.is_graph_output() or not is_read_only
        if tensor is None or is_fixed or tensor.dtype == ir.DataType.STRING:
            continue
        content = (tensor.dtype, tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).digest())
        first = first_by_content.setdefault(content, value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[value.name or ""]


def _updates_inputs(node: ir.Node) -> bool:
    is_batch_norm = node.op_type == "BatchNormalization"
    return is_batch_norm and bool(node.attributes.get_int("training_mode", 0))


def _shorten_inner_values(graph: ir.Graph) -> None:
    """Give all tensors but inputs and outputs short names, and no type and shape.

    The runtime infers types and shapes of inner tensors when it loads the file.
    """
    interface = {*graph.inputs, *graph.outputs}
    inner = list(graph.initializers.values())
    for node in graph:
        inner += node.outputs
    used_names = value_names(graph)
    all_names = (f"t{number:x}" for number in itertools.count())
    free_names = (name for name in all_names if name not in used_names)
    for value in dict.fromkeys(inner):
        value.metadata_props.clear()
        if value not in interface:
            value.type = None
            value.shape = None
            value.name = next(free_names)


def _remove_conv_defaults(node: ir.Node) -> None:
    """Remove attributes and zero points of constants that have the value they have when absent."""
    for name, default in CONV_DEFAULTS.items():
        if name in node.attributes and np.all(np.array(node.attributes[name].value) == default):
            del node.attributes[name]
    node.attributes.pop("kernel_shape", None)
    for source in _dequantizers(node)[1:]:  # the first is the activation's
        zero_point = constant(optional_input(source, 2))
        if zero_point is None or zero_point.any():
            continue
        if zero_point.dtype in (np.int8, np.int32):
            source.resize_inputs(2)

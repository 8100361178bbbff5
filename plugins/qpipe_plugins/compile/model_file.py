"""The file that a runtime loads: int32 biases, packed weights, and nothing that wastes bytes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.biases import quantize_biases
from qpipe.quant.code_bounds import bounded_codes, bounds_codes, shift_bounds
from qpipe.quant.exact_sums import LIMITED_LAYERS
from qpipe.quant.graph import (
    constant,
    optional_input,
    remove_unused,
    replace_constant,
    shared_initializer,
)
from qpipe.quant.weight_bits import weight_count_and_bits
from qpipe.types import Platform
from qpipe_plugins.compile import dynamic_batch as batch
from qpipe_plugins.compile.float_kernels import float_thin_convolutions, lower_prelu
from qpipe_plugins.compile.hard_activations import lower_hard_activations
from qpipe_plugins.compile.noise import check_unchanged
from qpipe_plugins.compile.opset_versions import fit_versions
from qpipe_plugins.compile.packing import Packing, choose_widths, pack, unpacking_bytes
from qpipe_plugins.compile.pooling import pool_channels_last
from qpipe_plugins.compile.redundancy import (
    derive_bias_scales,
    remove_redundancy,
    remove_rescaling,
    remove_saturated_clips,
)

FILE_NAME = "model.onnx"
INT4_OPSET = 21  # the first that has the type
# the newest one of ONNX Runtime 1.23, the first whose Cast takes INT4 and whose Add takes int8
SMALL_INTEGERS_OPSET = 24
INT8_ARCHITECTURES = ("aarch64", "arm64")  # whose kernels prefer int8 activations to uint8

log = logging.getLogger(__name__)


class TensorDescription(TypedDict):
    """An input or output of the network, in build.json."""

    name: str | None
    dtype: str | None
    shape: list[int | str] | None


class WeightSummary(TypedDict):
    """How many weights there are, and how many bits they have together."""

    count: int
    bits: int
    # layers whose weights have fewer levels, as sums of products saturate on the target
    limited_layers: int


class NetworkManifest(TypedDict):
    """What build.json says of the network."""

    model: str
    weights: WeightSummary
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


def write_network(
    model: ir.Model,
    platform: Platform,
    folder: Path,
    where: str,
    *,
    packing: Packing = "auto",
    cpu_kernels: bool = False,
    dynamic_batch: bool = False,
) -> NetworkManifest:
    """Write the network into the folder in the versions that the platform loads.

    Packed weights are unpacked again when the file is loaded: smaller, not slower. With
    `cpu_kernels`, operators are replaced that ONNX Runtime's CPU kernels compute slowly, or in
    float. With `dynamic_batch`, axis 0 of inputs and outputs is open. Raise StageError where a
    float network would compute something else than before.
    """
    float_network = None if _is_quantized(model) else ir.to_proto(model)
    network_nodes = {
        node
        for node in model.graph
        if node.op_type not in qdq.QDQ_OPERATORS and not bounds_codes(node)
    }
    count, bits = weight_count_and_bits(model)
    limited_layers = int(model.metadata_props.get(LIMITED_LAYERS, 0))
    if cpu_kernels:
        float_thin_convolutions(model)
        network_nodes |= lower_prelu(model)
    quantize_biases(model)
    _pack_weights(model, platform, packing)
    if platform.runtime == "onnxruntime" and platform.arch in INT8_ARCHITECTURES:
        _shift_activations(model)
    if cpu_kernels:
        network_nodes |= lower_hard_activations(model)
        network_nodes |= pool_channels_last(model)
    remove_saturated_clips(model)
    remove_rescaling(model)
    derive_bias_scales(model)
    if dynamic_batch:
        batch.open_reshapes(model)
    remove_redundancy(model, network_nodes)
    proto = fit_versions(model, platform, where)
    if float_network is not None:
        check_unchanged(float_network, proto, where)
    if dynamic_batch:
        batch.open_batch(proto, where)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / FILE_NAME)
    graph = ir.from_proto(proto).graph
    return {
        "model": FILE_NAME,
        "weights": {"count": count, "bits": bits, "limited_layers": limited_layers},
        "inputs": [_describe_tensor(value) for value in graph.inputs],
        "outputs": [_describe_tensor(value) for value in graph.outputs if _holds_numbers(value)],
    }


def _is_quantized(model: ir.Model) -> bool:
    return any(node.op_type in qdq.QDQ_OPERATORS for node in model.graph)


def _pack_weights(model: ir.Model, platform: Platform, packing: Packing) -> None:
    has_int4 = model.opset_imports.get("", 0) >= INT4_OPSET
    has_small_integers = platform.max_opset >= SMALL_INTEGERS_OPSET
    adds_int8 = platform.runtime == "onnxruntime" and has_small_integers
    widths = choose_widths(qdq.weights(model), packing, _constant_bytes(model), adds_int8=adds_int8)
    for weight, parts in widths.items():
        if weight.quantized is not None:
            pack(
                model, weight, weight.quantized, parts, native_int4=has_int4 and has_small_integers
            )
    if widths:
        log.warning(
            "packed %d weights; unpacking them takes about %.1f MB of memory during loading",
            len(widths),
            unpacking_bytes(widths) / 1e6,
        )


def _constant_bytes(model: ir.Model) -> int:
    """Return how many bytes all constants take: nearly all of a file."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _holds_numbers(value: ir.Value) -> bool:
    """Return whether an output is a tensor of numbers: a device returns no others."""
    is_tensor = value.type is None or isinstance(value.type, ir.TensorType)
    return is_tensor and value.dtype != ir.DataType.STRING


def _describe_tensor(value: ir.Value) -> TensorDescription:
    shape: list[int | str] | None = None
    if value.shape is not None:
        shape = [size if isinstance(size, int) else str(size) for size in value.shape]
    dtype = value.dtype.numpy().name if value.dtype is not None else None
    return {"name": value.name, "dtype": dtype, "shape": shape}


# ---- what the device's kernels prefer, without loss


def _shift_activations(model: ir.Model) -> None:
    """Turn uint8 activations into int8: codes and zero points less 128, the same real values.

    So are tables that Gather looks up, and numbers that are added or multiplied by.
    """
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            _shift_constant(model, node)
        if node.op_type != "QuantizeLinear":
            continue
        pair = [node, *bounded_codes(node).consumers()]
        operators = {user.op_type for user in pair}
        have_zero_points = all(len(user.inputs) > 2 for user in pair)
        if operators == set(qdq.QDQ_OPERATORS) and have_zero_points:
            _shift_bounds(model, node)
            for user in pair:
                _shift_zero_point(model, user)


def _shift_constant(model: ir.Model, node: ir.Node) -> None:
    """Turn a uint8 constant that is looked up, added or multiplied by into int8."""
    codes = constant(node.inputs[0])
    operators = {reader.op_type for reader in node.outputs[0].consumers()}
    if codes is None or codes.dtype != np.uint8 or len(node.inputs) < 3:
        return
    if not operators <= {"Gather", "Add", "Mul"}:
        return
    replace_constant(node, 0, (codes.astype(np.int16) - 128).astype(np.int8))
    _shift_zero_point(model, node)


def _shift_bounds(model: ir.Model, quantizer: ir.Node) -> None:
    zero_point = constant(optional_input(quantizer, 2))
    if zero_point is not None and zero_point.dtype == np.uint8:
        shift_bounds(model, quantizer, -128, np.dtype(np.int8))


def _shift_zero_point(model: ir.Model, node: ir.Node) -> None:
    value = optional_input(node, 2)
    zero_point = constant(value)
    if value is None or zero_point is None or zero_point.dtype != np.uint8:
        return
    shifted = (zero_point.astype(np.int16) - 128).astype(np.int8)
    int8_value = shared_initializer(model.graph, f"{value.name}_int8", shifted)
    node.replace_input_with(2, int8_value)
    remove_unused(model.graph, value)

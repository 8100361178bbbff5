"""Which layers' sums leave 16 bits on a CPU that adds products of u8 x s8 two by two: x86 without VNNI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.inference import session
from qpipe.quant.moments import rows
from qpipe.quant.saturation import saturating_share
from qpipe.quant.sensitivity import layer_name
from qpipe.samples.store import Samples
from qpipe.types import Array

SAFE = 64  # codes of 7 bits, up to this magnitude, cannot take two products beyond 16 bits
# of each feature map, and samples: it is a share of many sums that is asked for
PLACES = 16
FEW = 4


def saturating_layers(
    model: ir.Model, samples: Samples, indices: Sequence[int]
) -> Mapping[str, float]:
    """By layer, the part of the sums of two products that saturates, the largest first; layers without are left out.

    Looks at Conv, Gemm and MatMul that multiply uint8 activations by int8 weights, but depthwise, whose kernels add in
    32 bits; on the first few of these samples.
    """
    layers = [
        (node, weight)
        for weight in qdq.weights(model)
        if _is_at_risk(weight)
        for node in weight.nodes
    ]
    layers = [(node, weight) for node, weight in layers if _quantizer(node) is not None]
    names = sorted({_codes(node) for node, _ in layers})
    running = session(model, names, optimize=False) if names else None
    shares: dict[str, list[float]] = {}
    for number, index in enumerate(indices[:FEW] if running is not None else ()):
        assert running is not None
        feeds = samples.feeds(index, [value.name for value in running.get_inputs()])
        codes = dict(zip(names, running.run(names, feeds), strict=True))
        for node, weight in layers:
            shares.setdefault(node.name or layer_name(node), []).append(
                _share(node, weight, codes, number)
            )
    means = {layer: float(np.mean(own)) for layer, own in shares.items()}
    return dict(
        sorted(((layer, mean) for layer, mean in means.items() if mean), key=lambda one: -one[1])
    )


def _is_at_risk(weight: qdq.Weight) -> bool:
    quantized = weight.quantized
    return (
        quantized is not None
        and weight.kind != "depthwise"
        and int(np.abs(quantized.codes.astype(int)).max()) > SAFE
    )


def _quantizer(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear that gives a layer its uint8 input; None where it reads anything else."""
    restored = node.inputs[0].producer() if node.inputs[0] is not None else None
    if restored is None or restored.op_type != "DequantizeLinear" or restored.inputs[0] is None:
        return None
    quantizer = restored.inputs[0].producer()
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return None
    zero_point = (
        qdq.constant(quantizer.inputs[2]) if len(quantizer.inputs) > 2 else np.zeros((), np.uint8)
    )
    return (
        quantizer
        if zero_point is not None and zero_point.dtype == np.uint8 and zero_point.size == 1
        else None
    )


def _codes(node: ir.Node) -> str:
    quantizer = _quantizer(node)
    assert quantizer is not None
    return quantizer.outputs[0].name or ""


def _share(node: ir.Node, weight: qdq.Weight, codes: Mapping[str, Array], sample: int) -> float:
    quantizer = _quantizer(node)
    assert quantizer is not None
    assert weight.quantized is not None
    constant = qdq.constant(quantizer.inputs[2]) if len(quantizer.inputs) > 2 else None
    zero_point = 0 if constant is None else int(constant.reshape(()))
    around_zero = (
        codes[_codes(node)].astype(np.int16) - zero_point
    )  # a convolution pads with the zero point
    activations = (rows(node, weight.array.shape, around_zero, PLACES, sample) + zero_point).astype(
        np.uint8
    )
    groups, _, size = activations.shape
    multiplied = np.moveaxis(weight.quantized.codes, weight.channel_axis, 0).reshape(
        groups, -1, size
    )
    channels = weight.array.shape[1] if node.op_type == "Conv" else size
    left = _channels_first(activations, channels)
    right = _channels_first(multiplied, channels)
    return float(np.mean([saturating_share(a, w.T) for a, w in zip(left, right, strict=True)]))


def _channels_first(array: Array, channels: int) -> Array:
    """Inputs [G, N, K] of a convolution in the order of the kernels: its channels change fastest."""
    groups, count, size = array.shape
    turned = array.reshape(groups, count, channels, size // channels).swapaxes(2, 3)
    return np.ascontiguousarray(turned).reshape(groups, count, size)

"""Layers whose pair sums of u8 x s8 products leave 16 bits, on x86 without VNNI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.inference import infer, open_session
from qpipe.quant.moments import input_rows
from qpipe.quant.network_inputs import input_shapes
from qpipe.quant.saturation import saturating_share
from qpipe.quant.sensitivity import layer_name
from qpipe.samples.store import Samples
from qpipe.types import Array

# codes of 7 bits, up to this magnitude, cannot take two products beyond 16 bits
LARGEST_SAFE_CODE = 64
# a share of many sums is estimated: so many places of each feature map, and samples, suffice
PLACES = 16
MOST_SAMPLES = 4


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that multiplies uint8 activations by int8 weights."""

    node: ir.Node
    weight: qdq.Weight
    codes: Array  # of the weight
    activations: str  # name of the uint8 tensor
    zero_point: int  # of the activations

    @property
    def name(self) -> str:
        return self.node.name or layer_name(self.node)


def saturating_layers(
    model: ir.Model, samples: Samples, indices: Sequence[int]
) -> Mapping[str, float]:
    """Return, by layer, the share of sums of two products that saturates, largest first.

    Layers without any are left out. It covers Conv, Gemm and MatMul that multiply uint8 activations
    by int8 weights, but not depthwise convolutions, whose kernels add in 32 bits; on the first few
    of these samples.
    """
    layers = _layers_at_risk(model)
    if not layers:
        return {}
    session = open_session(model, sorted({layer.activations for layer in layers}), optimize=False)
    shapes = input_shapes(session)
    shares: dict[str, list[float]] = {layer.name: [] for layer in layers}
    for sample, index in enumerate(indices[:MOST_SAMPLES]):
        codes = infer(session, samples.feeds(index, shapes))
        for layer in layers:
            share = _saturating_share(layer, codes[layer.activations], sample)
            shares[layer.name].append(share)
    means = {name: float(np.mean(layer_shares)) for name, layer_shares in shares.items()}
    by_share = sorted(means.items(), key=lambda item: -item[1])
    return {name: mean for name, mean in by_share if mean}


def _layers_at_risk(model: ir.Model) -> list[_Layer]:
    layers: list[_Layer] = []
    for weight in qdq.weights(model):
        quantized = weight.quantized
        if quantized is None or weight.kind == "depthwise":
            continue
        if int(np.abs(quantized.codes.astype(int)).max()) <= LARGEST_SAFE_CODE:
            continue
        for node in weight.nodes:
            quantizer = _quantizer_of(node)
            zero_point = _uint8_zero_point(quantizer) if quantizer is not None else None
            if quantizer is not None and zero_point is not None:
                activations = quantizer.outputs[0].name or ""
                layers.append(_Layer(node, weight, quantized.codes, activations, zero_point))
    return layers


def _quantizer_of(node: ir.Node) -> ir.Node | None:
    """Return the QuantizeLinear that gives a layer its input; None for any other input."""
    dequantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if dequantizer is None or dequantizer.op_type != "DequantizeLinear":
        return None
    codes = dequantizer.inputs[0]
    quantizer = codes.producer() if codes is not None else None
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return None
    return quantizer


def _uint8_zero_point(quantizer: ir.Node) -> int | None:
    """Return the zero point of uint8 codes; None where it is computed, or codes are not uint8."""
    if len(quantizer.inputs) < 3:
        return 0
    _, zero_point = qdq.scale_and_zero_point_of(quantizer)
    if zero_point is None or zero_point.dtype != np.uint8 or zero_point.size != 1:
        return None
    return int(zero_point.reshape(()))


def _saturating_share(layer: _Layer, codes: Array, sample: int) -> float:
    """Return the share of a layer's pair sums that saturates, for one sample's activations."""
    # around zero, as a convolution pads with the zero point
    centred = codes.astype(np.int16) - layer.zero_point
    shape = layer.weight.array.shape
    rows = input_rows(layer.node, shape, centred, places=PLACES, sample=sample)
    activations = (rows + layer.zero_point).astype(np.uint8)
    groups, _, size = activations.shape
    weights = np.moveaxis(layer.codes, layer.weight.channel_axis, 0).reshape(groups, -1, size)
    channels = shape[1] if layer.node.op_type == "Conv" else size
    left = _channels_last(activations, channels)
    right = _channels_last(weights, channels)
    shares = [
        saturating_share(group_activations, group_weights.T)
        for group_activations, group_weights in zip(left, right, strict=True)
    ]
    return float(np.mean(shares))


def _channels_last(array: Array, channels: int) -> Array:
    """Return a convolution's inputs [G, N, K] in the order of the kernels.

    There the input channels change fastest.
    """
    groups, count, size = array.shape
    by_channel = array.reshape(groups, count, channels, size // channels)
    return np.ascontiguousarray(by_channel.swapaxes(2, 3)).reshape(groups, count, size)

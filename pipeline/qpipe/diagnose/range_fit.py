"""How the ranges of rounded activations fit their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.code_bounds import bounded_codes, code_limits
from qpipe.quant.inference import infer, open_session
from qpipe.quant.network_inputs import input_shapes
from qpipe.quant.sensitivity import layer_name
from qpipe.samples.store import Samples
from qpipe.types import Array


@dataclass(frozen=True)
class RangeFit:
    """How the range of a rounded tensor that a layer reads fits its values."""

    tensor: str
    clipped: float  # share of its values beyond the range
    channel_spread: float  # range of its largest channel over that of the median channel


@dataclass
class _Extent:
    """What is counted of the values that one quantizer rounds."""

    clipped: int = 0
    total: int = 0
    # the largest of each channel; one where samples differ in their number of channels
    magnitudes: Array | None = None


def range_fits(
    model: ir.Model, float_model: ir.Model, samples: Samples, indices: Sequence[int]
) -> Mapping[str, list[RangeFit]]:
    """Return, by layer, the fit of each tensor that it reads through a QuantizeLinear.

    The values are those of the float network on these samples; tensors that it does not have by the
    same name are left out.
    """
    tensors = _quantized_tensors(model, float_model)
    extents = _measure_extents(float_model, tensors, samples, indices)
    fits: dict[str, list[RangeFit]] = {}
    for quantizer, tensor in tensors.items():
        extent = extents[quantizer]
        magnitudes = np.zeros(1) if extent.magnitudes is None else extent.magnitudes
        fit = RangeFit(tensor, extent.clipped / max(extent.total, 1), channel_spread(magnitudes))
        for layer in _reading_layers(quantizer):
            fits.setdefault(layer, []).append(fit)
    return fits


def _quantized_tensors(model: ir.Model, float_model: ir.Model) -> dict[ir.Node, str]:
    """Return the quantizers of tensors that the float network has too, with the tensor's name."""
    float_names = {value.name for node in float_model.graph for value in node.outputs}
    float_names |= {value.name for value in float_model.graph.inputs}
    tensors: dict[ir.Node, str] = {}
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if source is None or _tensor_scale_and_zero_point(node) is None:
            continue
        name = source.name or ""
        if name not in float_names:
            name = name.removesuffix("_float")
        if name in float_names:
            tensors[node] = name
    return tensors


def _measure_extents(
    float_model: ir.Model,
    tensors: Mapping[ir.Node, str],
    samples: Samples,
    indices: Sequence[int],
) -> dict[ir.Node, _Extent]:
    shapes = input_shapes(float_model)
    computed_names = sorted(set(tensors.values()) - set(shapes))
    session = open_session(float_model, computed_names) if computed_names else None
    extents = {quantizer: _Extent() for quantizer in tensors}
    for index in indices:
        arrays = samples.feeds(index, shapes)
        if session is not None:
            arrays |= infer(session, arrays)
        for quantizer, name in tensors.items():
            _add_values(extents[quantizer], quantizer, arrays[name])
    return extents


def _add_values(extent: _Extent, quantizer: ir.Node, array: Array) -> None:
    if array.size == 0:
        return
    by_channel = array.reshape(1, -1)
    if array.ndim > 2:
        by_channel = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
    magnitudes = np.abs(by_channel).max(axis=1)
    extent.clipped += _count_clipped(quantizer, array)
    extent.total += array.size
    before = magnitudes if extent.magnitudes is None else extent.magnitudes
    if len(before) != len(magnitudes):
        before = before.max(keepdims=True)
        magnitudes = magnitudes.max(keepdims=True)
    extent.magnitudes = np.maximum(before, magnitudes)


def _tensor_scale_and_zero_point(quantizer: ir.Node) -> tuple[Array, Array] | None:
    """Return a quantizer's scale and zero point, where it has one for the whole tensor.

    None also for codes that numpy has no integers for, such as floats of 8 bits.
    """
    scale, zero_point = qdq.scale_and_zero_point_of(quantizer)
    if len(quantizer.inputs) < 3:
        zero_point = np.zeros((), np.uint8)
    if scale is None or zero_point is None or scale.size != 1:
        return None
    if zero_point.dtype.kind not in "iu":
        return None
    return scale.reshape(()), zero_point.reshape(())


def _count_clipped(quantizer: ir.Node, array: Array) -> int:
    scale_and_zero_point = _tensor_scale_and_zero_point(quantizer)
    assert scale_and_zero_point is not None
    scale, zero_point = scale_and_zero_point
    lowest, highest = code_limits(quantizer, zero_point.dtype)
    codes = np.rint(array.astype(np.float32) / scale) + float(zero_point)
    return int(np.count_nonzero((codes < lowest) | (codes > highest)))


def _reading_layers(quantizer: ir.Node) -> list[str]:
    """Return the layers that read a quantized tensor, and the graph outputs that it is."""
    layers: list[str] = []
    output_names: list[str] = []
    for node in bounded_codes(quantizer).consumers():
        if node.op_type != "DequantizeLinear":
            continue
        value = node.outputs[0]
        readers = [
            reader for reader in value.consumers() if reader.op_type not in qdq.QDQ_OPERATORS
        ]
        layers += map(layer_name, readers)
        if value.is_graph_output():
            output_names.append(value.name or "")
    return layers + output_names


def channel_spread(magnitudes: Array) -> float:
    """Return the largest channel's range over that of the median channel, dead ones left out."""
    alive = magnitudes[magnitudes > 0]
    if not alive.size:
        return 1.0
    return float(magnitudes.max() / np.median(alive))

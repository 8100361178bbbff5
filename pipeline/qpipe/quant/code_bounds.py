"""Activations of fewer bits than their integers have: a Clip of the codes within the pair.

Kernels compute on integers of 8 bits, and a QuantizeLinear to them saturates at 255. At 4 bits its
scale is that of 16 levels, and a Clip of integers between QuantizeLinear and DequantizeLinear ends
the codes at 15. So the convolution before it still becomes an integer kernel, which a Clip of
floats before the QuantizeLinear would prevent, and the bounds do not depend on the scale.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.quant.arithmetic import integer_range
from qpipe.quant.graph import constant, optional_input, shared_initializer

LOW_INPUT = 1
HIGH_INPUT = 2


def bound_codes(model: ir.Model, quantizer: ir.Node, bounds: tuple[int, int]) -> None:
    """Let all readers of a QuantizeLinear read its codes within bounds, both included."""
    zero_point = constant(optional_input(quantizer, 2))
    assert zero_point is not None
    codes = quantizer.outputs[0]
    limits = [_bound(model, bound, zero_point.dtype) for bound in bounds]
    clip = ir.node("Clip", [codes, *limits], name=f"{quantizer.name}_bound")
    bounded = clip.outputs[0]
    bounded.name = f"{codes.name}_bounded"
    bounded.dtype = ir.DataType.from_numpy(zero_point.dtype)
    for reader, index in list(codes.uses()):
        if reader is not clip:
            reader.replace_input_with(index, bounded)
    model.graph.insert_after(quantizer, clip)


def _bound(model: ir.Model, code: int, dtype: np.dtype) -> ir.Value:
    return shared_initializer(model.graph, f"qpipe_code_{dtype}_{code}", np.array(code, dtype))


def bounds_codes(node: ir.Node) -> bool:
    """Return whether a node is the Clip of codes within a pair."""
    source = optional_input(node, 0)
    return node.op_type == "Clip" and _is_of_quantizer(source)


def _is_of_quantizer(codes: ir.Value | None) -> bool:
    producer = codes.producer() if codes is not None else None
    return producer is not None and producer.op_type == "QuantizeLinear"


def bounded_codes(quantizer: ir.Node) -> ir.Value:
    """Return the codes of a QuantizeLinear as they are dequantized: behind the Clip, if any."""
    readers = quantizer.outputs[0].consumers()
    if len(readers) == 1 and bounds_codes(readers[0]):
        return readers[0].outputs[0]
    return quantizer.outputs[0]


def quantizer_of(dequantizer: ir.Node) -> ir.Node | None:
    """Return the QuantizeLinear whose codes a DequantizeLinear reads; None where there is none."""
    codes = dequantizer.inputs[0]
    node = codes.producer() if codes is not None else None
    if node is not None and bounds_codes(node):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def code_limits(quantizer: ir.Node, dtype: np.dtype) -> tuple[int, int]:
    """Return the lowest and the highest code of a QuantizeLinear to an integer type."""
    lowest, highest = integer_range(dtype)
    clip = bounded_codes(quantizer).producer()
    if clip is None or clip is quantizer:
        return lowest, highest
    low = constant(optional_input(clip, LOW_INPUT))
    high = constant(optional_input(clip, HIGH_INPUT))
    if low is not None:
        lowest = max(lowest, int(low.reshape(())))
    if high is not None:
        highest = min(highest, int(high.reshape(())))
    return lowest, highest


def shift_bounds(model: ir.Model, quantizer: ir.Node, offset: int, dtype: np.dtype) -> None:
    """Move the bounds of a QuantizeLinear's codes, if any, to another integer type."""
    clip = bounded_codes(quantizer).producer()
    if clip is None or clip is quantizer:
        return
    for index in (LOW_INPUT, HIGH_INPUT):
        bound = constant(optional_input(clip, index))
        assert bound is not None
        clip.replace_input_with(index, _bound(model, int(bound.reshape(())) + offset, dtype))
    clip.outputs[0].dtype = ir.DataType.from_numpy(dtype)

"""Exact sums on a target whose sums of products saturate, whichever tool quantized the network."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qpipe.quant import qdq
from qpipe.quant.saturation import LARGEST_PAIR, Pairing, pair_sums
from qpipe.types import Array, Target

# what a network records on its way to compile: how many layers have fewer levels for such a target
LIMITED_LAYERS = "qpipe.limited_layers"
LARGEST_CODE = 127
log = logging.getLogger(__name__)


def make_sums_exact(model: ir.Model, target: Target) -> None:
    """Code the weights anew, on coarser scales, whose products could overflow on the target.

    Stages that ask for the target have made none of them. It logs in how many layers none is left,
    and the network records how many have fewer levels because of it. Nothing is done for a target
    that sums in 32 bits.
    """
    changed = []
    layers = 0
    exact_layers = 0
    limited_layers = 0
    for weight in qdq.weights(model):
        kernel_pairings = weight.pairings(target)
        nodes = [node for node in weight.nodes if _multiplies_codes(node)]
        codes = None if weight.quantized is None else weight.quantized.codes
        if not kernel_pairings or not nodes or codes is None or codes.dtype == np.uint8:
            continue
        if _largest_pairs(weight, codes, kernel_pairings).max() > LARGEST_PAIR:
            codes = _code_anew(model, weight, target)
            changed.append(weight.name)
        layers += len(nodes)
        if _largest_pairs(weight, codes, kernel_pairings).max() <= LARGEST_PAIR:
            exact_layers += len(nodes)
        if _has_fewer_levels(weight, codes, kernel_pairings):
            limited_layers += len(nodes)
    if not layers:
        return
    model.metadata_props[LIMITED_LAYERS] = str(limited_layers)
    log.warning("no pair of products can overflow in %d of %d layers", exact_layers, layers)
    if changed:
        log.warning("coded anew, on coarser scales, for that: %s", ", ".join(changed))


def _multiplies_codes(node: ir.Node) -> bool:
    """Return whether a layer reads an activation of 8 bits, so that a kernel multiplies codes."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "DequantizeLinear":
        return False
    _, zero_point = qdq.scale_and_zero_point_of(source)
    return zero_point is None or zero_point.dtype.itemsize == 1


def _code_anew(model: ir.Model, weight: qdq.Weight, target: Target) -> Array:
    """Replace the codes of a weight by some that cannot overflow, and return these.

    Integer biases of its layers become float: their scale was the product with the former scale.
    """
    quantized = qdq.with_exact_sums(weight, target)
    biases = {node: qdq.bias(node) for node in weight.nodes}
    qdq.quantize_weight(model, weight, quantized)
    for node, bias in biases.items():
        if bias is not None:
            qdq.set_bias(model, node, bias)
    return quantized.codes


def _largest_pairs(weight: qdq.Weight, codes: Array, kernel_pairings: Sequence[Pairing]) -> Array:
    """Return the largest magnitude among the sums of paired codes, of each output [N]."""
    rows = weight.to_rows(codes).astype(np.int64)
    largest: Array = np.abs(pair_sums(rows, kernel_pairings)).max(axis=1, initial=0)
    return largest


def _has_fewer_levels(weight: qdq.Weight, codes: Array, kernel_pairings: Sequence[Pairing]) -> bool:
    """Return whether a scale is coarser than 8 bits need: a pair, not a code, is at its limit."""
    largest_codes = np.abs(weight.to_rows(codes).astype(np.int64)).max(axis=1)
    largest_pairs = _largest_pairs(weight, codes, kernel_pairings)
    assert weight.quantized is not None
    if weight.quantized.axis != weight.channel_axis:
        largest_codes = largest_codes.max(keepdims=True)
        largest_pairs = largest_pairs.max(keepdims=True)
    is_limited = (largest_codes < LARGEST_CODE) & (largest_pairs >= LARGEST_PAIR - 1)
    return bool(is_limited.any())

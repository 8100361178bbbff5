"""Small networks for tests, as ONNX text; weights from a seeded generator, so that they are the same every time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir

from processors import Arithmetic, machine_kind, session
from qpipe.quant.statistics import Statistics, gather

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "algorithm.md"


def plugins_of(text: str) -> list[str]:
    """The blocks of Python in a document that are whole plugins."""
    blocks = re.findall(r"^```python[^\n]*\n(.*?)^```$", text, re.M | re.S)
    return [block for block in blocks if "@qpipe.hookimpl" in block]


# the whole plugin that the page on algorithms shows
(RTN,) = plugins_of(PAGE.read_text(encoding="utf-8"))
CONV_NET = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits) <float zero = {{0.0}}, float six = {{6.0}}>
{{
  [first] stem = Conv <strides = [2, 2], pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (image, stem_w, stem_b)
  stem_out = Clip (stem, zero, six)
  [middle] deep = Conv <group = 8, pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (stem_out, deep_w, deep_b)
  deep_out = Clip (deep, zero, six)
  [point] flat = Conv <kernel_shape = [1, 1]> (deep_out, flat_w, flat_b)
  [sum] joined = Add (flat, stem_out)
  pooled = GlobalAveragePool (joined)
  features = Flatten <axis = 1> (pooled)
  [last] logits = Gemm <transB = 1> (features, head_w, head_b)
}}
"""
SHAPES = {
    "stem_w": (8, 3, 3, 3), "stem_b": (8,), "deep_w": (8, 1, 3, 3), "deep_b": (8,),
    "flat_w": (8, 8, 1, 1), "flat_b": (8,), "head_w": (5, 8), "head_b": (5,),
}  # fmt: skip


def conv_net(opset: int = 17) -> ir.Model:
    """Conv, depthwise Conv, Conv with ReLU6 between, a residual Add, pooling, Gemm: MobileNet in the small."""
    random = np.random.default_rng(7)
    arrays = {
        name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in SHAPES.items()
    }
    tensors = [ir.tensor(array, name=name) for name, array in arrays.items()]
    return ir.from_onnx_text(CONV_NET.format(opset=opset), initializers=tensors)


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    """Inputs of conv_net."""
    random = np.random.default_rng(seed)
    return [random.normal(0, 1, (1, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def run(
    model: ir.Model,
    inputs: list[np.ndarray],
    names: list[str] | None = None,
    *,
    optimize: bool = False,
    kind: Arithmetic | None = None,
):
    """What ONNX Runtime makes of each input: the network's outputs by name, or these tensors.

    Optimized, sums are those of this machine, or of the kind of processor that the network is
    quantized for.
    """
    copy = ir.from_proto(ir.to_proto(model))
    if names is not None:
        values = ir.convenience.create_value_mapping(copy.graph)
        copy.graph.outputs[:] = [values[name] for name in names]
        for value in copy.graph.outputs:
            value.dtype = value.dtype or ir.DataType.FLOAT
    running = session(ir.to_proto(copy), kind or machine_kind(), optimize=optimize)
    given, made = running.get_inputs()[0].name, [value.name for value in running.get_outputs()]
    return [dict(zip(made, running.run(None, {given: array}), strict=True)) for array in inputs]


def statistics_of(model: ir.Model, inputs: list[np.ndarray]) -> Statistics:
    """Statistics of a float network's input and of all its nodes' outputs, as ONNX Runtime computes them."""
    names = [value.name for node in model.graph for value in node.outputs]
    outputs = run(model, inputs, names)
    tensors = {
        model.graph.inputs[0].name: inputs,
        **{name: [one[name] for one in outputs] for name in names},
    }
    return Statistics(gather(name, arrays) for name, arrays in tensors.items())

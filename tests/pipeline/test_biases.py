"""Integer biases: a channel with hardly any weights keeps its bias, in int32, on the runtime's kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import conv_net, images, run, statistics_of
from processors import Arithmetic, both_kinds
from qpipe.quant import qdq
from qpipe.types import Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.quantize.symmetric import symmetric

DEAD = 3


def nearly_dead(every: bool) -> ir.Model:
    """One channel of `flat`, or all of them, with weights so small that their scale times the input's holds no bias."""
    model = conv_net()
    for name, array in (("flat_w", 1e-12), ("flat_b", 3.0)):
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        values = tensor.numpy().copy()
        values[slice(None) if every else DEAD] = array
        model.graph.initializers[name].const_value = ir.tensor(values, name=name)
    return model


@both_kinds
@pytest.mark.parametrize(
    ("granularity", "every"), [("channel", False), ("channel", True), ("tensor", True)]
)
def test_the_runtime_gives_the_bias_of_a_nearly_dead_channel(
    granularity: Literal["tensor", "channel"], every: bool, kind: Arithmetic, tmp_path: Path
) -> None:
    inputs = images(8)
    statistics = statistics_of(nearly_dead(every), inputs)
    quantized = symmetric(nearly_dead(every), statistics, kind.target, granularity=granularity)
    build = compiled(quantized, Platform(), tmp_path)
    proto = onnx.load(build.folder / "model.onnx")
    sources = {name: node for node in proto.graph.node for name in node.output}
    layers = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    assert {sources[node.input[2]].op_type for node in layers} == {
        "DequantizeLinear"
    }  # no bias had to stay float
    logits = [one["logits"] for one in run(ir.from_proto(proto), inputs, optimize=True, kind=kind)]
    truth = [one["logits"] for one in run(nearly_dead(every), inputs)]
    assert np.sum(np.square(truth)) > 300 * np.sum(np.square(np.subtract(truth, logits)))


def test_without_the_wider_scale_that_bias_would_not_fit() -> None:
    model = nearly_dead(every=False)
    statistics = statistics_of(model, images(8))
    (weight,) = (each for each in qdq.weights(model) if each.name == "flat_w")
    scale = qdq.symmetric(weight, axis=0).scale[DEAD] * statistics["deep_out"].maximum / 255
    assert 3.0 / scale > np.iinfo(np.int32).max

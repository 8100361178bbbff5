"""Weights of any number of bits take so many in the file, and the runtime computes as with whole bytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from models import conv_net, images, statistics_of
from qpipe.quant import qdq
from qpipe.types import Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.quantize.symmetric import symmetric

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[1, 401, 8, 8] deep)
{
  wide = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (image, wide_w)
  cut = Relu (wide)
  deep = Conv (cut, deep_w)
}
"""
SHAPES = {"wide_w": (197, 3, 3, 3), "deep_w": (401, 197, 1, 1)}  # odd: no part ends with a byte
INPUTS = images(4)


def net() -> ir.Model:
    random = np.random.default_rng(3)
    arrays = {
        name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()
    }
    return ir.from_onnx_text(
        NET, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()]
    )


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(net(), INPUTS)


def outputs(path, folder):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
    return np.stack([session.run(None, {"image": image})[0] for image in INPUTS]), operators


def whole_bytes(model, path):
    """The same network with nothing packed: 8-bit weights that happen to hold few values."""
    for weight in qdq.weights(model):
        weight.value.producer().metadata_props[qdq.BITS] = "8"
        weight.value.producer().metadata_props[qdq.CODEBOOK] = "full_range"
    return onnxruntime(model, Platform(), path)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("opset", [17, 24])
def test_outputs_are_those_of_whole_bytes_and_the_file_is_smaller_by_the_bits(
    bits, opset, statistics, tmp_path
):
    platform = Platform(max_opset=opset)
    packed = (
        onnxruntime(symmetric(net(), statistics, bits=bits), platform, tmp_path / "packed").folder
        / "model.onnx"
    )
    whole = (
        whole_bytes(symmetric(net(), statistics, bits=bits), tmp_path / "whole").folder
        / "model.onnx"
    )
    found, operators = outputs(packed, tmp_path)
    np.testing.assert_array_equal(found, outputs(whole, tmp_path)[0])
    kernels = [
        operator for operator in operators if operator not in ("Transpose", "QuantizeLinear")
    ]
    assert kernels == ["QLinearConv", "QLinearConv", "DequantizeLinear"]
    saved = whole.stat().st_size - packed.stat().st_size
    tables_and_nodes = 6000
    assert saved == pytest.approx((8 - bits) / 8 * np.prod(SHAPES["deep_w"]), abs=tables_and_nodes)


def test_few_weights_stay_whole_bytes_where_unpacking_parts_would_take_more(tmp_path):
    sizes = {}
    for bits in (5, 8):
        model = conv_net()
        build = onnxruntime(
            symmetric(model, statistics_of(conv_net(), INPUTS), bits=bits),
            Platform(),
            tmp_path / str(bits),
        )
        sizes[bits] = (build.folder / "model.onnx").stat().st_size
    assert sizes[5] == sizes[8]


def test_few_and_many_weights_of_one_kind_of_levels_go_into_one_file(tmp_path):
    """Few are looked up byte by byte, many part by part: by tables of their own."""
    random = np.random.default_rng(3)
    small = {"wide_w": (16, 3, 3, 3), "deep_w": (32 * 16, 16, 1, 1)}
    text = NET.replace("401", "512")
    assert np.prod(small["wide_w"]) < 4096 < np.prod(small["deep_w"])
    tensors = [
        ir.tensor(random.normal(0, 0.3, s).astype(np.float32), name=n) for n, s in small.items()
    ]

    def mixed() -> ir.Model:
        return ir.from_onnx_text(text, initializers=tensors)

    statistics = statistics_of(mixed(), INPUTS)
    packed = onnxruntime(
        symmetric(mixed(), statistics, bits=3), Platform(), tmp_path / "packed"
    ).folder
    whole = whole_bytes(symmetric(mixed(), statistics, bits=3), tmp_path / "whole").folder
    found, expected = (outputs(folder / "model.onnx", tmp_path)[0] for folder in (packed, whole))
    np.testing.assert_array_equal(found, expected)

"""Weights of any number of bits take so many in the file, and the runtime computes as with whole bytes."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from models import conv_net, images, statistics_of
from qpipe.quant import qdq
from qpipe.types import Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.quantize.logarithmic import logarithmic
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
PLATFORM = Platform(max_opset=24, max_ir_version=12)  # the runtime adds int8


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
    return onnxruntime(model, PLATFORM, path)


@pytest.mark.parametrize(
    ("opset", "bits", "stored_bits"),
    [
        *[(24, bits, bits) for bits in range(2, 8)],
        *[(17, 2, 2), (17, 3, 4), (17, 4, 4), (17, 5, 8), (17, 6, 8), (17, 7, 8)],
    ],
)
def test_outputs_are_those_of_whole_bytes_and_the_file_is_smaller_by_the_bits(
    opset, bits, stored_bits, statistics, tmp_path
):
    platform = Platform(max_opset=opset)
    packed = (
        onnxruntime(
            symmetric(net(), statistics, bits=bits), platform, tmp_path / "packed", packing="always"
        ).folder
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
    assert saved == pytest.approx(
        (8 - stored_bits) / 8 * np.prod(SHAPES["deep_w"]), abs=tables_and_nodes
    )


def test_sums_of_powers_of_two_in_5_bits_are_packed_too(statistics, tmp_path):
    def quantized():
        return logarithmic(net(), statistics, bits=5, levels="apot", bits_first=5, bits_last=5)

    packed = onnxruntime(quantized(), PLATFORM, tmp_path / "packed").folder / "model.onnx"
    whole = whole_bytes(quantized(), tmp_path / "whole").folder / "model.onnx"
    np.testing.assert_array_equal(outputs(packed, tmp_path)[0], outputs(whole, tmp_path)[0])
    saved = whole.stat().st_size - packed.stat().st_size
    assert saved == pytest.approx(3 / 8 * np.prod(SHAPES["deep_w"]), abs=6000)


def test_few_weights_stay_whole_bytes_where_unpacking_parts_would_take_more(tmp_path):
    sizes = {}
    for bits in (5, 8):
        model = conv_net()
        build = onnxruntime(
            symmetric(model, statistics_of(conv_net(), INPUTS), bits=bits),
            PLATFORM,
            tmp_path / str(bits),
            packing="always",
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
        symmetric(mixed(), statistics, bits=3), PLATFORM, tmp_path / "packed", packing="always"
    ).folder
    whole = whole_bytes(symmetric(mixed(), statistics, bits=3), tmp_path / "whole").folder
    found, expected = (outputs(folder / "model.onnx", tmp_path)[0] for folder in (packed, whole))
    np.testing.assert_array_equal(found, expected)


# ---- which weights are packed


@pytest.mark.parametrize(("bits", "stored_bits"), [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 8)])
def test_by_default_up_to_6_bits_take_as_many_in_the_file_and_7_take_a_byte(
    bits, stored_bits, statistics, tmp_path
):
    sizes = {}
    for packing in ("auto", "never"):
        model = symmetric(net(), statistics, bits=bits)
        build = onnxruntime(model, PLATFORM, tmp_path / packing, packing=packing)
        sizes[packing] = (build.folder / "model.onnx").stat().st_size
    saved = sizes["never"] - sizes["auto"]
    tables_and_nodes = 4000 if stored_bits < 8 else 0
    weights = sum(np.prod(shape) for shape in SHAPES.values())
    assert saved == pytest.approx((8 - stored_bits) / 8 * weights, abs=tables_and_nodes)


SMALL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[1, 4, 14, 14] small)
{
  wide = Conv (image, wide_w)
  cut = Relu (wide)
  small = Conv (cut, small_w)
}
"""


@pytest.mark.parametrize("packing", ["auto", "always"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_packing_never_makes_a_file_larger(bits, packing, tmp_path):
    """Of hundreds to thousands of weights: where tables and nodes take about what is saved."""
    for channels in (2, 20, 60, 120, 300):
        random = np.random.default_rng(channels)
        arrays = {
            "wide_w": random.normal(0, 0.3, (channels, 3, 3, 3)).astype(np.float32),
            "small_w": random.normal(0, 0.3, (4, channels, 1, 1)).astype(np.float32),
        }
        sizes = {}
        for choice in ("never", packing):
            model = ir.from_onnx_text(
                SMALL, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()]
            )
            statistics = statistics_of(model, INPUTS[:1])
            quantized = symmetric(model, statistics, bits=bits)
            build = onnxruntime(quantized, PLATFORM, tmp_path / choice, packing=choice)
            sizes[choice] = (build.folder / "model.onnx").stat().st_size
        assert sizes[packing] <= sizes["never"], f"{channels} channels"


LARGE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[1, 1024] large)
{
  flat = Flatten (image)
  hidden = MatMul (flat, hidden_w)
  cut = Relu (hidden)
  large = MatMul (cut, large_w)
}
"""
LARGE_SHAPES = {"hidden_w": (768, 1024), "large_w": (1024, 1024)}
PEAK = """
import re, sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def loading_peak_mb(path):
    argv = [sys.executable, "-c", PEAK, str(path)]
    return int(subprocess.run(argv, capture_output=True, check=True, timeout=500).stdout) / 1e3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc of Linux")
def test_loading_takes_as_much_more_memory_as_the_step_logs(tmp_path, caplog):
    random = np.random.default_rng(5)
    tensors = [
        ir.tensor(random.normal(0, 0.3, shape).astype(np.float32), name=name)
        for name, shape in LARGE_SHAPES.items()
    ]
    statistics = statistics_of(ir.from_onnx_text(LARGE, initializers=tensors), INPUTS[:1])
    weights = sum(np.prod(shape) for shape in LARGE_SHAPES.values())
    peaks = {}
    for bits, packing in ((4, "never"), (4, "auto"), (7, "always")):
        model = symmetric(ir.from_onnx_text(LARGE, initializers=tensors), statistics, bits=bits)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            build = onnxruntime(model, PLATFORM, tmp_path / packing, packing=packing)
        peaks[packing] = loading_peak_mb(build.folder / "model.onnx")
        logged = re.search(r"packed 2 weights; unpacking them takes about ([\d.]+) MB", caplog.text)
        assert bool(logged) == (packing != "never")
        if logged:
            more = peaks[packing] - peaks["never"]
            assert more < 1.5 * float(logged[1])
    assert peaks["auto"] - peaks["never"] < 4 * weights / 1e6
    assert peaks["always"] - peaks["never"] < 12 * weights / 1e6

"""How many nodes compute in 8 bits, told by the runtime and held against the graph that it wrote itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import qpipe
from models import conv_net, images, statistics_of
from qpipe.types import Platform
from qpipe_devices import local, null
from qpipe_devices.agent import kernels
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.compile.openvino import openvino
from qpipe_plugins.measure.placement import placement
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.symmetric import symmetric
from small_build import nothing


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), images(16))


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    device = local("board", folder=tmp_path_factory.mktemp("board"))
    yield device
    device.close()


def placed(board, build):
    stored = board.store(build.folder, nothing)
    (measured,) = placement(qpipe.Deployed("net/scheme/build", build, stored, stored), board)
    assert (measured.metric, measured.unit, measured.better) == ("int8_nodes", "nodes", "max")
    assert measured.deployed == "net/scheme/build"
    return measured


def test_a_quantized_network_runs_in_integers_throughout(statistics, board, tmp_path):
    measured = placed(
        board, onnxruntime(symmetric(conv_net(), statistics), Platform(), tmp_path / "build")
    )
    assert measured.value == measured.detail["of"] == 6  # Conv three times, Add, pooling, Gemm
    assert measured.detail["nodes"]["cpu"]["int8"] == 6
    assert measured.detail["float"] == []


def test_the_count_is_that_of_the_graph_that_onnxruntime_wrote(statistics, board, tmp_path):
    build = onnxruntime(
        symmetric(conv_net(), statistics, exclude=["middle"]), Platform(), tmp_path / "build"
    )
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    for key, value in build.manifest["options"]["config"].items():
        options.add_session_config_entry(key, value)
    ort.InferenceSession(build.folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    measured = placed(board, build)
    assert measured.value == sum(name.startswith(("QLinear", "QGemm")) for name in operators)
    assert sum(measured.detail["nodes"]["cpu"].values()) == len(operators)


@pytest.mark.parametrize("compile_", [onnxruntime, openvino])
def test_a_layer_that_stayed_float_is_called_by_its_name(compile_, statistics, board, tmp_path):
    build = compile_(
        symmetric(conv_net(), statistics, exclude=["middle"]),
        Platform(compile_.__name__),
        tmp_path / "b",
    )
    measured = placed(board, build)
    assert measured.value < measured.detail["of"]
    assert "middle" in measured.detail["float"]
    assert not {"first", "point", "last"} & set(measured.detail["float"])


def test_openvino_computes_in_float_where_weights_have_a_zero_point(statistics, board, tmp_path):
    builds = [
        openvino(
            quantizer(conv_net(), statistics), Platform("openvino"), tmp_path / quantizer.__name__
        )
        for quantizer in (symmetric, asymmetric)
    ]
    convolutions = {"first", "middle", "point"}
    floats = [set(placed(board, build).detail["float"]) & convolutions for build in builds]
    assert floats == [set(), convolutions]


def test_nothing_is_measured_where_the_runner_does_not_say(tmp_path):
    build = onnxruntime(conv_net(), Platform(), tmp_path / "build")
    device = null("nothing")
    stored = device.store(build.folder, nothing)
    assert placement(qpipe.Deployed("a/b/c", build, stored, stored), device) == []


@pytest.mark.parametrize(
    ("operator", "kind", "counted"),
    [
        ("QLinearConv", "uint8", "int8"),
        ("QGemm", "int8", "int8"),
        ("DynamicQuantizeMatMul", "float", "int8"),
        ("MatMulNBits", "float", "float32"),
        ("Conv", "float16", "float16"),
        ("Mul", "int64", "other"),
        ("Reshape", "uint8", "other"),
        ("DequantizeLinear", "uint8", "other"),
        ("TRTKernel_graph_net_1_0", "float", "compiled"),
        ("OpenVINO-EP-subgraph_1", "float", "compiled"),
    ],
)
def test_a_kernel_counts_by_the_values_that_it_computes_on(operator, kind, counted):
    event = {
        "cat": "Node", "name": "a_token_3_kernel_time",
        "args": {"provider": "CUDAExecutionProvider", "op_name": operator, "input_type_shape": [{kind: [1]}]},
    }  # fmt: skip
    said = kernels.count(kernels.kernels_in_profile([event, {"cat": "Session", "name": "run"}]))
    assert said["nodes"] == {"cuda": {counted: 1}}
    assert said["float_nodes"] == (["a"] if "float" in counted else [])


def test_a_network_with_an_integer_input_is_placed_too(board, tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (int64[1, 4] tokens) => (float[1, 4, 2] y) { taken = Gather (table, tokens) y = Mul (taken, two) }"""
    arrays = {"table": np.ones((9, 2), np.float32), "two": np.float32([2])}
    model = ir.from_onnx_text(
        text, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()]
    )
    measured = placed(board, onnxruntime(model, Platform(), tmp_path / "build"))
    assert measured.detail["nodes"] == {"cpu": {"float32": 1, "other": 1}}

"""What ONNX Runtime's CPU kernels compute faster in another form has that form in a build, and the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from networks import Net
from processors import Arithmetic, both_kinds, session
from qpipe.types import Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime as compile_onnxruntime

SCALE = np.float32(0.05)
WEIGHT_SCALE = np.float32(0.01)


def thin_net(channels: int, groups: int) -> onnx.ModelProto:
    """One convolution of int8 weights between pairs; they are so small that no sum saturates."""
    random = np.random.default_rng(0)
    codes = random.integers(-63, 64, (channels, channels // groups, 3, 3)).astype(np.int8)
    tensors = {
        "scale": SCALE,
        "zero_point": np.uint8(120),
        "codes": codes,
        "weight_scale": WEIGHT_SCALE,
        "bias": random.normal(size=channels).astype(np.float32),
    }
    pair = ["scale", "zero_point"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *pair], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", *pair], ["x_exact"]),
        helper.make_node("DequantizeLinear", ["codes", "weight_scale"], ["weight"]),
        helper.make_node("Conv", ["x_exact", "weight", "bias"], ["made"], "conv", group=groups),
        helper.make_node("QuantizeLinear", ["made", *pair], ["y_codes"]),
        helper.make_node("DequantizeLinear", ["y_codes", *pair], ["y"]),
    ]
    return model(nodes, [1, channels, 20, 20], tensors)


def prelu_net(slopes: np.ndarray) -> onnx.ModelProto:
    nodes = [helper.make_node("PRelu", ["x", "slopes"], ["y"], "prelu")]
    return model(nodes, [1, 6, 20, 20], {"slopes": slopes.astype(np.float32)})


def model(
    nodes: list[onnx.NodeProto], shape: list[int], tensors: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def built(
    proto: onnx.ModelProto, folder: Path, provider: str = "cpu", arch: str = "x86_64"
) -> onnx.ModelProto:
    providers = [provider, "cpu"] if provider != "cpu" else ["cpu"]
    network = ir.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    build = compile_onnxruntime(network, Platform(arch=arch), folder, providers=providers)  # type: ignore[arg-type]
    return onnx.load(build.folder / "model.onnx")


def operators(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def plainly(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What stock ONNX Runtime computes operator by operator."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    running = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = running.run(None, {"x": x})[0]
    return result


def values(shape: list[int]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@both_kinds
@pytest.mark.parametrize(
    ("channels", "groups", "kernel"),
    [
        (1, 1, "Conv"),
        (3, 3, "Conv"),
        (7, 7, "Conv"),
        (8, 8, "QLinearConv"),
        (4, 1, "QLinearConv"),
        (4, 2, "QLinearConv"),
    ],
)
def test_convolutions_that_integer_kernels_compute_by_channel_run_in_float(
    channels: int, groups: int, kernel: str, kind: Arithmetic, tmp_path: Path
) -> None:
    proto = thin_net(channels, groups)
    x = values([1, channels, 20, 20])
    path = tmp_path / "optimized.onnx"
    entries = {"optimization.disable_specified_optimizers": "WeightBiasQuantization"}
    running = session(built(proto, tmp_path), kind, optimized_path=path, entries=entries)
    made = running.run(None, {"x": x})[0]
    assert np.abs(made - plainly(proto, x)).max() <= SCALE * 1.01  # a level: a sum near its middle
    assert {"Conv", "QLinearConv"} & operators(onnx.load(path)) == {kernel}


@pytest.mark.parametrize(
    "slopes",
    [np.full((6, 1, 1), 0.25), np.linspace(-0.5, 1, 6)[:, None, None], np.full(1, 0.1)],
)
def test_prelu_is_a_maximum_of_the_same_numbers(slopes: np.ndarray, tmp_path: Path) -> None:
    proto = prelu_net(slopes)
    x = values([1, 6, 20, 20])
    made = built(proto, tmp_path)
    assert operators(made) == {"Mul", "Max"}
    np.testing.assert_array_equal(plainly(made, x), plainly(proto, x))


def test_prelu_with_a_slope_above_one_stays(tmp_path: Path) -> None:
    assert operators(built(prelu_net(np.linspace(0, 1.5, 6)[:, None, None]), tmp_path)) == {"PRelu"}


@both_kinds
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("attributes", [{}, {"ceil_mode": 1, "pads": [1, 0, 0, 1]}])
def test_the_maximum_of_codes_is_taken_with_channels_last(
    attributes: dict[str, Any], arch: str, kind: Arithmetic, tmp_path: Path
) -> None:
    pair = ["scale", "zero_point"]
    pooling = {"kernel_shape": [3, 2], "strides": [2, 2], **attributes}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *pair], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", *pair], ["x_exact"]),
        helper.make_node("MaxPool", ["x_exact"], ["largest"], "pool", **pooling),
        helper.make_node("QuantizeLinear", ["largest", *pair], ["y_codes"]),
        helper.make_node("DequantizeLinear", ["y_codes", *pair], ["y"]),
    ]
    shape = [1, 5, 11, 9]
    proto = model(nodes, shape, {"scale": SCALE, "zero_point": np.uint8(120)})
    x = values(shape)
    made = built(proto, tmp_path, arch=arch)
    assert "NhwcMaxPool" in operators(made)
    np.testing.assert_array_equal(session(made, kind).run(None, {"x": x})[0], plainly(proto, x))


def test_other_providers_get_the_operators_themselves(tmp_path: Path) -> None:
    made = built(prelu_net(np.full((6, 1, 1), 0.25)), tmp_path / "prelu", "qnn")
    assert operators(made) == {"PRelu"}
    thin = built(thin_net(3, 3), tmp_path / "thin", "qnn")
    assert len([node for node in thin.graph.node if node.op_type == "DequantizeLinear"]) > 2


def test_a_sum_and_its_normalization_stay_apart(tmp_path: Path) -> None:
    """ONNX Runtime would fuse them to an operator whose kernel takes five times as long."""
    net = Net()
    x = net.input("x", [1, 8, 32])
    total = net.add("Add", x, net.add("Relu", x))
    y = net.add("LayerNormalization", total, net.small(32, around=1.0), net.small(32), axis=-1)
    build = compile_onnxruntime(ir.from_proto(net.model(y)), Platform(), tmp_path / "build")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    for name, value in build.manifest["options"]["config"].items():
        options.add_session_config_entry(name, value)
    onnxruntime.InferenceSession(
        build.folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    running = operators(onnx.load(tmp_path / "optimized.onnx"))
    assert running == {"Relu", "Add", "LayerNormalization"}

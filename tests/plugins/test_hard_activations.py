"""HardSigmoid and HardSwish between integers become integer operators, and give the same but for a level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from processors import Arithmetic, both_kinds, session
from qpipe.types import Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.compile.openvino import openvino
from qpipe_plugins.models.onnx_file import onnx_file

CODES = np.arange(256).reshape(1, 1, 16, 16)
OPERATORS = {
    "HardSwish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "HardSigmoid": ({"alpha": 1 / 6, "beta": 0.5}, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "HardSigmoid of TensorFlow": (
        {"alpha": 0.2, "beta": 0.5},
        lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    ),
}
RANGES = [(-0.2, 0.3), (-1.7, 2.0), (-3.0, 3.0), (-8.0, 4.5), (-11.0, 25.0), (-30.0, 0.0)]
Parameters = tuple[np.float32, int]


def parameters(low: float, high: float) -> Parameters:
    """Scale and zero point of 256 levels from low to high, by the ONNX definition."""
    scale = np.float32((high - low) / 255)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def net(
    operator: str, source: Parameters, result: Parameters, dtype: str = "uint8"
) -> onnx.ModelProto:
    """One operator between pairs; the input is float, of which the first pair makes all codes."""
    attributes, _ = OPERATORS[operator]
    tensors = []
    for name, (scale, zero_point) in (("source", source), ("result", result)):
        tensors.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"))
        tensors.append(numpy_helper.from_array(np.array(zero_point, dtype), f"{name}_zero_point"))

    def pair(name: str, given: str, made: str) -> list[onnx.NodeProto]:
        constants = [f"{name}_scale", f"{name}_zero_point"]
        return [
            helper.make_node("QuantizeLinear", [given, *constants], [f"{given}_codes"]),
            helper.make_node("DequantizeLinear", [f"{given}_codes", *constants], [made]),
        ]

    nodes = [
        *pair("source", "x", "exact"),
        helper.make_node(operator.split()[0], ["exact"], ["hard"], "hard", **attributes),
        *pair("result", "hard", "y"),
    ]
    shape = list(CODES.shape)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        tensors,
    )
    opset = helper.make_opsetid("", 21 if "16" in dtype else 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def built(proto: onnx.ModelProto, folder: Path, arch: str = "x86_64") -> onnx.ModelProto:
    build = onnxruntime(ir.from_proto(proto), Platform(arch=arch), folder)
    return onnx.load(build.folder / "model.onnx")


def operators(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


@both_kinds
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_code_gives_the_level_of_the_float_operator_or_the_next(
    operator: str, arch: str, kind: Arithmetic, tmp_path: Path
) -> None:
    _, function = OPERATORS[operator]
    equal = []
    for low, high in RANGES:
        scale, zero_point = parameters(low, high)
        values = ((CODES - zero_point) * scale).astype(np.float32)
        exact = function(values.astype(np.float64))
        result = parameters(min(exact.min(), 0), max(exact.max(), 0) or 1)
        if operator.startswith("HardSigmoid"):
            result = parameters(0, exact.max())
        expected = np.clip(np.rint(exact / result[0]) + result[1], 0, 255)
        proto = built(net(operator, (scale, zero_point), result), tmp_path, arch)
        is_replaced = not {"HardSwish", "HardSigmoid"} & operators(proto)
        assert is_replaced == (zero_point != 128 or operator != "HardSwish")
        path = tmp_path / "optimized.onnx"
        entries = {"session.qdqisint8allowed": "1"} if arch == "aarch64" else None
        running = session(proto, kind, optimized_path=path, entries=entries)
        made = running.run(None, {"x": values})[0]
        codes = np.rint(made / result[0]) + result[1]
        assert np.abs(codes - expected).max() <= 1, f"{low} to {high}"
        equal.append(np.mean(codes == expected))
        if is_replaced:
            kernels = operators(onnx.load(path)) - {"QuantizeLinear", "DequantizeLinear"}
            assert kernels <= {"QLinearAdd", "QLinearMul"}
    assert np.mean(equal) > 0.8


@pytest.mark.parametrize(
    ("operator", "source", "result", "dtype"),
    [
        # around zero, as some devices ask for: there integers do not saturate where hard sigmoid does
        ("HardSwish", (0.03, 128), (0.03, 128), "uint8"),
        ("HardSigmoid", (0.03, 128), (1 / 127, 128), "uint8"),
        # levels end above 1
        ("HardSigmoid", (0.03, 100), (1 / 100, 0), "uint8"),
        # no integer kernels
        ("HardSwish", (0.0003, 100), (0.0003, 100), "uint16"),
    ],
)
def test_what_integers_would_compute_otherwise_stays_the_float_operator(
    operator: str, source: Parameters, result: Parameters, dtype: str, tmp_path: Path
) -> None:
    assert operator in operators(built(net(operator, source, result, dtype), tmp_path))


def test_other_runtimes_and_providers_get_the_operator_itself(tmp_path: Path) -> None:
    proto = net("HardSwish", (np.float32(0.03), 100), (np.float32(0.03), 10))
    others = [
        openvino(ir.from_proto(proto), Platform("openvino"), tmp_path / "openvino"),
        onnxruntime(ir.from_proto(proto), Platform(), tmp_path / "qnn", providers=("qnn", "cpu")),
    ]
    for build in others:
        assert "HardSwish" in operators(onnx.load(build.folder / "model.onnx"))


def test_the_operator_keeps_its_name_for_profiles(tmp_path: Path) -> None:
    proto = built(net("HardSwish", (np.float32(0.03), 100), (np.float32(0.03), 10)), tmp_path)
    assert [node.op_type for node in proto.graph.node if node.name == "hard"] == ["Mul"]


BY_HAND = {
    "divided": ("a = Add (x, three) b = Clip (a, zero, six) y = Div (b, six)", 1 / 6, 0.5),
    "multiplied": ("a = Add (three, x) b = Clip (a, zero, six) y = Mul (sixth, b)", 1 / 6, 0.5),
    "sloped": ("m = Mul (x, fifth) a = Add (m, half) y = Clip (a, zero, one)", 0.2, 0.5),
    "only clipped": ("a = Add (x, half) y = Clip (a, zero, one)", 1.0, 0.5),
    "not to one": ("a = Add (x, three) b = Clip (a, zero, six) y = Div (b, three)", None, None),
    "not from zero": ("a = Add (x, three) b = Clip (a, one, six) y = Div (b, six)", None, None),
    "read twice": ("a = Add (x, half) b = Clip (a, zero, one) y = Mul (a, b)", None, None),
}


@pytest.mark.parametrize("form", BY_HAND)
def test_hard_sigmoid_by_hand_becomes_the_operator(form: str, tmp_path: Path) -> None:
    text, slope, offset = BY_HAND[form]
    constants = "three = {3.0}, float zero = {0.0}, float six = {6.0}, float sixth = {0.16666667}, "
    constants += "float fifth = {0.2}, float half = {0.5}, float one = {1.0}"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[1, 8, 4, 4] x) => '
        f"(float[1, 8, 4, 4] y) <float {constants}> {{ {text} }}"
    )
    onnx.save(model, tmp_path / "net.onnx")
    imported = onnx_file(path=tmp_path / "net.onnx")
    fused = [node for node in imported.graph if node.op_type == "HardSigmoid"]
    if slope is None:
        assert not fused
        return
    (node,) = fused
    assert len(list(imported.graph)) == 1
    assert node.attributes.get_float("alpha") == pytest.approx(slope)
    assert node.attributes.get_float("beta") == pytest.approx(offset)

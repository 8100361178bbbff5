"""Builds for runtimes that are older than the network: the same numbers in an older opset, or one line."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper, version_converter

from models import conv_net, images, run, statistics_of
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.types import Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.compile.openvino import openvino
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric

OLD = Platform(
    max_opset=19, max_ir_version=9
)  # ONNX Runtime 1.16, the last on some boards of Python 3.8


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), images(16))


def newer(opset: int) -> ir.Model:
    return ir.from_proto(version_converter.convert_version(ir.to_proto(conv_net()), opset))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("quantizer", [symmetric, logarithmic])
def test_a_quantized_network_is_brought_down_without_changing_a_bit_or_growing(
    quantizer, bits, statistics, tmp_path
):
    if quantizer is logarithmic and bits == 8:
        bits = 3
    old, new = (quantizer(model, statistics, bits=bits) for model in (conv_net(17), newer(23)))
    first = onnxruntime(old, OLD, tmp_path / "old").folder / "model.onnx"
    second = onnxruntime(new, OLD, tmp_path / "new").folder / "model.onnx"
    proto = onnx.load(second)
    assert (proto.opset_import[0].version, proto.ir_version) == (19, 9)
    onnx.checker.check_model(proto, full_check=True)
    for one, other in zip(
        run(ir.load(first), images(4)), run(ir.load(second), images(4)), strict=True
    ):
        np.testing.assert_array_equal(one["logits"], other["logits"])
    assert abs(second.stat().st_size - first.stat().st_size) < 10


def test_an_operator_that_changed_its_form_is_rewritten(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 18]>
    net (float[1, 3, 4] x) => (float[1, 3, 1] y) <int64[1] axes = {2}> { y = ReduceMean (x, axes) }"""
    build = onnxruntime(ir.from_onnx_text(text), Platform(max_opset=17, max_ir_version=8), tmp_path)
    proto = onnx.load(build.folder / "model.onnx")
    assert proto.opset_import[0].version == 17
    given = np.random.default_rng(0).normal(size=(1, 3, 4)).astype(np.float32)
    (made,) = ort.InferenceSession(
        build.folder / "model.onnx", providers=["CPUExecutionProvider"]
    ).run(None, {"x": given})
    np.testing.assert_allclose(made, given.mean(2, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("opset", "body", "what"),
    [
        (20, "y = Gelu (x)", "operator Gelu needs opset 20"),
        (23, "y = RMSNormalization (x, s)", "operator RMSNormalization needs opset 23"),
        (18, "y = Pad (x, p, , a)", "operator Pad as it is used here needs opset 18"),
    ],
)
def test_an_operator_that_the_runtime_lacks_is_named_with_its_opset(opset, body, what, tmp_path):
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> net (float[1, 4] x) => (float[1, 4] y)
    <float[4] s = {{1, 1, 1, 1}}, int64[2] p = {{0, 0}}, int64[1] a = {{1}}> {{ {body} }}"""
    with pytest.raises(StageError) as error:
        onnxruntime(ir.from_onnx_text(text), Platform(max_opset=17, max_ir_version=8), tmp_path)
    assert str(error.value) == (
        f"compile onnxruntime: {what}, the device's onnxruntime loads up to opset 17; "
        "export the network with an older opset, or update the runtime on the device"
    )


def test_an_ir_version_that_the_runtime_does_not_load_is_told(tmp_path):
    with pytest.raises(
        StageError,
        match=r"^compile onnxruntime: the network needs IR version 8, .* loads up to 7; ",
    ):
        onnxruntime(conv_net(17), Platform(max_opset=17, max_ir_version=7), tmp_path)


@pytest.mark.parametrize(
    ("max_opset", "native"), [(28, True), (24, True), (23, False), (21, False)]
)
def test_int4_is_in_the_file_only_where_the_runtime_can_cast_it(max_opset, native, tmp_path):
    """With enough weights for the file to get smaller, the nodes that unpack them counted."""
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[1, 64] x) => (float[1, 64] y) { y = MatMul (x, w) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model = ir.from_proto(proto)
    for weight in qdq.weights(model):
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=4, axis=None))
    platform = Platform(max_opset=max_opset, max_ir_version=10)
    build = onnxruntime(model, platform, tmp_path)
    kinds = {
        tensor.data_type for tensor in onnx.load(build.folder / "model.onnx").graph.initializer
    }
    assert (onnx.TensorProto.INT4 in kinds) == native


def test_an_operator_of_onnxruntime_goes_to_onnxruntime_alone(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    net (float[1, 4] x) => (float[1, 4] y) { y = com.microsoft.Gelu (x) }"""
    assert onnxruntime(ir.from_onnx_text(text), Platform(), tmp_path / "ort").files
    with pytest.raises(StageError) as error:
        openvino(ir.from_onnx_text(text), Platform("openvino"), tmp_path / "ov")
    assert str(error.value) == (
        "compile openvino: operator Gelu of com.microsoft is ONNX Runtime's own; use compile onnxruntime"
    )

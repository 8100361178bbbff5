from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from models import conv_net, images, run, statistics_of
from processors import both_kinds, machine_kind, session
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.activations import quantize_activations
from qpipe.quant.biases import quantize_biases
from qpipe.quant.codebook import CODEBOOKS
from qpipe.types import Build, Platform
from qpipe_plugins.compile import model_file
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric

FLOAT_OPERATORS = {"Conv", "Clip", "Relu", "Add", "Gemm", "GlobalAveragePool", "MatMul"}


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), images(16))


def optimized(build, tmp_path, kind=None, entries=None):
    """The graph that ONNX Runtime really runs, as on this machine or for that kind of processor."""
    path = tmp_path / "optimized.onnx"
    network = onnx.load(build.folder / "model.onnx")
    session(network, kind or machine_kind(), optimized_path=path, entries=entries or {})
    return onnx.load(path)


def operators(build, tmp_path):
    return [node.op_type for node in optimized(build, tmp_path).graph.node]


@pytest.mark.parametrize("activations", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("quantizer", [symmetric, asymmetric, logarithmic])
def test_onnxruntime_runs_integer_kernels_and_nothing_else(
    quantizer, activations, statistics, tmp_path
):
    build = onnxruntime(
        quantizer(conv_net(), statistics, activation_range=activations),
        Platform(),
        tmp_path / "build",
    )
    found = operators(build, tmp_path)
    assert found.count("QLinearConv") == 3
    assert (
        found.count("QLinearAdd")
        == found.count("QLinearGlobalAveragePool")
        == found.count("QGemm")
        == 1
    )
    assert not FLOAT_OPERATORS & set(found)
    assert found.count("QuantizeLinear") == 1
    assert "DequantizeLinear" not in found


@both_kinds
def test_a_zero_point_per_channel_is_computed_in_integers_and_exactly(kind, statistics, tmp_path):
    model = asymmetric(conv_net(), statistics, kind.target, granularity="channel")
    convolutions = [weight.quantized for weight in qdq.weights(model) if weight.kind != "gemm"]
    assert all(len(np.unique(quantized.zero_point)) > 1 for quantized in convolutions)
    build = onnxruntime(model, Platform(), tmp_path / "build")
    network = ir.load(build.folder / "model.onnx")
    step = 1e-6 + max(np.ptp(each["logits"]) for each in run(network, images(8))) / 255
    integer, plain = run(network, images(8), optimize=True, kind=kind), run(network, images(8))
    for one, other in zip(integer, plain, strict=True):
        np.testing.assert_allclose(one["logits"], other["logits"], atol=2 * step)


def test_a_clip_whose_range_ends_just_there_is_absorbed(tmp_path):
    inputs = [array * 10 for array in images(4)]  # ReLU6 saturates: its range is exactly [0, 6]
    statistics = statistics_of(conv_net(), inputs)
    assert statistics["stem_out"].maximum == 6
    found = operators(
        onnxruntime(symmetric(conv_net(), statistics), Platform(), tmp_path / "build"), tmp_path
    )
    assert "Clip" not in found


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(("name", "bits"), [
    ("uniform", 2), ("uniform", 3), ("uniform", 4), ("pot", 2), ("pot", 3), ("pot", 4),
    ("apot", 3), ("apot", 4),
])  # fmt: skip
def test_packed_weights_are_decoded_by_onnxruntime_bit_for_bit_and_folded_away(
    name, bits, opset, statistics, tmp_path
):
    model = conv_net(opset)
    for weight in qdq.weights(model):
        axis = weight.channel_axis
        qdq.quantize_weight(
            model, weight, qdq.to_codebook(weight, CODEBOOKS[name](bits), axis=axis)
        )
    quantize_activations(model, statistics)
    codes = sorted(weight.quantized.codes.tobytes() for weight in qdq.weights(model))
    whole = run(model, images(3), optimize=True)
    build = onnxruntime(model, Platform(max_opset=28, max_ir_version=14), tmp_path / "build")
    loaded = optimized(build, tmp_path)
    assert not {"Gather", "Cast", "Slice"} & {node.op_type for node in loaded.graph.node}
    weights = [
        t
        for t in loaded.graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    # Gemm's weight may be held transposed
    sizes = sorted(len(onnx.numpy_helper.to_array(t).tobytes()) for t in weights)
    assert sizes == sorted(map(len, codes))
    kept = {onnx.numpy_helper.to_array(t).tobytes() for t in weights}
    assert len(kept & set(codes)) >= 3
    for optimize in (True, False):
        packed = run(ir.load(build.folder / "model.onnx"), images(3), optimize=optimize)
        if optimize:
            for one, two in zip(whole, packed, strict=True):
                np.testing.assert_allclose(one["logits"], two["logits"], atol=0.05)


def test_what_is_left_out_of_the_file_changes_no_bit(statistics, tmp_path):
    model = symmetric(conv_net(), statistics)
    whole = ir.from_proto(ir.to_proto(model))
    quantize_biases(whole)
    build = onnxruntime(model, Platform(), tmp_path)
    for optimize in (True, False):
        one, two = (
            run(net, images(6), optimize=optimize)
            for net in (whole, ir.load(build.folder / "model.onnx"))
        )
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a["logits"], b["logits"])
    written = onnx.load(build.folder / "model.onnx").graph
    assert not [
        node
        for node in written.node
        if node.op_type == "Conv" and "kernel_shape" in str(node.attribute)
    ]


def test_a_clip_that_bites_before_the_codes_end_is_kept(statistics, tmp_path):
    inputs = [array * 10 for array in images(4)]
    wide = symmetric(conv_net(), statistics_of(conv_net(), inputs))
    six = next(node for node in wide.graph if node.op_type == "Clip").inputs[2]
    six.const_value = ir.tensor(np.array(5.5, np.float32), name=six.name)
    build = onnxruntime(wide, Platform(), tmp_path)
    kept = [node.op_type for node in onnx.load(build.folder / "model.onnx").graph.node]
    assert kept.count("Clip") == 2
    narrow = onnxruntime(
        symmetric(conv_net(), statistics_of(conv_net(), inputs)), Platform(), tmp_path / "narrow"
    )
    assert "Clip" not in [
        node.op_type for node in onnx.load(narrow.folder / "model.onnx").graph.node
    ]


def test_packing_halves_the_weights(statistics, tmp_path):
    def size(codebook, folder):
        model = conv_net()
        array = np.random.default_rng(3).normal(size=(512, 8, 1, 1)).astype(np.float32)
        text = """<ir_version: 8, opset_import: ["" : 17]>
        net (float[1, 8, 4, 4] x) => (float[1, 512, 4, 4] y) { y = Conv (x, w) }"""
        model = ir.from_onnx_text(text, initializers=[ir.tensor(array, name="w")])
        (weight,) = qdq.weights(model)
        qdq.quantize_weight(model, weight, qdq.to_codebook(weight, codebook, axis=0))
        onnxruntime(model, Platform(), tmp_path / folder)
        return sum(
            len(t.raw_data) for t in onnx.load(tmp_path / folder / "model.onnx").graph.initializer
        )

    table = 256 * 2 + 4 * 8
    assert (
        size(CODEBOOKS["pot"](4), "log") - table
        == size(CODEBOOKS["uniform"](8), "int8") - 512 * 8 / 2
    )


def test_the_same_network_gives_the_same_bytes(statistics, tmp_path):
    for folder in ("one", "two"):
        onnxruntime(logarithmic(conv_net(), statistics), Platform(), tmp_path / folder)
    for name in ("model.onnx", "build.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@both_kinds
def test_signed_activations_for_arm_give_the_same_numbers(kind, statistics, tmp_path):
    model = symmetric(conv_net(), statistics, kind.target)
    x86 = onnxruntime(ir.from_proto(ir.to_proto(model)), Platform(), tmp_path / "x86")
    arm = onnxruntime(model, Platform(arch="aarch64"), tmp_path / "arm")
    initializers = onnx.load(arm.folder / "model.onnx").graph.initializer
    assert not any(tensor.data_type == onnx.TensorProto.UINT8 for tensor in initializers)
    # int8 activations on x86 too: their products with int8 weights are summed in 32 bits everywhere
    signed = optimized(arm, tmp_path, entries={"session.qdqisint8allowed": "1"})
    fused = [optimized(x86, tmp_path, kind), signed]
    for graph in fused:
        assert not FLOAT_OPERATORS & {node.op_type for node in graph.graph.node}
    unfused = [onnx.load(build.folder / "model.onnx") for build in (x86, arm)]
    for (left, right), optimize in ((unfused, False), (fused, True)):
        one, two = (run(ir.from_proto(net), images(5), optimize=optimize) for net in (left, right))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a["logits"], b["logits"])


def test_the_file_carries_nothing_that_costs_bytes(statistics, tmp_path):
    model = symmetric(conv_net(), statistics)
    model.graph.doc_string = "words"
    unused = ir.tensor(np.zeros(1000, np.float32), name="unused")
    model.graph.register_initializer(ir.val("unused", const_value=unused))
    build = onnxruntime(model, Platform(), tmp_path)
    proto = onnx.load(build.folder / "model.onnx")
    assert "unused" not in {t.name for t in proto.graph.initializer}
    assert not proto.graph.doc_string
    assert not proto.graph.value_info
    assert not any(node.metadata_props for node in proto.graph.node)
    onnx.checker.check_model(proto)


def test_the_manifest_says_how_to_run_it_and_what_goes_in_and_out(statistics, tmp_path):
    onnxruntime(
        symmetric(conv_net(), statistics), Platform(), tmp_path, threads=2, optimization="extended"
    )
    manifest = json.loads((tmp_path / "build.json").read_text(encoding="utf-8"))
    assert manifest == {
        "runtime": "onnxruntime",
        "runner": "run_onnxruntime.py",
        "model": "model.onnx",
        "weights": {
            "count": 8 * 27 + 8 * 9 + 8 * 8 + 5 * 8,
            "bits": 8 * (8 * 27 + 8 * 9 + 8 * 8 + 5 * 8),
            "limited_layers": 0,
        },
        "options": {
            "session": {
                "intra_op_num_threads": 2,
                "inter_op_num_threads": 1,
                "graph_optimization_level": "ORT_ENABLE_EXTENDED",
            },
            "config": {
                "optimization.disable_specified_optimizers": "WeightBiasQuantization;SkipLayerNormFusion"
            },
            "providers": [["cpu", {}]],
            "fallback": "error",
        },
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 16, 16]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 5]}],
    }
    assert Build.read(tmp_path).manifest == manifest


def test_a_float_network_is_left_as_it_is(tmp_path):
    build = onnxruntime(conv_net(), Platform(), tmp_path)
    one, two = run(conv_net(), images(2)), run(ir.load(build.folder / "model.onnx"), images(2))
    np.testing.assert_array_equal(one[0]["logits"], two[0]["logits"])


def test_a_network_whose_tensors_are_called_as_the_files_are_is_renamed_all_the_same(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3] t2) => (float[1, 2] y) { t3 = MatMul (t2, t1) y = Add (t3, t0) }"""
    arrays = {"t1": np.arange(6, dtype=np.float32).reshape(3, 2), "t0": np.float32([1, 2])}
    for folder in ("one", "two"):
        model = ir.from_onnx_text(
            text, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()]
        )
        onnxruntime(model, Platform(), tmp_path / folder)
    written = tmp_path / "one" / "model.onnx"
    assert written.read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()
    given = np.float32([[1, 2, 3]])
    (made,) = ort.InferenceSession(written, providers=["CPUExecutionProvider"]).run(
        None, {"t2": given}
    )
    np.testing.assert_array_equal(made, given @ arrays["t1"] + arrays["t0"])


# ---- the float build is exact

TRAINING = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 6, 6] x) => (float[1, 16] y) {
  c = Conv (x, w)
  n, mean, variance = BatchNormalization <training_mode = 1> (c, ones, shift, old_mean, ones_too)
  r = Relu (n) q = GlobalAveragePool (r) y = Flatten (q) }"""


def training_network() -> ir.Model:
    """16 channels: constants of up to 8 elements are joined by ONNX Runtime itself."""
    random = np.random.default_rng(2)
    arrays = {
        "w": random.normal(0, 1, (16, 3, 1, 1)).astype(np.float32),
        "ones": np.ones(16, np.float32),
        "ones_too": np.ones(16, np.float32),
        "shift": random.normal(0, 1, 16).astype(np.float32),
        "old_mean": random.normal(0, 1, 16).astype(np.float32),
    }
    tensors = [ir.tensor(array, name=name) for name, array in arrays.items()]
    return ir.from_onnx_text(TRAINING, initializers=tensors)


def test_equal_constants_stay_apart_where_the_runtime_writes_over_them(tmp_path: Path) -> None:
    image = np.random.default_rng(3).normal(0, 1, (1, 3, 6, 6)).astype(np.float32)
    (expected,) = run(training_network(), [image])
    onnxruntime(training_network(), Platform(), tmp_path)
    (outputs,) = run(ir.load(tmp_path / "model.onnx"), [image], optimize=True)
    np.testing.assert_allclose(outputs["y"], expected["y"], atol=1e-5)


def test_a_float_build_that_would_compute_something_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def double_weight(model: ir.Model) -> None:
        value = model.graph.initializers["head_w"]
        assert value.const_value is not None
        value.const_value = ir.tensor(2 * value.const_value.numpy(), name="head_w")

    monkeypatch.setattr(model_file, "remove_saturated_clips", double_weight)
    with pytest.raises(StageError, match="the float build is not exact on noise: output 'logits'"):
        onnxruntime(conv_net(), Platform(), tmp_path)

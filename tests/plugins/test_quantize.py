from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

import qpipe
from models import RTN, conv_net, images, run, statistics_of
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.stages.registry import load
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.compensate import compensate
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.symmetric import symmetric

CALIBRATION, EVALUATION = images(16, seed=1), images(16, seed=2)


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), CALIBRATION)


def logits(model, inputs=EVALUATION):
    return np.concatenate([outputs["logits"] for outputs in run(model, inputs)])


def noise_db(model):
    return sqnr_db(logits(conv_net()), logits(model))


def weights(model):
    return {weight.name: weight for weight in qdq.weights(model)}


def test_symmetric_per_channel_leaves_less_noise_with_more_bits(statistics):
    noise = [noise_db(symmetric(conv_net(), statistics, bits=bits)) for bits in (2, 4, 8)]
    assert noise == sorted(noise)
    assert noise[-1] > 30


def test_a_large_channel_costs_the_others_their_precision_per_tensor_and_not_per_channel(
    statistics,
):
    def error(granularity):
        model = conv_net()
        array = model.graph.initializers["flat_w"].const_value.numpy().copy()
        array[0] *= 100
        model.graph.initializers["flat_w"].const_value = ir.tensor(array, name="flat_w")
        found = weights(
            symmetric(model, statistics, granularity=granularity, activation_range="none")
        )["flat_w"]
        return np.abs(found.array - array)[1:].max(), np.abs(array).max(), np.abs(array[1:]).max()

    (tensor, largest, _), (channel, _, largest_other) = error("tensor"), error("channel")
    assert (
        channel <= largest_other / 127 / 2 * (1 + 1e-6) < tensor <= largest / 127 / 2 * (1 + 1e-6)
    )


@pytest.mark.parametrize("stage", [symmetric, asymmetric, logarithmic])
def test_weights_that_are_quantized_already_keep_their_codes(stage, statistics):
    model = conv_net()
    before = weights(model)["flat_w"]
    qdq.quantize_weight(model, before, qdq.symmetric(before, bits=3, axis=0))
    kept = weights(model)["flat_w"].quantized.codes
    after = weights(stage(model, statistics))
    np.testing.assert_array_equal(after["flat_w"].quantized.codes, kept)
    assert all(weight.is_quantized for weight in after.values())


@pytest.mark.parametrize("stage", [symmetric, asymmetric, logarithmic])
def test_what_is_excluded_stays_float_and_so_do_the_tensors_between_two_such(stage, statistics):
    model = stage(conv_net(), statistics, exclude=["stem_w", "middle"])
    assert [name for name, weight in weights(model).items() if weight.is_quantized] == [
        "flat_w",
        "head_w",
    ]
    quantized = {node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"}
    assert "image" not in quantized
    assert "deep_out" in quantized
    assert noise_db(model) > 10


def test_asymmetric_is_finer_than_symmetric_where_weights_lean_to_one_side(statistics):
    def leaning():
        model = conv_net()
        array = np.abs(model.graph.initializers["flat_w"].const_value.numpy())
        model.graph.initializers["flat_w"].const_value = ir.tensor(array, name="flat_w")
        return model

    here = statistics_of(leaning(), CALIBRATION)
    scales = {
        "symmetric": weights(symmetric(leaning(), here, granularity="tensor"))[
            "flat_w"
        ].quantized.scale,
        "asymmetric": weights(asymmetric(leaning(), here, granularity="tensor"))[
            "flat_w"
        ].quantized.scale,
    }
    assert scales["symmetric"] / scales["asymmetric"] == pytest.approx(255 / 127, rel=1e-6)


def test_logarithmic_weights_are_powers_of_two_times_a_scale_but_first_and_depthwise_are_uniform(
    statistics,
):
    found = weights(logarithmic(conv_net(), statistics))
    names = {
        name: (w.quantized.codebook.name, w.quantized.codebook.bits) for name, w in found.items()
    }
    assert names == {
        "stem_w": ("uniform", 8), "deep_w": ("uniform", 8),
        "flat_w": ("pot", 4), "head_w": ("pot", 4),
    }  # fmt: skip
    codes = np.abs(found["flat_w"].quantized.codes.astype(int))
    assert set(np.unique(codes)) <= {0, 1, 2, 4, 8, 16, 32, 64}
    last = weights(logarithmic(conv_net(), statistics, bits_last=8))["head_w"]
    assert last.quantized.codebook.name == "uniform"


def test_first_last_and_depthwise_layers_of_symmetric_have_bits_of_their_own(statistics):
    found = weights(
        symmetric(conv_net(), statistics, bits=4, bits_first=8, bits_last=7, bits_depthwise=6)
    )
    assert {name: weight.quantized.codebook.bits for name, weight in found.items()} == {
        "stem_w": 8, "deep_w": 6, "flat_w": 4, "head_w": 7,
    }  # fmt: skip


def test_additive_levels_leave_less_noise_than_powers_of_two(statistics):
    one, two = (
        noise_db(logarithmic(conv_net(), statistics, levels=levels)) for levels in ("pot", "apot")
    )
    assert two > one


@pytest.mark.parametrize("quantizer", [symmetric, asymmetric, logarithmic])
def test_correct_bias_brings_the_mean_of_each_output_nearer_to_float(quantizer, statistics):
    plain = quantizer(conv_net(), statistics, bits=3, activation_range="none")
    corrected = correct_bias(
        quantizer(conv_net(), statistics, bits=3, activation_range="none"), conv_net(), statistics
    )
    exact = np.mean(
        [one["flat"] for one in run(conv_net(), CALIBRATION, ["flat"])], axis=(0, 1, 3, 4)
    )

    def shift(model):
        return np.abs(
            np.mean([one["flat"] for one in run(model, CALIBRATION, ["flat"])], axis=(0, 1, 3, 4))
            - exact
        )

    assert shift(corrected).mean() < 0.5 * shift(plain).mean()


def test_correct_bias_of_a_pointwise_layer_is_exact(statistics):
    model = conv_net()
    weight = weights(model)["flat_w"]
    qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=2, axis=0))
    correct_bias(model, conv_net(), statistics)
    means = [
        np.mean([one["flat"] for one in run(net, CALIBRATION, ["flat"])], axis=(0, 1, 3, 4))
        for net in (conv_net(), model)
    ]
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def test_correct_bias_sees_through_quantized_activations(statistics):
    before = symmetric(conv_net(), statistics, bits=3)
    after = correct_bias(symmetric(conv_net(), statistics, bits=3), conv_net(), statistics)
    assert not np.array_equal(weights(before)["flat_w"].bias, weights(after)["flat_w"].bias)


@pytest.mark.parametrize("stage", [activations, correct_bias])
def test_a_stage_that_needs_quantized_weights_says_so(stage, statistics):
    given = (
        (conv_net(), statistics) if stage is activations else (conv_net(), conv_net(), statistics)
    )
    with pytest.raises(
        StageError, match="no weight is quantized yet; put a stage that quantizes weights before it"
    ):
        stage(*given)


def test_a_network_without_weights_is_told_so() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    networks = [ir.from_onnx_text(text), ir.from_onnx_text(text)]
    with pytest.raises(
        StageError, match="the network has no weight to quantize; leave this scheme"
    ):
        correct_bias(*networks, Statistics([]))


def test_activations_of_16_bits_leave_less_noise_than_8_and_need_opset_21():
    model, newer = conv_net(), conv_net(opset=21)
    statistics = statistics_of(model, CALIBRATION)
    for network in (model, newer):
        for weight in qdq.weights(network):
            qdq.quantize_weight(network, weight, qdq.symmetric(weight, axis=weight.channel_axis))
    exact = logits(newer, CALIBRATION)  # where no value is beyond the ranges
    coarse = logits(activations(ir.from_proto(ir.to_proto(newer)), statistics), CALIBRATION)
    fine = logits(activations(newer, statistics, bits=16), CALIBRATION)
    assert sqnr_db(exact, fine) > sqnr_db(exact, coarse) + 12  # 48 if no value left its range
    with pytest.raises(StageError, match="16 bits need opset 21"):
        activations(model, statistics, bits=16)


def test_the_smallest_third_party_algorithm_works_in_a_chain_with_activations(
    tmp_path: Path, statistics
):
    file = tmp_path / "rtn_plugin.py"
    file.write_text(RTN, encoding="utf-8")
    rtn = load([file]).stages["quantize", "rtn"].function
    model = rtn(conv_net())
    ir.save(model, tmp_path / "between.onnx")  # each step reads what the one before wrote
    model = activations(ir.load(tmp_path / "between.onnx"), statistics)
    same = symmetric(conv_net(), statistics)
    np.testing.assert_array_equal(logits(model), logits(same))


@pytest.mark.parametrize(
    "name", ["symmetric", "asymmetric", "logarithmic", "activations", "correct_bias", "compensate"]
)
def test_the_stage_is_registered_and_its_first_line_says_what_it_does(name):
    stage = load().stages["quantize", name]
    assert stage.function.__doc__.splitlines()[0].endswith(".")
    assert qpipe.__version__


def test_correcting_biases_twice_is_the_same_as_once(statistics):
    model = correct_bias(symmetric(conv_net(), statistics, bits=3), conv_net(), statistics)
    once = {name: weight.bias for name, weight in weights(model).items()}
    for name, weight in weights(correct_bias(model, conv_net(), statistics)).items():
        np.testing.assert_array_equal(weight.bias, once[name])


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    given = (Sample(str(i), {"image": array[0]}) for i, array in enumerate(CALIBRATION))
    return Samples.write(tmp_path_factory.mktemp("samples"), given, {"image": Preprocessing()})


def quiet(done, total=None, unit=""):
    pass


@pytest.mark.parametrize("layer", ["Gemm <alpha = 0.5>", "Gemm <transA = 1>"])
def test_a_gemm_that_is_more_than_weight_and_bias_keeps_its_bias_and_its_codes(layer, tmp_path):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[3, 3] x) => (float[3, 2] y) <float[3, 2] w = {{0.9, -0.6, 0.35, 0.2, -1.0, 1.0}}, float[2] b = {{1, 2}}>
    {{ y = {layer} (x, w, b) }}"""
    rows = [np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32) for seed in range(4)]
    found = statistics_of(ir.from_onnx_text(text), rows)
    before = symmetric(ir.from_onnx_text(text), found, bits=3)
    given = (Sample(str(i), {"x": array}) for i, array in enumerate(rows))
    samples = Samples.write(tmp_path, given, {"x": Preprocessing()})
    after = correct_bias(
        symmetric(ir.from_onnx_text(text), found, bits=3), ir.from_onnx_text(text), found
    )
    np.testing.assert_array_equal(weights(after)["w"].bias, weights(before)["w"].bias)
    with pytest.raises(
        StageError, match="quantize compensate: no quantized weight belongs to a supported layer"
    ):
        compensate(before, ir.from_onnx_text(text), samples, tmp_path, quiet)


@pytest.mark.parametrize(("layer", "bias"), [("Gemm <beta = 2.0>", "float[2] b = {1, 2}"),
                                              ("Gemm", "float[3, 2] b = {1, 2, 3, 4, 5, 6}")])  # fmt: skip
def test_a_weight_that_no_integer_kernel_would_read_stays_float(layer, bias):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[3, 3] x) => (float[3, 2] y) <float[3, 2] w = {{0.9, -0.6, 0.35, 0.2, -1.0, 1.0}}, {bias}>
    {{ y = {layer} (x, w, b) }}"""
    found = statistics_of(ir.from_onnx_text(text), [np.ones((3, 3), np.float32)])
    assert not weights(symmetric(ir.from_onnx_text(text), found))["w"].is_quantized


def test_a_bias_that_is_computed_is_kept(statistics):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3] x) => (float[1, 2] y) <float[3, 2] w = {0.9, -0.6, 0.35, 0.2, -1.0, 1.0}, float two = {2.0}>
    { c = MatMul (x, w2) y = Gemm (x, w, c) }"""
    w2 = ir.tensor(np.ones((3, 2), np.float32), name="w2")
    found = statistics_of(ir.from_onnx_text(text, initializers=[w2]), [np.ones((1, 3), np.float32)])
    nets = [ir.from_onnx_text(text, initializers=[w2]) for _ in range(2)]
    model = correct_bias(symmetric(nets[0], found, bits=3, activation_range="none"), nets[1], found)
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    assert gemm.inputs[2].producer().op_type == "MatMul"


@pytest.mark.parametrize("name", ["correct_bias", "compensate"])
def test_weights_that_another_quantizer_made_are_said_to_have_no_origin(
    name, statistics, samples, tmp_path
):
    network = conv_net()
    ShapeInferencePass()(network)
    model = onnxruntime_static(network, samples, samples=2)
    reason = "the quantized weights do not record which float weights they came from; put symmetric, asymmetric"
    rest = {
        "compensate": (compensate, (samples, tmp_path, quiet)),
        "correct_bias": (correct_bias, (statistics,)),
    }
    stage, given = rest[name]
    with pytest.raises(StageError, match=f"^quantize {name}: {reason}"):
        stage(model, conv_net(), *given)

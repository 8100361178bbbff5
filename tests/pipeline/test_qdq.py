from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from models import SHAPES, conv_net, images, run, statistics_of
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.activations import quantize_activations
from qpipe.quant.biases import quantize_biases
from qpipe.quant.codebook import pot


def by_name(model):
    return {weight.name: weight for weight in qdq.weights(model)}


def quantized_net():
    model = conv_net()
    statistics = statistics_of(model, images(8))
    for weight in qdq.weights(model):
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, axis=weight.channel_axis))
    return model, statistics


def constants(model, name):
    return model.graph.initializers[name].const_value.numpy()


def test_the_view_has_every_weight_with_its_kind_axis_values_and_bias():
    model = conv_net()
    found = by_name(model)
    assert {name: (w.kind, w.channel_axis) for name, w in found.items()} == {
        "stem_w": ("conv", 0), "deep_w": ("depthwise", 0), "flat_w": ("conv", 0), "head_w": ("gemm", 0),
    }  # fmt: skip
    for name, weight in found.items():
        np.testing.assert_array_equal(weight.array, constants(model, name))
        np.testing.assert_array_equal(weight.bias, constants(model, name.replace("_w", "_b")))
        assert not weight.is_quantized


def test_weights_of_matmul_and_untransposed_gemm_have_their_channels_last():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[2, 3] x) => (float[2, 2] y)
      <float[3, 4] a = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[4, 2] b = {1, 2, 3, 4, 5, 6, 7, 8}>
    { h = MatMul (x, a)
      y = Gemm (h, b) }"""
    found = by_name(ir.from_onnx_text(text))
    assert [(w.kind, w.channel_axis, w.bias) for w in found.values()] == [
        ("matmul", 1, None),
        ("gemm", 1, None),
    ]


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("quantizer", ["symmetric", "asymmetric", "logarithmic"])
def test_a_quantized_weight_is_what_the_reference_evaluator_reads_and_survives_the_file(
    tmp_path, quantizer, axis
):
    model = conv_net()
    for weight in qdq.weights(model):
        made = {
            "symmetric": lambda w: qdq.symmetric(w, bits=5, axis=axis),
            "asymmetric": lambda w: qdq.asymmetric(w, bits=5, axis=axis),
            "logarithmic": lambda w: qdq.to_codebook(w, pot(4), axis=axis, method="mse"),
        }[quantizer](weight)
        qdq.quantize_weight(model, weight, made)
    ir.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx")
    again = by_name(ir.load(tmp_path / "model.onnx"))
    assert list(again) == [name for name in SHAPES if name.endswith("_w")]
    for name, weight in by_name(model).items():
        expected = ReferenceEvaluator(_only(model, weight)).run(None, {})[0]
        for view in (weight, again[name]):
            np.testing.assert_array_equal(view.array, expected)
            assert view.quantized.codes.dtype == np.int8
            assert view.quantized.codebook == made.codebook
            assert view.quantized.axis == axis
            assert set(np.unique(view.quantized.codes)) <= set(made.codebook.levels)


def _only(model, weight):
    """The network that gives nothing but one weight."""
    node = weight.value.producer()
    made = [onnx.helper.make_tensor_value_info(node.outputs[0].name, onnx.TensorProto.FLOAT, None)]
    tensors = [onnx.numpy_helper.from_array(constants(model, v.name), v.name) for v in node.inputs]
    graph = onnx.helper.make_graph([ir.to_proto(node)], "one", [], made, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])


def test_quantizing_a_quantized_weight_again_replaces_its_codes():
    model = conv_net()
    for bits in (8, 3):
        weight = by_name(model)["flat_w"]
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, bits=bits, axis=0))
    assert by_name(model)["flat_w"].quantized.codebook.bits == 3
    assert [node.op_type for node in model.graph].count("DequantizeLinear") == 1
    assert "flat_w" not in model.graph.initializers


def test_a_weight_that_two_nodes_share_is_one_weight_and_both_read_its_codes():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 2, 1, 1] w = {1, 2, 3, 4}>
    { h = Conv (x, w)
      y = Conv (h, w) }"""
    model = ir.from_onnx_text(text)
    (weight,) = qdq.weights(model)
    qdq.quantize_weight(model, weight, qdq.symmetric(weight, axis=0))
    (again,) = qdq.weights(model)
    assert len(again.nodes) == 2
    assert again.is_quantized


def test_activations_sit_after_the_clip_and_never_before_it():
    model, statistics = quantized_net()
    quantize_activations(model, statistics)
    quantized = {node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"}
    assert quantized == {"image", "stem_out", "deep_out", "flat", "joined", "pooled", "features"}
    assert constants(model, "stem_out_zero_point") == 0
    assert constants(model, "stem_out_scale") * np.float32(255) <= 6
    assert [value.name for value in model.graph.outputs] == ["logits"]


def test_flatten_passes_on_the_scale_of_its_input():
    model, statistics = quantized_net()
    quantize_activations(model, statistics)
    scales = {
        n.inputs[0].name: n.inputs[1].name for n in model.graph if n.op_type == "QuantizeLinear"
    }
    assert scales["features"] == scales["pooled"]


def test_activations_of_a_network_that_has_them_already_changes_nothing():
    model, statistics = quantized_net()
    quantize_activations(model, statistics)
    before = len(model.graph)
    quantize_activations(model, statistics)
    assert len(model.graph) == before


def test_statistics_of_another_network_are_an_error_that_names_a_tensor():
    model, statistics = quantized_net()
    other = type(statistics)(tensor for name, tensor in statistics.items() if name == "logits")
    with pytest.raises(StageError, match="no statistics of tensor 'image'"):
        quantize_activations(model, other)


def test_what_reads_a_tensor_without_statistics_stays_float_and_is_logged(caplog):
    model, statistics = quantized_net()
    fewer = type(statistics)(tensor for name, tensor in statistics.items() if name != "image")
    quantize_activations(model, fewer)
    assert "stays float: Conv 'first' (no statistics of 'image'), Clip" in caplog.text
    quantized = {node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"}
    assert "image" not in quantized
    assert "deep_out" in quantized


def test_a_network_output_that_is_quantized_keeps_its_name():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) <float[1, 1, 1, 1] w = {2.0}> { y = Conv (x, w) }"""
    model = ir.from_onnx_text(text)
    inputs = [np.array([[[[0, 1], [2, 3]]]], np.float32)]
    statistics = statistics_of(model, inputs)
    (weight,) = qdq.weights(model)
    qdq.quantize_weight(model, weight, qdq.symmetric(weight, axis=0))
    quantize_activations(model, statistics)
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert model.graph.outputs[0].producer().op_type == "DequantizeLinear"
    made = run(model, inputs)[0]["y"]
    # half a step of x times the weight, half a step of y
    assert np.abs(made - 2 * inputs[0]).max() <= 2 * 3 / 255 / 2 + 6 / 255 / 2 + 1e-6


def test_biases_are_int32_at_the_scale_of_activation_times_weight_and_doing_it_twice_changes_nothing():
    model, statistics = quantized_net()
    quantize_activations(model, statistics)
    biases = {weight.name: weight.bias for weight in qdq.weights(model)}
    quantize_biases(model)
    size = len(model.graph)
    quantize_biases(model)
    assert len(model.graph) == size
    for weight in qdq.weights(model):
        source, bias = (weight.node.inputs[i].producer() for i in (0, 2))
        codes, scale = (bias.inputs[i].const_value.numpy() for i in (0, 1))
        activation = source.inputs[1].const_value.numpy()
        assert codes.dtype == np.int32
        np.testing.assert_array_equal(scale, activation * weight.quantized.scale)
        error, beyond_float32 = (
            np.abs(weight.bias - biases[weight.name]),
            np.abs(weight.bias) * 2**-23,
        )
        assert (error <= scale / 2 + beyond_float32).all()


def test_a_near_dead_channel_keeps_its_bias_by_a_wider_weight_scale():
    model = conv_net()
    weights = constants(model, "flat_w").copy()
    weights[3] = 1e-12
    model.graph.initializers["flat_w"].const_value = ir.tensor(weights, name="flat_w")
    statistics = statistics_of(model, images(8))
    for weight in qdq.weights(model):
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, axis=0))
    narrow, bias = by_name(model)["flat_w"].quantized.scale, by_name(model)["flat_w"].bias
    quantize_activations(model, statistics)
    quantize_biases(model)
    after = by_name(model)["flat_w"]
    assert after.quantized.scale[3] > narrow[3]
    assert (np.delete(after.quantized.scale, 3) == np.delete(narrow, 3)).all()
    np.testing.assert_allclose(after.bias[3], bias[3], rtol=1e-6)
    assert np.abs(after.array[3]).max() <= 2e-12


@pytest.mark.parametrize("pattern", ["middle", "deep_w", "deep", "mid*", "deep_?"])
def test_exclude_names_a_node_a_weight_or_an_output(pattern):
    names = [weight.name for weight in qdq.float_weights(conv_net(), [pattern])]
    assert names == ["stem_w", "flat_w", "head_w"]


def test_exclude_by_operator():
    assert [weight.name for weight in qdq.float_weights(conv_net(), ["Conv"])] == ["head_w"]


def test_a_pattern_that_names_nothing_is_an_error():
    with pytest.raises(
        StageError, match=r"^quantize symmetric: exclude 'deap' matches no node, weight or operator"
    ):
        qdq.check_exclude(conv_net(), ["deap"], "quantize symmetric")

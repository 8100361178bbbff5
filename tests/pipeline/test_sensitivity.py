"""What an exchange costs, against networks in which the same parts are really float or quantized."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models import conv_net, images, run, statistics_of
from qpipe.quant import qdq
from qpipe.quant.graph import constant
from qpipe.quant.sensitivity import Probe, Substitution, decibels, relative_noise
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.symmetric import symmetric

ENDS_IN_CONV = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[1, 4, 14, 14] y) { y = Conv (image, w) }
"""
INPUTS = images(6, seed=4)
STATISTICS = statistics_of(conv_net(), images(16))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    given = [Sample(str(at), {"image": array[0]}) for at, array in enumerate(INPUTS)]
    return Samples.write(tmp_path_factory.mktemp("samples"), given, {"image": Preprocessing()})


def origins() -> dict[str, qdq.Weight]:
    return {weight.name: weight for weight in qdq.weights(conv_net())}


def damage(model: ir.Model) -> float:
    """By numpy: noise over signal of the logits."""
    exact, found = (
        np.stack([each["logits"] for each in run(net, INPUTS)]) for net in (conv_net(), model)
    )
    return float(np.sum((found - exact) ** 2) / np.sum(exact**2))


def everything(model: ir.Model, probe: Probe) -> Substitution:
    weights = {weight.name: weight.array for weight in qdq.weights(model) if weight.is_quantized}
    biases = {
        node.outputs[0].name: qdq.bias(node)
        for weight in qdq.weights(model)
        for node in weight.nodes
    }
    return Substitution(weights, biases, probe.rounded_layers)


def test_without_an_exchange_it_is_the_float_network(samples: Samples) -> None:
    probe = Probe(symmetric(conv_net(), STATISTICS, bits=4), origins(), samples, range(6))
    for found, exact in zip(probe.outputs(), run(conv_net(), INPUTS), strict=True):
        np.testing.assert_allclose(found["logits"], exact["logits"], rtol=1e-4, atol=1e-5)
    assert probe.damage(Substitution()) == 0


@pytest.mark.parametrize("activations", ["none", "minmax", "percentile"])
def test_with_all_exchanged_it_is_the_quantized_network(activations: str, samples: Samples) -> None:
    model = symmetric(conv_net(), STATISTICS, bits=4, activation_range=activations, percentile=99.0)
    model = correct_bias(model, conv_net(), STATISTICS)
    probe = Probe(model, origins(), samples, range(6))
    assert probe.damage(everything(model, probe)) == pytest.approx(damage(model), rel=0.02)


@pytest.mark.parametrize("name", ["stem_w", "deep_w", "flat_w", "head_w"])
def test_one_weight_alone(name: str, samples: Samples) -> None:
    others = [other for other in origins() if other != name]
    model = symmetric(conv_net(), STATISTICS, bits=3, activation_range="none", exclude=others)
    (weight,) = (weight for weight in qdq.weights(model) if weight.is_quantized)
    probe = Probe(conv_net(), origins(), samples, range(6))
    assert probe.damage(Substitution({name: weight.array})) == pytest.approx(
        damage(model), rel=1e-3
    )


def test_what_one_layer_reads_alone(samples: Samples) -> None:
    model = symmetric(conv_net(), STATISTICS, activation_range="percentile", percentile=90.0)
    probe = Probe(model, origins(), samples, range(6))
    assert set(probe.rounded_layers) == {"stem", "deep", "flat", "joined", "pooled", "logits"}
    found = probe.damage(Substitution(rounded=["flat"]))
    alone = conv_net()
    quantizer = next(
        n for n in model.graph if n.op_type == "QuantizeLinear" and n.inputs[0].name == "deep_out"
    )
    scale, zero_point = (constant(quantizer.inputs[at]) for at in (1, 2))
    inner = run(alone, INPUTS, ["deep_out"])
    flat = qdq.weights(conv_net())[2]
    exact, rounded = [], []
    for each in inner:
        x = each["deep_out"]
        codes = np.clip(np.rint(x / scale) + zero_point, 0, 255)
        exact.append(np.einsum("oi,ihw->ohw", flat.array[:, :, 0, 0], x[0]))
        rounded.append(
            np.einsum("oi,ihw->ohw", flat.array[:, :, 0, 0], (codes[0] - zero_point) * scale)
        )
    # the sum, the pool and the last layer are linear: what the pooled difference makes of the logits is the noise
    head = qdq.weights(conv_net())[3].array
    noise = [head @ (r - e).mean(axis=(1, 2)) for r, e in zip(rounded, exact, strict=True)]
    signal = [each["logits"] for each in run(conv_net(), INPUTS)]
    assert found == pytest.approx(np.sum(np.square(noise)) / np.sum(np.square(signal)), rel=1e-2)


def test_noise_is_the_mean_over_outputs_of_any_size() -> None:
    exact = [{"a": np.full(3, 2.0), "b": np.ones(100), "silent": np.zeros(2)}]
    found = [{"a": np.full(3, 2.2), "b": np.ones(100) * 1.2, "silent": np.ones(2)}]
    assert relative_noise(exact, iter(found)) == pytest.approx((0.01 + 0.04) / 2)


def test_an_output_that_is_no_number_is_the_worst() -> None:
    found = relative_noise([{"a": np.ones(3)}], iter([{"a": np.array([1.0, np.nan, 1.0])}]))
    assert found == np.inf
    assert decibels(found) == -200


def test_decibels_stay_within_200() -> None:
    assert (decibels(0.0), decibels(0.01), decibels(1e-30)) == (200, pytest.approx(20), 200)


def test_outputs_that_are_rounded_last_have_a_switch_and_keep_their_names(samples: Samples) -> None:
    def net() -> ir.Model:
        array = np.random.default_rng(2).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
        return ir.from_onnx_text(ENDS_IN_CONV, initializers=[ir.tensor(array, name="w")])

    model = symmetric(
        net(), statistics_of(net(), INPUTS), activation_range="percentile", percentile=90.0
    )
    probe = Probe(model, {weight.name: weight for weight in qdq.weights(net())}, samples, range(6))
    assert set(probe.rounded_layers) == {"y_float", "y"}
    assert [list(each) for each in probe.outputs()] == [["y"]] * 6
    exact = np.stack([each["y"] for each in run(net(), INPUTS)])
    quantizer = next(
        n for n in model.graph if n.op_type == "QuantizeLinear" and n.inputs[0].name == "y_float"
    )
    scale, zero_point = (constant(quantizer.inputs[at]) for at in (1, 2))
    rounded = (np.clip(np.rint(exact / scale) + zero_point, 0, 255) - zero_point) * scale
    expected = np.sum((rounded - exact) ** 2) / np.sum(exact**2)
    assert probe.damage(Substitution(rounded=["y"])) == pytest.approx(expected, rel=1e-3)
    assert [value.name for value in model.graph.outputs] == ["y"], "the model is as before"

"""Equalization: the same function, with weights whose channels are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from models import run, statistics_of
from networks import Net
from qpipe.quant.arithmetic import sqnr_db
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.symmetric import symmetric
from qpipe_plugins.transform.equalize import equalize

CHANNELS = 16
TRIPLE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits) <float zero = {0.0}, float six = {6.0}>
{
  [expand] a = Conv <kernel_shape = [1, 1]> (image, expand_w, expand_b)
  a_out = Clip (a, zero, six)
  [deep] b = Conv <group = 16, pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (a_out, deep_w, deep_b)
  b_out = Clip (b, zero, six)
  [project] c = Conv <kernel_shape = [1, 1]> (b_out, project_w, project_b)
  [again] d = Conv <kernel_shape = [1, 1]> (c, again_w, again_b)
  joined = Add (c, d)
  e = Relu (joined)
  pooled = GlobalAveragePool (e)
  features = Flatten (pooled)
  [head] logits = Gemm <transB = 1> (features, head_w, head_b)
}
"""
SHAPES = {
    "expand_w": (16, 3, 1, 1), "expand_b": (16,), "deep_w": (16, 1, 3, 3), "deep_b": (16,), "project_w": (8, 16, 1, 1),
    "project_b": (8,), "again_w": (8, 8, 1, 1), "again_b": (8,), "head_w": (5, 8), "head_b": (5,),
}  # fmt: skip
WEIGHTS = ("expand_w", "deep_w", "project_w", "again_w", "head_w")


def network(*, imbalance: float = 1.0, loudness: float = 0.3, dead: int | None = None) -> ir.Model:
    """A MobileNet block, a residual and a head; channels of the middle layers are apart by up to `imbalance`."""
    random = np.random.default_rng(11)
    arrays = {
        name: random.normal(0, loudness, shape).astype(np.float32) for name, shape in SHAPES.items()
    }
    factors = imbalance ** random.uniform(-0.5, 0.5, CHANNELS)
    for name, factor in (("expand_w", 1 / factors), ("expand_b", 1 / factors), ("deep_w", factors)):
        arrays[name] = (arrays[name].T * factor).T.astype(np.float32)
    if dead is not None:
        arrays["expand_w"][dead] = 0
    tensors = [ir.tensor(array, name=name) for name, array in arrays.items()]
    model = ir.from_onnx_text(TRIPLE, initializers=tensors)
    ShapeInferencePass()(model)
    return model


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    random = np.random.default_rng(2)
    stream = (
        Sample(str(i), {"image": random.normal(0, 1, (3, 16, 16)).astype(np.float32)})
        for i in range(16)
    )
    return Samples.write(tmp_path, stream, {"image": Preprocessing()})


def silent(done: float, total: float | None = None, unit: str = "") -> None:
    pass


def outputs(model: ir.Model, samples: Samples) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.stack(
        [session.run(None, {"image": sample.inputs["image"][np.newaxis]})[0] for sample in samples]
    )


def array(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def spread(weight: np.ndarray) -> float:
    """The largest channel's range over the smallest's."""
    ranges = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return float(ranges.max() / ranges.min())


def rounded(model: ir.Model) -> ir.Model:
    """The network with each weight rounded to 8 bits, one scale per tensor."""
    for name in WEIGHTS:
        weight = array(model, name)
        scale = np.abs(weight).max() / 127
        model.graph.initializers[name].const_value = ir.tensor(
            (np.rint(weight / scale) * scale).astype(np.float32)
        )
    return model


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - other) ** 2)))


@pytest.mark.parametrize("loudness", [0.3, 1.0, 3.0])  # from no value at the bound of 6 to most
@pytest.mark.parametrize("imbalance", [1.0, 100.0])
def test_without_tolerance_the_function_stays_on_the_samples(
    samples: Samples, loudness: float, imbalance: float
) -> None:
    before = outputs(network(loudness=loudness, imbalance=imbalance), samples)
    after = outputs(
        equalize(network(loudness=loudness, imbalance=imbalance), samples, silent, tolerance=0.0),
        samples,
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_values_do_reach_the_bound_in_these_tests(samples: Samples) -> None:
    model = network(loudness=3.0)
    model.graph.outputs[:] = [node.outputs[0] for node in model.graph if node.name == "expand"]
    assert (outputs(model, samples) > 6).mean() > 0.1


def test_channels_that_were_apart_come_together(samples: Samples) -> None:
    before, after = (
        network(imbalance=1000.0),
        equalize(network(imbalance=1000.0), samples, silent, tolerance=0.0),
    )
    assert spread(array(after, "deep_w")) < spread(array(before, "deep_w")) / 5


def test_one_scale_per_tensor_serves_the_equalized_weights_better(samples: Samples) -> None:
    reference = outputs(network(imbalance=1000.0), samples)
    plain = sqnr(reference, outputs(rounded(network(imbalance=1000.0)), samples))
    model = equalize(network(imbalance=1000.0), samples, silent)
    assert sqnr(reference, outputs(rounded(model), samples)) > plain + 6


def test_the_tolerance_bounds_what_the_function_loses(samples: Samples) -> None:
    def left(tolerance: float) -> float:
        model = equalize(
            network(imbalance=100.0, loudness=1.0), samples, silent, tolerance=tolerance
        )
        return sqnr(
            outputs(network(imbalance=100.0, loudness=1.0), samples), outputs(model, samples)
        )

    exact, close, loose = left(0.0), left(1e-5), left(1e-2)
    assert exact > close > loose
    assert close > 25


def test_a_tensor_that_a_residual_shares_has_one_factor_for_all(samples: Samples) -> None:
    model = equalize(network(), samples, silent, tolerance=0.0)
    factors = [array(network(), name) / array(model, name) for name in ("project_b", "again_b")]
    assert np.ptp(factors[0]) > 0.01
    np.testing.assert_allclose(factors[0], factors[1], rtol=1e-5)


def test_a_dead_channel_stays_dead_and_finite(samples: Samples) -> None:
    before = outputs(network(dead=3), samples)
    model = equalize(network(dead=3), samples, silent, tolerance=0.0)
    assert not array(model, "expand_w")[3].any()
    np.testing.assert_allclose(
        outputs(model, samples), before, rtol=1e-4, atol=1e-4 * np.abs(before).max()
    )


def test_a_network_without_chains_stays_as_it_is(samples: Samples) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3, 16, 16] image) => (float[1, 3, 16, 16] y) { x = Sigmoid (image) y = Mul (x, image) }"""
    model = ir.from_onnx_text(text)
    before = ir.to_proto(model).SerializeToString()
    assert ir.to_proto(equalize(model, samples, silent)).SerializeToString() == before


# ---- what activations can bear


def with_decayed_filters(size: float, activation: str) -> ir.Model:
    """Two convolutions; every fourth filter of the first has weights of this size beside a bias of order one."""
    net = Net(5)
    weight, bias = net.weight(16, 3, 3, 3, fan_in=27), net.small(16)
    net.initializers[weight][::4] *= size
    net.initializers[bias][::4] = net.random.uniform(0.5, 2, 4)
    x = net.add("Conv", net.input("image", [1, 3, 16, 16]), weight, bias, pads=[1, 1, 1, 1])
    if activation:
        x = net.add(activation, x)
    x = net.add("Relu", net.conv(x, 16, 16, 3))
    return ir.from_proto(net.model(net.head(x, 16, 10)))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("activation", ["", "Relu"])
@pytest.mark.parametrize("size", [1e-20, 1e-6, 1e-3])
def test_tiny_filters_beside_large_biases_do_not_fill_the_range_of_the_activations(
    samples: Samples, size: float, activation: str, granularity: str
) -> None:
    inputs = [sample.inputs["image"][np.newaxis] for sample in samples]

    def logits(model: ir.Model) -> np.ndarray:
        return np.concatenate([next(iter(each.values())) for each in run(model, inputs)])

    def noise(float_model: ir.Model) -> float:
        statistics = statistics_of(float_model, inputs)
        model = ir.from_proto(ir.to_proto(float_model))
        model = symmetric(model, statistics, granularity=granularity)  # type: ignore[arg-type]
        model = correct_bias(model, float_model, statistics)
        return sqnr_db(logits(with_decayed_filters(size, activation)), logits(model))

    plain = noise(with_decayed_filters(size, activation))
    equalized = noise(equalize(with_decayed_filters(size, activation), samples, silent))
    assert equalized > plain - 0.5

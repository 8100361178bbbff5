"""Sums of u8 x s8 products without VNNI: the rule of pairs, and the real kernels on an emulated CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import conv_net, images, run, statistics_of
from processors import (
    EXACT,
    EXACT_ENTRY,
    SATURATING,
    Job,
    emulated,
    emulated_outputs,
    machine_capabilities,
    machine_kind,
    machine_target,
    session,
)
from qpipe.quant import qdq
from qpipe.quant.biases import quantize_biases
from qpipe.quant.codebook import uniform
from qpipe.quant.exact_sums import make_sums_exact
from qpipe.quant.rounding import Grid, Hessian, ScaleFit, round_to_grid
from qpipe.quant.saturation import limit_pairs, pairings
from qpipe.quant.scales import Method
from qpipe.types import Array, Platform, Target
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.symmetric import symmetric

SUMS = np.iinfo(np.int16)


# ---- what the kernels compute, in numpy


def pair_sums(activations: Array, weights: Array) -> Array:
    """Exact sums of products 0 and 1, 2 and 3, ... of uint8 [M, K] times int8 [K, N]: [M, pairs, N]."""
    padding = activations.shape[1] % 2
    left = np.pad(activations, ((0, 0), (0, padding))).astype(np.int64)[:, :, np.newaxis]
    right = np.pad(weights, ((0, padding), (0, 0))).astype(np.int64)
    return left[:, 0::2] * right[0::2] + left[:, 1::2] * right[1::2]


def saturating_product(activations: Array, weights: Array) -> Array:
    return pair_sums(activations, weights).clip(SUMS.min, SUMS.max).sum(axis=1)


def exact(activations: Array, weights: Array) -> Array:
    return activations.astype(np.int64) @ weights.astype(np.int64)


def saturating_share(activations: Array, weights: Array) -> float:
    sums = pair_sums(activations, weights)
    return float(np.mean((sums < SUMS.min) | (sums > SUMS.max)))


def in_order_of_kernels(weight: Array, *, by_position: bool) -> Array:
    """A convolution's weight as int8 [K, N]: channels change fastest, then the kernel's last axis.

    With `by_position` each position is padded by zero to an even number of channels, as OpenVINO does.
    """
    channels_last = np.moveaxis(weight, 1, -1)
    padding = channels_last.shape[-1] % 2 if by_position else 0
    widths = [(0, 0)] * (weight.ndim - 1) + [(0, padding)]
    return np.pad(channels_last, widths).reshape(len(weight), -1).T


def can_overflow(weight: Array) -> bool:
    """Whether some activations would take a sum of two products beyond 16 bits, in either runtime."""
    for by_position in (False, True):
        rows = in_order_of_kernels(weight, by_position=by_position)
        # the largest sum has 255 at the positive weights, the smallest at the negative ones
        for part in (rows.clip(min=0), rows.clip(max=0)):
            if saturating_share(np.full((1, len(rows)), 255, np.uint8), part):
                return True
    return False


# ---- the rule of pairs


def test_two_codes_that_sum_to_128_are_the_most_that_16_bits_hold() -> None:
    assert not can_overflow(np.array([[127, 1]], np.int8))
    assert not can_overflow(np.array([[-128, 0]], np.int8))
    assert not can_overflow(np.array([[-128, 127]], np.int8))
    assert can_overflow(np.array([[65, 64]], np.int8))
    assert can_overflow(np.array([[-127, -2]], np.int8))


def test_pairs_follow_both_runtimes() -> None:
    """3 channels at 2 positions: in ONNX channel c of position p is at 2 c + p."""
    continued, by_position = pairings(3, 2)
    assert list(zip(continued.first, continued.second, strict=True)) == [(0, 2), (4, 1), (3, 5)]
    assert list(zip(by_position.first, by_position.second, strict=True)) == [(0, 2), (1, 3)]
    (even,) = pairings(2, 2)
    assert list(zip(even.first, even.second, strict=True)) == [(0, 2), (1, 3)]


@settings(deadline=None)
@given(data=st.data())
def test_limited_codes_cannot_overflow_and_those_that_could_not_stay(data: st.DataObject) -> None:
    channels = data.draw(st.integers(1, 5))
    positions = data.draw(st.integers(1, 4))
    shape = (data.draw(st.integers(1, 3)), channels, positions)
    codes = data.draw(hnp.arrays(np.int8, shape))
    rows = limit_pairs(codes.reshape(len(codes), -1), pairings(channels, positions))
    limited = rows.astype(np.int8).reshape(shape)
    assert not can_overflow(limited)
    assert (np.abs(limited.astype(int)) <= np.abs(codes.astype(int))).all()
    if not can_overflow(codes):
        np.testing.assert_array_equal(limited, codes)


def test_both_codes_of_a_pair_give_way() -> None:
    assert limit_pairs(np.array([[127, 101, -120, -20]]), pairings(4, 1)).tolist() == [
        [77, 51, -114, -14]
    ]


# ---- codes that quantizers choose


LAYER = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, {channels}, 4, 4] x) => (float[1, {outputs}, 4, 4] y)
{{ y = Conv <kernel_shape = [{side}, {side}], group = {group}, pads = [{pad}, {pad}, {pad}, {pad}]> (x, w) }}"""


def layer(weight: Array, group: int = 1) -> ir.Model:
    outputs, channels, side, _ = weight.shape
    text = LAYER.format(
        channels=channels * group, outputs=outputs, side=side, group=group, pad=side // 2
    )
    return ir.from_onnx_text(text, initializers=[ir.tensor(weight, name="w")])


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("shape", [(6, 8, 1, 1), (6, 3, 3, 3), (4, 5, 3, 3), (4, 1, 3, 3)])
def test_no_weight_for_a_saturating_processor_can_overflow(
    shape: tuple[int, ...], method: Method, axis: int | None
) -> None:
    for seed in range(5):
        (weight,) = qdq.weights(layer(normal(*shape, seed=seed) + 0.3))
        for choose in (qdq.symmetric, qdq.asymmetric):
            chosen = choose(weight, axis=axis, method=method, target=SATURATING.target)
            assert not can_overflow(chosen.codes)
            assert chosen.codebook.bits == 8


def test_scales_are_the_smallest_without_overflow() -> None:
    (weight,) = qdq.weights(layer(normal(6, 3, 3, 3)))
    chosen = qdq.symmetric(weight, axis=0, target=SATURATING.target)
    for values, scale in zip(weight.array, chosen.scale, strict=True):
        rows = [
            in_order_of_kernels(values[np.newaxis], by_position=by_position)[:, 0]
            for by_position in (False, True)
        ]
        pairs = [abs(row[k] + row[k + 1]) for row in rows for k in range(0, len(row) - 1, 2)]
        assert scale == pytest.approx(max(np.abs(values).max() / 127, max(pairs) / 128), rel=1e-6)
        # 7 bits, which had two of the largest weights side by side in mind
        assert scale < np.abs(values).max() / 64


def test_weights_whose_neighbours_leave_room_keep_all_levels() -> None:
    values = np.array([1, -1, 1, 0, 0, -0.7, 0.5, 0.2], np.float32).reshape(1, 8, 1, 1)
    (weight,) = qdq.weights(layer(values))
    chosen = qdq.symmetric(weight, axis=0, target=SATURATING.target)
    assert chosen.codes.reshape(-1).tolist() == [127, -127, 127, 0, 0, -89, 64, 25]


@pytest.mark.parametrize(
    ("outputs", "is_exact"), [(4, True), (8, False)], ids=["one output", "two outputs"]
)
def test_depthwise_layers_of_one_output_a_channel_are_free(outputs: int, is_exact: bool) -> None:
    (weight,) = qdq.weights(layer(np.ones((outputs, 1, 3, 3), np.float32), group=4))
    chosen = qdq.symmetric(weight, axis=0, target=SATURATING.target)
    assert chosen.codes.max() == (127 if is_exact else 64)


@pytest.mark.parametrize("axis", [None, 0])
def test_asymmetric_weights_have_more_than_seven_bits(axis: int | None) -> None:
    values = normal(6, 8, 1, 1) + 1
    (weight,) = qdq.weights(layer(values))
    chosen = qdq.asymmetric(weight, axis=axis, target=SATURATING.target)
    seven_bits = qdq.asymmetric(weight, axis=axis, bits=7)
    errors = [np.square(values - each.dequantize()).mean() for each in (chosen, seven_bits)]
    assert errors[0] < 0.8 * errors[1]
    assert not can_overflow(chosen.codes)


@pytest.mark.parametrize("fit", ["none", "output", "tensor"])
@pytest.mark.parametrize("mean", [0, 3], ids=["of both signs", "of one sign"])
def test_rounding_that_makes_up_for_errors_keeps_to_the_rule(mean: float, fit: ScaleFit) -> None:
    """What is left of the outputs' error is between that of 8 bits and about that of 7."""
    weight = normal(8, 5, 3, 3) + mean
    target_weights = weight.reshape(1, 8, 45).transpose(0, 2, 1).astype(np.float64)
    inputs = normal(200, 45, seed=1).astype(np.float64)
    hessian = Hessian((inputs.T @ inputs)[np.newaxis] / 200)
    errors = []
    for bits, kernel_pairings in ((8, ()), (8, pairings(5, 9)), (7, ())):
        (quantizable,) = qdq.weights(layer(weight))
        target = SATURATING.target if kernel_pairings else Target()
        axis = None if fit == "tensor" else 0
        start = qdq.symmetric(quantizable, bits=bits, axis=axis, target=target)
        scale = np.broadcast_to(start.scale, (1, 1, 8)).astype(np.float64)
        grid = Grid(uniform(bits), scale, np.zeros((1, 1, 8)), kernel_pairings)
        codes, scales = round_to_grid(target_weights, grid, hessian, fit)
        if kernel_pairings:
            assert not can_overflow(codes[0].T.reshape(weight.shape).astype(np.int8))
        outputs = inputs @ (target_weights - codes * scales)[0]
        errors.append(float(np.square(outputs).mean()))
    assert errors[0] < errors[1] < 1.2 * errors[2]


# ---- networks that other tools quantized


def rtn(model: ir.Model) -> ir.Model:
    """A quantizer that knows no target: 8 bits for every weight."""
    for weight in qdq.weights(model):
        qdq.quantize_weight(model, weight, qdq.symmetric(weight, axis=weight.channel_axis))
    return model


def codes_of(model: ir.Model) -> list[Array]:
    return [weight.quantized.codes for weight in qdq.weights(model) if weight.quantized]


LOUD = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 8, 4, 4] x) => (float[1, 4, 4, 4] y) { y = Conv <kernel_shape = [1, 1]> (x, w, b) }"""


def loud() -> ir.Model:
    """Every sum of two products of 8-bit codes is beyond 16 bits: all weights and inputs are near their largest."""
    weight = np.random.default_rng(3).uniform(0.45, 0.5, (4, 8, 1, 1)).astype(np.float32)
    bias = np.array([1, 2, 3, 4], np.float32)
    return ir.from_onnx_text(
        LOUD, initializers=[ir.tensor(weight, name="w"), ir.tensor(bias, name="b")]
    )


@pytest.fixture(scope="module")
def loud_input() -> Array:
    return np.random.default_rng(4).uniform(0.9, 1, (1, 8, 4, 4)).astype(np.float32)


def test_a_network_of_any_quantizer_is_made_exact(
    loud_input: Array, caplog: pytest.LogCaptureFixture
) -> None:
    model = activations(rtn(loud()), statistics_of(loud(), [loud_input]))
    quantize_biases(model)  # as other tools do
    assert all(map(can_overflow, codes_of(model)))
    caplog.clear()
    make_sums_exact(model, SATURATING.target)
    assert caplog.messages == [
        "no pair of products can overflow in 1 of 1 layers",
        "coded anew, on coarser scales, for that: w",
    ]
    assert not any(map(can_overflow, codes_of(model)))
    (expected,) = run(loud(), [loud_input])
    (outputs,) = run(model, [loud_input])
    np.testing.assert_allclose(outputs["y"], expected["y"], atol=0.02 * expected["y"].max())


def test_a_network_that_is_exact_already_stays(
    loud_input: Array, caplog: pytest.LogCaptureFixture
) -> None:
    statistics = statistics_of(loud(), [loud_input])
    for target, lines in (
        (SATURATING.target, ["no pair of products can overflow in 1 of 1 layers"]),
        (EXACT.target, []),
    ):
        model = symmetric(loud(), statistics, target)
        before = codes_of(model)
        caplog.clear()
        make_sums_exact(model, target)
        np.testing.assert_array_equal(codes_of(model), before)
        assert caplog.messages == lines


def test_float_activations_multiply_no_codes(caplog: pytest.LogCaptureFixture) -> None:
    model = rtn(loud())
    caplog.clear()
    make_sums_exact(model, SATURATING.target)
    assert all(map(can_overflow, codes_of(model)))
    assert caplog.messages == []


# ---- the real kernels, of this machine and of processors of both kinds


PRODUCT = """<ir_version: 8, opset_import: ["" : 17]>
net (uint8[M, K] a) => (int32[M, N] y) { y = MatMulInteger (a, b) }"""


@dataclass(frozen=True, eq=False)
class Product:
    """A product of codes, some of whose sums of two leave 16 bits."""

    activations: Array
    weights: Array
    network: onnx.ModelProto

    @property
    def job(self) -> Job:
        return Job(self.network, [{"a": self.activations}])


@pytest.fixture(scope="module")
def product() -> Product:
    random = np.random.default_rng(1)
    activations = random.integers(0, 256, (7, 33)).astype(np.uint8)
    weights = random.integers(-128, 128, (33, 9)).astype(np.int8)
    assert saturating_share(activations, weights) > 0.02
    network = ir.from_onnx_text(PRODUCT, initializers=[ir.tensor(weights, name="b")])
    return Product(activations, weights, ir.to_proto(network))


def test_this_machine_sums_as_its_features_say(product: Product) -> None:
    (sums,) = session(product.network, machine_kind()).run(None, {"a": product.activations})
    saturated = machine_target().saturates and "avx2" in machine_capabilities().features
    summed = saturating_product if saturated else exact
    np.testing.assert_array_equal(sums, summed(product.activations, product.weights))


def test_a_network_for_an_exact_processor_is_summed_exactly_here(product: Product) -> None:
    (sums,) = session(product.network, EXACT).run(None, {"a": product.activations})
    np.testing.assert_array_equal(sums, exact(product.activations, product.weights))


@emulated
@pytest.mark.slow
def test_x86_without_avx2_sums_exactly(product: Product, tmp_path: Path) -> None:
    ((outputs,),) = emulated_outputs(EXACT.emulated_cpu, [product.job], tmp_path)
    np.testing.assert_array_equal(outputs["y"], exact(product.activations, product.weights))


CONVOLUTION = """<ir_version: 8, opset_import: ["" : 17]>
net (uint8[1, {channels}, 6, 7] x, int8[{shape}] w) => (uint8[1, {outputs}, 4, 5] y)
<float one = {{1.0}}, float step = {{2000.0}}, uint8 zero = {{0}}, int8 none = {{0}}, uint8 middle = {{128}}>
{{ y = QLinearConv <group = {group}> (x, one, zero, w, one, none, step, middle) }}"""
# shape of the weight, groups, whether products are added in pairs
CONVOLUTIONS = {
    "even channels": ((5, 6, 3, 3), 1, True),
    "odd channels": ((8, 3, 3, 3), 1, True),
    "groups": ((6, 3, 3, 3), 2, True),
    "depthwise, two outputs a channel": ((16, 1, 3, 3), 8, True),
    "depthwise": ((16, 1, 3, 3), 16, False),
}


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of codes, some of whose sums of two leave 16 bits."""

    x: Array
    w: Array
    group: int

    @property
    def job(self) -> Job:
        text = CONVOLUTION.format(
            channels=self.x.shape[1],
            outputs=len(self.w),
            shape=", ".join(map(str, self.w.shape)),
            group=self.group,
        )
        return Job(ir.to_proto(ir.from_onnx_text(text)), [{"x": self.x, "w": self.w}])

    def outputs(self, *, in_pairs: bool) -> Array:
        """What it gives, with products summed in pairs or exactly."""
        multiply = saturating_product if in_pairs else exact
        windows = np.lib.stride_tricks.sliding_window_view(self.x[0], (3, 3), axis=(1, 2))
        sums = []
        inputs = np.split(windows, self.group)  # [C, H, W, kernel]
        for part, weights in zip(inputs, np.split(self.w, self.group), strict=True):
            rows = np.ascontiguousarray(part.transpose(1, 2, 3, 4, 0)).reshape(20, -1)
            sums.append(multiply(rows, in_order_of_kernels(weights, by_position=False)))
        steps = np.rint(np.concatenate(sums, axis=1).T.astype(np.float32) / np.float32(2000))
        return np.clip(steps + 128, 0, 255).reshape(1, len(self.w), 4, 5)


def convolution(shape: tuple[int, int, int, int], group: int) -> Convolution:
    random = np.random.default_rng(2)
    x = random.integers(150, 256, (1, shape[1] * group, 6, 7)).astype(np.uint8)
    return Convolution(x, random.choice([-127, 127, 90], shape).astype(np.int8), group)


LOUD_NETWORKS: dict[str, tuple[Target, dict[str, str], bool]] = {
    "for an exact processor": (Target(), {}, False),
    "for a saturating processor": (SATURATING.target, {}, True),
    "with the runtime's own way out": (Target(), dict([EXACT_ENTRY]), True),
}


def whole_networks(folder: Path) -> dict[str, onnx.ModelProto]:
    """Builds of conv_net for a saturating processor, by what quantized it."""
    statistics = statistics_of(conv_net(), images(16))
    target = SATURATING.target
    models = {
        "per tensor": symmetric(conv_net(), statistics, target, granularity="tensor"),
        "per channel": symmetric(conv_net(), statistics, target),
        "asymmetric": asymmetric(conv_net(), statistics, target),
        "by another quantizer": activations(rtn(conv_net()), statistics),
    }
    builds = {}
    for name, model in models.items():
        make_sums_exact(model, target)
        build = compiled(model, Platform(), folder / name)
        builds[name] = onnx.load(build.folder / "model.onnx")
    return builds


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    return whole_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def on_avx2(
    product: Product,
    loud_input: Array,
    networks: dict[str, onnx.ModelProto],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[Array]]:
    """What the kernels give on an x86 with AVX2 and without VNNI, by what is computed."""
    folder = tmp_path_factory.mktemp("on_avx2")
    jobs = {"product": product.job}
    for name, (shape, group, _) in CONVOLUTIONS.items():
        jobs[name] = convolution(shape, group).job
    statistics = statistics_of(loud(), [loud_input])
    for name, (target, entries, _) in LOUD_NETWORKS.items():
        build = compiled(symmetric(loud(), statistics, target), Platform(), folder / name)
        jobs[name] = Job(onnx.load(build.folder / "model.onnx"), [{"x": loud_input}], entries)
    for name, network in networks.items():
        jobs[name] = Job(network, [{"image": image} for image in images(6)])
    outputs = emulated_outputs(SATURATING.emulated_cpu, list(jobs.values()), folder)
    return {
        name: [next(iter(one.values())) for one in feeds]
        for name, feeds in zip(jobs, outputs, strict=True)
    }


@emulated
@pytest.mark.slow
def test_the_model_of_a_product_is_what_the_kernels_give(
    product: Product,
    on_avx2: dict[str, list[Array]],
) -> None:
    expected = saturating_product(product.activations, product.weights)
    np.testing.assert_array_equal(on_avx2["product"][0], expected)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_sum_over_input_channels_first_and_some_exactly(
    name: str, on_avx2: dict[str, list[Array]]
) -> None:
    shape, group, in_pairs = CONVOLUTIONS[name]
    expected = convolution(shape, group)
    np.testing.assert_array_equal(on_avx2[name][0], expected.outputs(in_pairs=in_pairs))
    assert not np.array_equal(expected.outputs(in_pairs=True), expected.outputs(in_pairs=False))


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["per tensor", "per channel", "asymmetric", "by another quantizer"]
)
def test_both_kinds_of_processors_compute_the_same_network(
    name: str, networks: dict[str, onnx.ModelProto], on_avx2: dict[str, list[Array]]
) -> None:
    exactly = session(networks[name], EXACT)
    for image, outputs in zip(images(6), on_avx2[name], strict=True):
        np.testing.assert_array_equal(outputs, exactly.run(None, {"image": image})[0])


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("name", LOUD_NETWORKS)
def test_what_the_target_asks_for_is_what_such_a_cpu_needs(
    name: str, loud_input: Array, on_avx2: dict[str, list[Array]]
) -> None:
    _, _, is_right = LOUD_NETWORKS[name]
    (outputs,) = run(loud(), [loud_input])
    distance = np.abs(on_avx2[name][0] - outputs["y"]).max()
    assert bool(distance < 0.05 * outputs["y"].max()) == is_right

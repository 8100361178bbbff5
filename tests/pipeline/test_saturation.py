"""Sums of u8 x s8 products without VNNI: by hand, by property, and by the real kernels on an emulated CPU."""

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

from models import run, statistics_of
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
from qpipe.diagnose.saturating_layers import saturating_layers
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.saturation import saturating_product, saturating_share
from qpipe.samples.store import Samples
from qpipe.types import Array, Platform, Preprocessing, Sample, Target
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.quantize.symmetric import symmetric


def array(*rows: list[int], dtype: type = np.uint8) -> Array:
    return np.array(rows, dtype)


def exact(activations: Array, weights: Array) -> Array:
    return activations.astype(np.int64) @ weights.astype(np.int64)


def drawn(data: st.DataObject, low: int, high: int) -> tuple[Array, Array]:
    m, k, n = (data.draw(st.integers(1, 5)) for _ in range(3))
    activations = data.draw(hnp.arrays(np.uint8, (m, k)))
    return activations, data.draw(hnp.arrays(np.int8, (k, n), elements=st.integers(low, high)))


def test_two_products_are_added_in_sixteen_bits_and_pairs_in_more() -> None:
    activations = array([255, 255, 255, 255, 10])
    weights = array([127], [127], [-128], [-128], [-3], dtype=np.int8)
    # 64770 stays at 32767, -65280 at -32768, the odd one is alone
    assert saturating_product(activations, weights).tolist() == [[32767 - 32768 - 30]]
    assert saturating_share(activations, weights) == pytest.approx(2 / 3)


def test_a_pair_at_the_limit_is_still_exact() -> None:
    activations = array([255, 2])
    weights = array([127], [127], dtype=np.int8)
    assert saturating_product(activations, weights).tolist() == [[257 * 127]]
    assert saturating_share(activations, weights) == 0


def test_weights_of_eight_bits_at_their_extremes_saturate() -> None:
    activations = np.full((3, 6), 255, np.uint8)
    for extreme in (-128, -127, 127):
        weights = np.full((6, 2), extreme, np.int8)
        assert saturating_share(activations, weights) == 1
        assert (
            np.abs(saturating_product(activations, weights)) < np.abs(exact(activations, weights))
        ).all()


@settings(deadline=None)
@given(data=st.data())
def test_weights_of_seven_bits_never_saturate(data: st.DataObject) -> None:
    activations, weights = drawn(data, -64, 63)
    np.testing.assert_array_equal(
        saturating_product(activations, weights), exact(activations, weights)
    )
    assert saturating_share(activations, weights) == 0


@settings(deadline=None)
@given(data=st.data())
def test_nothing_saturates_exactly_where_the_share_is_zero(data: st.DataObject) -> None:
    activations, weights = drawn(data, -128, 127)
    pairs = [
        exact(activations[:, k : k + 2], weights[k : k + 2]) for k in range(0, len(weights), 2)
    ]
    product = sum(np.clip(pair, -(2**15), 2**15 - 1) for pair in pairs)
    np.testing.assert_array_equal(saturating_product(activations, weights), product)
    assert (saturating_share(activations, weights) == 0) == all(
        np.abs(p + 0.5).max() < 2**15 for p in pairs
    )


def test_many_rows_are_taken_in_parts_and_give_the_same() -> None:
    random = np.random.default_rng(0)
    activations = random.integers(0, 256, (3000, 64)).astype(np.uint8)
    weights = random.integers(-128, 128, (64, 48)).astype(np.int8)
    parts = [saturating_product(activations[i : i + 1], weights) for i in (0, 1500, 2999)]
    np.testing.assert_array_equal(
        saturating_product(activations, weights)[[0, 1500, 2999]], np.concatenate(parts)
    )


def test_other_codes_than_u8_and_s8_are_refused() -> None:
    with pytest.raises(
        StageError, match=r"^saturation: codes are int8 and int8; they must be uint8 and int8$"
    ):
        saturating_share(np.zeros((1, 2), np.int8), np.zeros((2, 1), np.int8))


PADDED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 4, 4, 4] x) => (float[1, 6, 4, 4] y)
{ y = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 2> (x, w) }"""


def test_a_layer_s_share_is_counted_over_its_windows_in_the_order_of_the_kernels(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(5)
    weight = random.normal(size=(6, 2, 3, 3)).astype(np.float32)
    given = random.uniform(-0.5, 1, (3, 1, 4, 4, 4)).astype(np.float32)
    network = ir.from_onnx_text(PADDED, initializers=[ir.tensor(weight, name="w")])
    model = symmetric(network, statistics_of(network, list(given)), bits=8)
    stored = (Sample(str(index), {"x": x[0]}) for index, x in enumerate(given))
    samples = Samples.write(tmp_path, stored, {"x": Preprocessing()})

    quantizer = next(
        node
        for node in model.graph
        if node.op_type == "QuantizeLinear" and node.inputs[0].name == "x"
    )
    scale, zero_point = (value.const_value.numpy() for value in quantizer.inputs[1:])
    codes = np.clip(np.rint(given[:, 0] / scale) + zero_point, 0, 255).astype(np.int64)
    padded = np.pad(codes, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=int(zero_point))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (3, 3), axis=(2, 3)
    )  # [N, C, H, W, kernel]
    (own,) = qdq.weights(model)
    beyond = []
    for group in range(2):
        seen = windows[:, 2 * group : 2 * group + 2].transpose(0, 2, 3, 4, 5, 1).reshape(-1, 9, 2)
        multiplied = (
            own.quantized.codes[3 * group : 3 * group + 3].astype(np.int64).transpose(2, 3, 1, 0)
        )
        sums = np.einsum("npc,pco->npo", seen, multiplied.reshape(9, 2, 3))
        beyond.append((sums < -(2**15)) | (sums >= 2**15))
    assert 0.01 < np.mean(beyond) < 0.99
    ((_, share),) = saturating_layers(model, samples, range(3)).items()
    assert share == pytest.approx(np.mean(beyond))


def test_layers_of_seven_bits_have_no_share(tmp_path: Path) -> None:
    x = np.full((1, 8, 4, 4), 0.9, np.float32)
    samples = Samples.write(tmp_path, [Sample("one", {"x": x[0]})], {"x": Preprocessing()})
    for bits, share in ((8, 1.0), (7, 0.0)):
        model = symmetric(loud(), statistics_of(loud(), [x]), bits=bits)
        assert sum(saturating_layers(model, samples, [0]).values()) == share


LOUD = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 8, 4, 4] x) => (float[1, 4, 4, 4] y) { y = Conv <kernel_shape = [1, 1]> (x, w) }"""


def loud() -> ir.Model:
    """Every sum of two products of 8-bit codes is beyond 16 bits: all weights and inputs are near their largest."""
    weight = np.random.default_rng(3).uniform(0.45, 0.5, (4, 8, 1, 1)).astype(np.float32)
    return ir.from_onnx_text(LOUD, initializers=[ir.tensor(weight, name="w")])


def test_the_share_says_so_beforehand() -> None:
    x = np.full((1, 8), 250, np.uint8)
    for target, share in ((Target(), 1.0), (Target(saturates=True), 0.0)):
        (weight,) = qdq.weights(loud())
        quantized = qdq.symmetric(weight, axis=0, target=target)
        assert saturating_share(x, quantized.codes.reshape(4, 8).T) == share


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
net (uint8[1, 6, 6, 7] x, int8[5, 6, 3, 3] w) => (uint8[1, 5, 4, 5] y)
<float one = {1.0}, float step = {2000.0}, uint8 zero = {0}, int8 none = {0}, uint8 middle = {128}>
{ y = QLinearConv (x, one, zero, w, one, none, step, middle) }"""
TARGETS: dict[str, tuple[Target, dict[str, str], bool]] = {
    "8 bits": (Target(), {}, False),
    "7 bits": (Target(saturates=True), {}, True),
    "8 bits with the runtime's own way out": (Target(), dict([EXACT_ENTRY]), True),
}


@pytest.fixture(scope="module")
def convolved() -> dict[str, Array]:
    random = np.random.default_rng(2)
    x = random.integers(150, 256, (1, 6, 6, 7)).astype(np.uint8)
    return {"x": x, "w": random.choice([-127, 127, 90], (5, 6, 3, 3)).astype(np.int8)}


@pytest.fixture(scope="module")
def loud_input() -> Array:
    return np.random.default_rng(4).uniform(0.9, 1, (1, 8, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def on_avx2(
    product: Product,
    convolved: dict[str, Array],
    loud_input: Array,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Array]:
    """What the kernels give on an x86 with AVX2 and without VNNI, by what is computed."""
    folder = tmp_path_factory.mktemp("on_avx2")
    jobs = {
        "product": product.job,
        "convolution": Job(ir.to_proto(ir.from_onnx_text(CONVOLUTION)), [convolved]),
    }
    statistics = statistics_of(loud(), [loud_input])
    for name, (target, entries, _) in TARGETS.items():
        build = compiled(symmetric(loud(), statistics, target), Platform(), folder / name)
        jobs[name] = Job(onnx.load(build.folder / "model.onnx"), [{"x": loud_input}], entries)
    outputs = emulated_outputs(SATURATING.emulated_cpu, list(jobs.values()), folder)
    return {name: one["y"] for name, (one,) in zip(jobs, outputs, strict=True)}


@emulated
@pytest.mark.slow
def test_the_model_of_a_product_is_what_the_kernels_give(
    product: Product,
    on_avx2: dict[str, Array],
) -> None:
    expected = saturating_product(product.activations, product.weights)
    np.testing.assert_array_equal(on_avx2["product"], expected)


@emulated
@pytest.mark.slow
def test_a_convolution_sums_over_input_channels_first(
    convolved: dict[str, Array],
    on_avx2: dict[str, Array],
) -> None:
    x, w = convolved["x"], convolved["w"]
    windows = np.lib.stride_tricks.sliding_window_view(
        x[0], (3, 3), axis=(1, 2)
    )  # [C, H, W, kernel]
    rows = np.ascontiguousarray(windows.transpose(1, 2, 3, 4, 0)).reshape(20, 54)
    sums = saturating_product(rows, w.transpose(2, 3, 1, 0).reshape(54, 5))
    expected = np.clip(np.rint(sums.astype(np.float32) / np.float32(2000)) + 128, 0, 255)
    np.testing.assert_array_equal(on_avx2["convolution"][0].reshape(5, 20), expected.T)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_what_the_target_asks_for_is_what_such_a_cpu_needs(
    name: str, loud_input: Array, on_avx2: dict[str, Array]
) -> None:
    _, _, is_right = TARGETS[name]
    (outputs,) = run(loud(), [loud_input])
    distance = np.abs(on_avx2[name] - outputs["y"]).max()
    assert bool(distance < 0.05 * outputs["y"].max()) == is_right

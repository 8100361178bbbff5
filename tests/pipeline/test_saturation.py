"""Sums of u8 x s8 products without VNNI: by hand, by property, and by the real kernels on an emulated CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import statistics_of
from qpipe.diagnose.sums import saturating_layers
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.saturation import saturating_product, saturating_share
from qpipe.samples import Samples
from qpipe.types import Array, Platform, Preprocessing, Sample, Target
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.quantize.symmetric import symmetric

QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
emulated = pytest.mark.skipif(
    QEMU is None or not sys.platform.startswith("linux"), reason="no qemu-user is installed: apt-get install qemu-user"
)
OLD_CPU = "Haswell-noTSX"  # AVX2, no VNNI
RUN = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
for entry in sys.argv[4:]:
    options.add_session_config_entry(*entry.split("="))
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
with numpy.load(sys.argv[2]) as feeds:
    numpy.save(sys.argv[3], session.run(None, dict(feeds))[0])
"""


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
        assert (np.abs(saturating_product(activations, weights)) < np.abs(exact(activations, weights))).all()


@settings(deadline=None)
@given(data=st.data())
def test_weights_of_seven_bits_never_saturate(data: st.DataObject) -> None:
    activations, weights = drawn(data, -64, 63)
    np.testing.assert_array_equal(saturating_product(activations, weights), exact(activations, weights))
    assert saturating_share(activations, weights) == 0


@settings(deadline=None)
@given(data=st.data())
def test_nothing_saturates_exactly_where_the_share_is_zero(data: st.DataObject) -> None:
    activations, weights = drawn(data, -128, 127)
    pairs = [exact(activations[:, k : k + 2], weights[k : k + 2]) for k in range(0, len(weights), 2)]
    product = sum(np.clip(pair, -(2**15), 2**15 - 1) for pair in pairs)
    np.testing.assert_array_equal(saturating_product(activations, weights), product)
    assert (saturating_share(activations, weights) == 0) == all(np.abs(p + 0.5).max() < 2**15 for p in pairs)


def test_many_rows_are_taken_in_parts_and_give_the_same() -> None:
    random = np.random.default_rng(0)
    activations = random.integers(0, 256, (3000, 64)).astype(np.uint8)
    weights = random.integers(-128, 128, (64, 48)).astype(np.int8)
    parts = [saturating_product(activations[i : i + 1], weights) for i in (0, 1500, 2999)]
    np.testing.assert_array_equal(saturating_product(activations, weights)[[0, 1500, 2999]], np.concatenate(parts))


def test_other_codes_than_u8_and_s8_are_refused() -> None:
    with pytest.raises(StageError, match=r"^saturation: codes of int8 and int8; give uint8 and int8$"):
        saturating_share(np.zeros((1, 2), np.int8), np.zeros((2, 1), np.int8))


PADDED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 4, 4, 4] x) => (float[1, 6, 4, 4] y)
{ y = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 2> (x, w) }"""


def test_a_layer_s_share_is_counted_over_its_windows_in_the_order_of_the_kernels(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    weight = random.normal(size=(6, 2, 3, 3)).astype(np.float32)
    given = random.uniform(-0.5, 1, (3, 1, 4, 4, 4)).astype(np.float32)
    network = ir.from_onnx_text(PADDED, initializers=[ir.tensor(weight, name="w")])
    model = symmetric(network, statistics_of(network, list(given)), bits=8)
    stored = (Sample(str(index), {"x": x[0]}) for index, x in enumerate(given))
    samples = Samples.write(tmp_path, stored, {"x": Preprocessing()})

    quantizer = next(node for node in model.graph if node.op_type == "QuantizeLinear" and node.inputs[0].name == "x")
    scale, zero_point = (value.const_value.numpy() for value in quantizer.inputs[1:])
    codes = np.clip(np.rint(given[:, 0] / scale) + zero_point, 0, 255).astype(np.int64)
    padded = np.pad(codes, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=int(zero_point))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # [N, C, H, W, kernel]
    (own,) = qdq.weights(model)
    beyond = []
    for group in range(2):
        seen = windows[:, 2 * group : 2 * group + 2].transpose(0, 2, 3, 4, 5, 1).reshape(-1, 9, 2)
        multiplied = own.quantized.codes[3 * group : 3 * group + 3].astype(np.int64).transpose(2, 3, 1, 0)
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


# ---- the real kernels, on a CPU that has no VNNI


def on_old_cpu(network: ir.Model | Path, feeds: dict[str, Array], folder: Path, *entries: str) -> Array:
    """The first output of a network on an x86 with AVX2 alone, emulated."""
    path = network if isinstance(network, Path) else folder / "network.onnx"
    if isinstance(network, ir.Model):
        ir.save(network, path)
    np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]
    python = [str(QEMU), "-cpu", OLD_CPU, sys.executable, "-c", RUN]
    done = subprocess.run([*python, path, folder / "feeds.npz", folder / "out.npy", *entries], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    given: Array = np.load(folder / "out.npy")
    return given


@emulated
@pytest.mark.slow
def test_the_model_of_a_product_is_what_the_kernels_give(tmp_path: Path) -> None:
    network = ir.from_onnx_text("""<ir_version: 8, opset_import: ["" : 17]>
    net (uint8[M, K] a, int8[K, N] b) => (int32[M, N] y) { y = MatMulInteger (a, b) }""")
    random = np.random.default_rng(1)
    a, b = random.integers(0, 256, (7, 33)).astype(np.uint8), random.integers(-128, 128, (33, 9)).astype(np.int8)
    assert saturating_share(a, b) > 0.02
    np.testing.assert_array_equal(on_old_cpu(network, {"a": a, "b": b}, tmp_path), saturating_product(a, b))


@emulated
@pytest.mark.slow
def test_a_convolution_sums_over_input_channels_first(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (uint8[1, 6, 6, 7] x, int8[5, 6, 3, 3] w) => (uint8[1, 5, 4, 5] y)
    <float one = {1.0}, float step = {2000.0}, uint8 zero = {0}, int8 none = {0}, uint8 middle = {128}>
    { y = QLinearConv (x, one, zero, w, one, none, step, middle) }"""
    random = np.random.default_rng(2)
    x = random.integers(150, 256, (1, 6, 6, 7)).astype(np.uint8)
    w = random.choice([-127, 127, 90], (5, 6, 3, 3)).astype(np.int8)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(1, 2))  # [C, H, W, kernel]
    rows = np.ascontiguousarray(windows.transpose(1, 2, 3, 4, 0)).reshape(20, 54)
    sums = saturating_product(rows, w.transpose(2, 3, 1, 0).reshape(54, 5))
    wanted = np.clip(np.rint(sums.astype(np.float32) / np.float32(2000)) + 128, 0, 255)
    given = on_old_cpu(ir.from_onnx_text(text), {"x": x, "w": w}, tmp_path)
    np.testing.assert_array_equal(given[0].reshape(5, 20), wanted.T)


LOUD = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 8, 4, 4] x) => (float[1, 4, 4, 4] y) { y = Conv <kernel_shape = [1, 1]> (x, w) }"""


def loud() -> ir.Model:
    """Every sum of two products of 8-bit codes is beyond 16 bits: all weights and inputs are near their largest."""
    weight = np.random.default_rng(3).uniform(0.45, 0.5, (4, 8, 1, 1)).astype(np.float32)
    return ir.from_onnx_text(LOUD, initializers=[ir.tensor(weight, name="w")])


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "entries", "is_right"),
    [
        (Target(), [], False),
        (Target(saturates=True), [], True),  # 7-bit weights
        (Target(), ["session.x64quantprecision=1"], True),  # the runtime's own way out
    ],
)
def test_what_the_target_asks_for_is_what_such_a_cpu_needs(
    target: Target, entries: list[str], is_right: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(4).uniform(0.9, 1, (1, 8, 4, 4)).astype(np.float32)
    build = compiled(symmetric(loud(), statistics_of(loud(), [x]), target), Platform(), tmp_path)
    here = onnxruntime.InferenceSession(ir.to_proto(loud()).SerializeToString()).run(None, {"x": x})[0]
    given = on_old_cpu(build.folder / "model.onnx", {"x": x}, tmp_path, *entries)
    assert bool(np.abs(given - here).max() < 0.05 * here.max()) == is_right


def test_the_share_says_so_beforehand() -> None:
    x = np.full((1, 8), 250, np.uint8)
    for target, share in ((Target(), 1.0), (Target(saturates=True), 0.0)):
        (weight,) = qdq.weights(loud())
        quantized = qdq.symmetric(weight, axis=0, target=target)
        assert saturating_share(x, quantized.codes.reshape(4, 8).T) == share

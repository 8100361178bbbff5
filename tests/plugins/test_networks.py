"""Strangers' networks, through the whole chain to stock ONNX Runtime: what can be integers is, the rest stays float and
is named, and the outputs are what they were, but for the rounding."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from networks import NETWORKS, SHAPES, feeds
from processors import (
    KINDS,
    Arithmetic,
    Job,
    both_kinds,
    emulated,
    emulated_outputs,
    machine_kind,
    other_kind,
    session,
)
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.coverage import coverage
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.types import Platform, Preprocessing, Sample, Target
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric
from qpipe_plugins.transform.equalize import equalize

# its tests share fixtures that are slow to make
pytestmark = pytest.mark.xdist_group("networks")

# what ONNX Runtime calls its integer kernels; the layers of a float network are none of them
INTEGER = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "QLinearAdd", "QLinearMul", "QLinearConcat",
           "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid"}  # fmt: skip
LAYERS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
# Rounding a layer's weights (8 bits, a channel's largest value 3 sigma) leaves 20 log10(127 / 3 * sqrt(12)) = 43 dB,
# rounding its activations (a range of 7 sigma) 20 log10(255 / 7 * sqrt(12)) = 42 dB, and the noise of L layers adds up:
# less 10 log10(2 L), which is 13 dB at ten. Per-tensor weights cost about 3 dB more, and at four bits the squared error
# of sums of two powers of two is that of some five even bits: 18 dB less.
# Weights of 7 bits leave 20 log10(63 / 3 * sqrt(12)) = 37 dB, and together with activations 3.5 dB
# less than those of 8 bits: these bounds have room for that.
CHANNEL, TENSOR, LOGARITHMIC = 26, 23, 8
# what is left in float (FLOAT), and the layers that do not run on integers (LEFT), by network
FLOAT = {
    "mobilenet_v1": {"Softmax"},
    "mobilenet_v2": set(),
    "mobilenet_v3": set(),
    "resnet": {"Add", "BatchNormalization", "Relu", "GlobalAveragePool"},
    "yolo": {"Concat", "Sigmoid"},
    "segmentation": {"SpaceToDepth", "PRelu", "ConvTranspose", "Concat", "LeakyRelu"},
    "channels_last": set(),
    "pixels": {"Cast", "Sub", "Div"},
    "open_dimensions": set(),
    "volumes": set(),
    "keywords": {"Softmax"},
    "waveform": set(),
    "transformer": {"Add", "LayerNormalization", "Div", "Softmax", "Gelu", "ReduceMean"},
    "text": {"Cast", "Sub", "Mul", "Add", "LayerNormalization", "Div", "Softmax", "Erf", "Tanh"},
    "recurrent": {"LSTM", "GRU"},
    "products": {"MatMul", "Add", "Gemm"},
    "twins": {"Mul"},
    "branches": {"If", "Loop", "Conv", "Relu", "GlobalAveragePool", "Gemm"},
}
Outputs = dict[str, np.ndarray]
LEFT = {
    "products": 3,
    "branches": 2,
}  # weights on the left and a computed one; behind the Loop, whose shape is open


def silent(done: float, total: float | None = None, unit: str = "") -> None:
    pass


def written(folder: Path, given: list[dict[str, np.ndarray]]) -> Samples:
    samples = (
        Sample(str(i), {name: array[0] for name, array in one.items()})
        for i, one in enumerate(given)
    )
    how = {
        name: Preprocessing(dtype=array.dtype.name, layout="none")
        for name, array in given[0].items()
    }
    return Samples.write(folder, samples, how)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    @cache
    def prepare(name: str) -> tuple[Path, Samples, Statistics]:
        folder = tmp_path_factory.mktemp(name)
        onnx.save(NETWORKS[name](), folder / "theirs.onnx")
        ir.save(
            onnx_file(path=folder / "theirs.onnx", shapes=SHAPES.get(name)), folder / "float.onnx"
        )
        # vectors have few values each: their extremes need more samples to be found
        samples = written(
            folder / "samples", feeds(name, 128 if name == "products" else 16, seed=1)
        )
        return folder, samples, histogram(ir.load(folder / "float.onnx"), samples, silent)

    return prepare


def outputs(
    path: Path,
    name: str,
    kind: Arithmetic | None = None,
    *,
    optimize: bool = True,
) -> Outputs:
    """Those of a network for that kind of processor, or by this machine's kernels."""
    running = session(onnx.load(path), kind or machine_kind(), optimize=optimize)
    names = [value.name for value in running.get_outputs()]
    return stacked([dict(zip(names, running.run(None, one), strict=True)) for one in fed(name)])


@cache
def fed(name: str) -> list[dict[str, np.ndarray]]:
    return feeds(name, 8, seed=2)


@cache
def exact_outputs(folder: Path, name: str) -> Outputs:
    return outputs(folder / "float.onnx", name)


def stacked(runs: list[Outputs]) -> Outputs:
    return {name: np.stack([one[name] for one in runs]) for name in runs[0]}


def kernels(path: Path, folder: Path) -> Counter[str]:
    session(onnx.load(path), machine_kind(), optimized_path=folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def built(model: ir.Model, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    ir.save(model, folder / "quantized.onnx")  # between steps it lies in a file
    return (
        compiled(ir.load(folder / "quantized.onnx"), Platform(), folder / "build").folder
        / "model.onnx"
    )


def noise(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    assert {name: array.shape for name, array in before.items()} == {
        name: a.shape for name, a in after.items()
    }
    return min(sqnr_db(array, after[name]) for name, array in before.items())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "twins"])
def test_the_network_is_the_same_function_after_import(name, prepared):
    folder, *_ = prepared(name)
    theirs = outputs(folder / "theirs.onnx", name)
    for label, array in outputs(folder / "float.onnx", name).items():
        np.testing.assert_allclose(
            array, theirs[label], rtol=1e-4, atol=1e-5 * np.abs(theirs[label]).max()
        )


def per_tensor(model: ir.Model, statistics: Statistics, target: Target) -> ir.Model:
    return symmetric(model, statistics, target, granularity="tensor")


def additive(model: ir.Model, statistics: Statistics, target: Target) -> ir.Model:
    return logarithmic(model, statistics, target, levels="apot")


SCHEMES = {
    "channel": (CHANNEL, symmetric),
    "tensor": (TENSOR, per_tensor),
    "asymmetric": (TENSOR, asymmetric),
    "logarithmic": (LOGARITHMIC, additive),
}


def quantized(path: Path, statistics: Statistics, scheme: str, kind: Arithmetic) -> ir.Model:
    """The network of a file for a kind of processor; but per channel with its biases corrected."""
    model = SCHEMES[scheme][1](ir.load(path), statistics, kind.target)
    return model if scheme == "channel" else correct_bias(model, ir.load(path), statistics)


def check(least: float, exact: Outputs, defined: Outputs, integer: Outputs) -> None:
    """Fail where integer kernels leave less than the bits allow, or other than is defined.

    Roundings that fall on the other side are few: together they have less than half the amplitude
    of the noise of quantization, which has one in every code.
    """
    assert noise(exact, integer) > least
    assert noise(defined, integer) > noise(exact, defined) + 6


@both_kinds
@pytest.mark.parametrize("name", NETWORKS)
def test_per_channel_its_layers_run_on_integers_and_the_outputs_stay(
    name, kind, prepared, tmp_path
):
    folder, _, statistics = prepared(name)
    path = built(quantized(folder / "float.onnx", statistics, "channel", kind), tmp_path)
    defined, integer = outputs(path, name, optimize=False), outputs(path, name, kind)
    check(CHANNEL, exact_outputs(folder, name), defined, integer)
    found = kernels(path, tmp_path)
    assert sum(found[kernel] for kernel in LAYERS) <= LEFT.get(name, 0) + (name == "products")
    assert sum(found[kernel] for kernel in INTEGER) > 0


@both_kinds
@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"channel"}))
@pytest.mark.parametrize("name", NETWORKS)
def test_other_schemes_leave_what_their_bits_allow(name, scheme, kind, prepared, tmp_path):
    folder, _, statistics = prepared(name)
    path = built(quantized(folder / "float.onnx", statistics, scheme, kind), tmp_path)
    defined, integer = outputs(path, name, optimize=False), outputs(path, name, kind)
    check(SCHEMES[scheme][0], exact_outputs(folder, name), defined, integer)


@pytest.mark.parametrize("name", NETWORKS)
def test_equalized_it_is_the_same_function_and_quantizes_per_tensor(name, prepared, tmp_path):
    folder, samples, _ = prepared(name)
    ir.save(equalize(ir.load(folder / "float.onnx"), samples, silent), tmp_path / "equal.onnx")
    exact = exact_outputs(folder, name)
    assert noise(exact, outputs(tmp_path / "equal.onnx", name)) > 40
    statistics = histogram(ir.load(tmp_path / "equal.onnx"), samples, silent)
    for kind in KINDS:
        model = per_tensor(ir.load(tmp_path / "equal.onnx"), statistics, kind.target)
        path = built(model, tmp_path / kind.name)
        check(TENSOR, exact, outputs(path, name, optimize=False), outputs(path, name, kind))


@emulated
@pytest.mark.slow
@other_kind
@pytest.mark.parametrize(
    "of_each", ["one scheme", pytest.param("all schemes", marks=pytest.mark.lab)]
)
def test_emulated_kernels_of_the_other_kind_of_processor_give_the_same(
    of_each, kind, prepared, tmp_path
):
    pairs = zip(NETWORKS, itertools.cycle(SCHEMES), strict=False)
    if of_each == "all schemes":
        pairs = itertools.product(NETWORKS, SCHEMES)
    paths = {}
    for name, scheme in pairs:
        folder, _, statistics = prepared(name)
        model = quantized(folder / "float.onnx", statistics, scheme, kind)
        paths[name, scheme] = built(model, tmp_path / f"{name} {scheme}")
    jobs = [Job(onnx.load(path), fed(name)) for (name, _), path in paths.items()]
    runs = emulated_outputs(kind.emulated_cpu, jobs, tmp_path)
    for ((name, scheme), path), of_feeds in zip(paths.items(), runs, strict=True):
        folder, *_ = prepared(name)
        defined = outputs(path, name, optimize=False)
        check(SCHEMES[scheme][0], exact_outputs(folder, name), defined, stacked(of_feeds))


@pytest.mark.parametrize("name", NETWORKS)
def test_coverage_foresees_what_stays_float(name, prepared):
    folder, _, statistics = prepared(name)
    foreseen = coverage(ir.load(folder / "float.onnx"))
    if name in FLOAT:
        assert {left.operator for left in foreseen.float_nodes} == FLOAT[name]
    after = coverage(symmetric(ir.load(folder / "float.onnx"), statistics))
    assert {left.node for left in after.float_nodes} == {left.node for left in foreseen.float_nodes}
    assert after.integer == foreseen.integer


@pytest.mark.parametrize(("name", "words"), [
    ("recurrent", ("LSTM 'lstm_3' (no integer kernel)", "GRU 'gru_5' (no integer kernel)")),
    ("segmentation", ("PRelu", "(no integer kernel)", "(most of what it reads is float)")),
    ("products", ("its weight is on the left", "Add 'add_16' (one side is constant)")),
    ("branches", ("Gemm 'gemm_11' (no statistics of 't10')", "If 'if_3' (no integer kernel)")),
])  # fmt: skip
def test_what_stays_float_is_logged_in_one_line_with_its_reason(name, words, prepared, caplog):
    folder, _, statistics = prepared(name)
    symmetric(ir.load(folder / "float.onnx"), statistics)
    (told,) = [record.message for record in caplog.records if "stays float" in record.message]
    assert all(word in told for word in words)
    assert "\n" not in told


@pytest.mark.parametrize("form", ["divided", "multiplied"])
def test_hard_swish_by_hand_becomes_the_operator(form, prepared):
    folder, *_ = prepared(f"mobilenet_v3_{form}")
    whole, *_ = prepared("mobilenet_v3")
    made, expected = (
        Counter(node.op_type for node in ir.load(f / "float.onnx").graph) for f in (folder, whole)
    )
    assert made == expected


def test_biases_behind_matmul_go_into_gemm_and_a_tensor_is_reshaped_once(prepared):
    folder, *_ = prepared("transformer")
    graph = ir.load(folder / "float.onnx").graph
    gemms = [node for node in graph if node.op_type == "Gemm"]
    assert len(gemms) == 2 * 6 + 1
    assert all(len(node.inputs) == 3 for node in gemms)
    inputs = Counter(node.inputs[0] for node in gemms)
    assert sorted(inputs.values()) == [1] * 7 + [3, 3]  # query, key and value read the same


def test_a_mask_of_infinities_leaves_its_tensors_float_and_the_rest_not(tmp_path, caplog):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 8] x, float[1, 8] m) => (float[1, 8] y) <float zero = {0.0}> {
      keep = Greater (m, zero) a = Gemm <transB = 1> (x, w) s = Where (keep, a, low) p = Softmax (s)
      y = Gemm <transB = 1> (p, w) }"""
    random = np.random.default_rng(3)
    arrays = {"w": random.normal(size=(8, 8)).astype(np.float32), "low": np.float32(-np.inf)}
    model = ir.from_onnx_text(
        text, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()]
    )
    ir.save(model, tmp_path / "net.onnx")
    given = [
        {name: random.normal(size=(1, 8)).astype(np.float32) + (name == "m") for name in "xm"}
        for _ in range(64)
    ]
    model = onnx_file(path=tmp_path / "net.onnx")
    statistics = histogram(model, written(tmp_path / "samples", given), silent)
    assert "s" not in statistics
    assert "no statistics of 's': it holds infinity" in caplog.text
    assert coverage(symmetric(model, statistics)).integer == {"Gemm": 2}


def test_a_tensor_that_would_use_few_levels_stays_float(tmp_path, caplog):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 4, 8, 8] x, float[1, 4, 8, 8] m) => (float[1, 4, 8, 8] y) {
      a = Conv (x, w) b = Conv (m, w) s = Add (a, b) y = Conv (s, w) }"""
    weight = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    model = ir.from_onnx_text(text, initializers=[ir.tensor(weight, name="w")])
    ir.save(model, tmp_path / "net.onnx")
    random = np.random.default_rng(3)
    shape = (1, 4, 8, 8)
    given = [
        {
            "x": random.normal(size=shape).astype(np.float32),
            "m": np.float32(-1e4) * (random.random(shape) < 0.5),
        }
        for _ in range(4)
    ]
    model = onnx_file(path=tmp_path / "net.onnx")
    statistics = histogram(model, written(tmp_path / "samples", given), silent)
    quantized = coverage(symmetric(model, statistics))
    assert quantized.integer == {"Conv": 2}
    assert "'s' from -1e+04 to" in caplog.text

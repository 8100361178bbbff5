"""What is trained is what runs: the network in training gives what ONNX Runtime gives for the network it becomes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from networks import NETWORKS, SHAPES, feeds
from processors import EXACT, session
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.biases import quantize_biases
from qpipe.quant.code_bounds import bounded_codes
from qpipe.quant.codebook import Codebook
from qpipe.quant.inference import infer, open_session
from qpipe.quant.qdq import QuantizedWeight, quantize_weight, weights
from qpipe.quant.saturation import LARGEST_PAIR, pair_sums
from qpipe.quant.statistics import Statistics
from qpipe.samples.store import Samples
from qpipe.types import ANY_TARGET, Preprocessing, Sample, Target
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.activations import activations
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric

torch = pytest.importorskip("torch", reason="needs torch: pip install 'qpipe-edge[train]'")

from qpipe.quant.in_torch.torch_network import to_torch  # noqa: E402
from qpipe_plugins.quantize.training.learned_ranges import find_pairs  # noqa: E402
from qpipe_plugins.quantize.training.student import Student  # noqa: E402

# its tests share fixtures that are slow to make
pytestmark = pytest.mark.xdist_group("student")

# one of each kind: residual sums, batch norm left, splits, grouped, attention, tables, foreign, odd products, shared
WHOLE = [
    "mobilenet_v2", "resnet", "yolo", "segmentation", "transformer", "text", "recurrent", "products", "twins",
]  # fmt: skip
W4A4 = "w4a4"
LAYERED = [
    ("mobilenet_v2", "pot"), ("mobilenet_v2", W4A4), ("yolo", W4A4), ("transformer", "pot"), ("products", "pot"),
]  # fmt: skip
SATURATING = Target(saturates=True)


def silent(done: float, total: float | None = None, unit: str = "") -> None:
    pass


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    @cache
    def prepare(name: str) -> tuple[Path, Statistics]:
        folder = tmp_path_factory.mktemp(name)
        onnx.save(NETWORKS[name](), folder / "theirs.onnx")
        model = onnx_file(path=folder / "theirs.onnx", shapes=SHAPES.get(name))
        ir.save(model, folder / "float.onnx")
        inputs = feeds(name, 8, seed=1)
        how = {key: Preprocessing(dtype=array.dtype.name) for key, array in inputs[0].items()}
        samples = (
            Sample(str(index), {key: array[0] for key, array in one.items()})
            for index, one in enumerate(inputs)
        )
        stored = Samples.write(folder / "samples", samples, how)
        return folder, histogram(ir.load(folder / "float.onnx"), stored, silent)

    return prepare


def quantized(prepared, name: str, levels: str, target: Target = ANY_TARGET) -> ir.Model:
    folder, statistics = prepared(name)
    model = ir.load(folder / "float.onnx")
    if levels == "uniform":
        return symmetric(model, statistics, target)
    if levels == W4A4:
        model = symmetric(model, statistics, target, bits=4, activation_range="none")
        return activations(model, statistics, target, bits=4)
    return logarithmic(model, statistics, target, levels=levels, granularity="tensor")


def student_of(prepared, name: str, model: ir.Model, target: Target = ANY_TARGET) -> Student:
    folder, _ = prepared(name)
    return Student(model, ir.load(folder / "float.onnx"), target, "test")


def move(student: Student, amount: float = 0.05) -> None:
    """Change everything that is learned, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for learned in student.weights.values():
            noise = torch.randn(learned.positions.shape, generator=generator)
            learned.positions += amount * len(learned.codebook.levels) * noise
        for factor in [*student.weight_factors(), *student.range_factors()]:
            factor += amount * torch.randn(factor.shape, generator=generator)
        for values in student.bias_values():
            values += amount * torch.randn(values.shape, generator=generator)
    student.keep_within_limits()


def computed(student: Student, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        tensors = {key: to_torch(array) for key, array in inputs.items()}
        outputs = student.network.outputs(tensors)
    return {key: tensor.numpy() for key, tensor in outputs.items()}


@pytest.mark.parametrize("name", WHOLE)
def test_before_and_after_training_torch_gives_what_onnx_runtime_gives(name, prepared):
    levels = ("uniform", "pot", "apot", W4A4)[WHOLE.index(name) % 4]
    student = student_of(prepared, name, quantized(prepared, name, levels))
    for is_moved in (False, True):
        if is_moved:
            move(student)
        model = student.to_model()
        quantize_biases(model)
        running = open_session(model, optimize=False)
        noise = []
        for inputs in feeds(name, 2):
            actual = computed(student, inputs)
            noise += [
                sqnr_db(expected, actual[key]) for key, expected in infer(running, inputs).items()
            ]
        # a value at the middle of two codes may fall either way; most often none does
        assert max(noise) > 100
        assert min(noise) > 30


@pytest.mark.parametrize(("name", "levels"), LAYERED)
def test_of_the_same_codes_each_layer_makes_the_codes_of_the_integer_kernels(
    name, levels, prepared
):
    student = student_of(prepared, name, quantized(prepared, name, levels))
    move(student)
    model = student.to_model()
    quantize_biases(model)
    proto = ir.to_proto(model)
    types = {value.name: value for value in proto.graph.value_info}
    zero_points = {tensor.name: tensor for tensor in proto.graph.initializer}
    pairs = find_pairs(student.model)
    for pair in pairs:
        bounded = bounded_codes(pair.quantizer).name
        codes = types.get(bounded) or onnx.ValueInfoProto(name=bounded)
        codes.type.tensor_type.elem_type = zero_points[pair.quantizer.inputs[2].name].data_type
        proto.graph.output.append(codes)
    running = session(proto, EXACT)
    names = [value.name for value in running.get_outputs()]
    count = 0
    different = 0
    for inputs in feeds(name, 2):
        codes = dict(zip(names, running.run(names, inputs), strict=True))
        tensors = student.network.input_values({k: to_torch(v) for k, v in inputs.items()})
        for learned in student.ranges:
            for pair in learned.pairs:
                steps = codes[bounded_codes(pair.quantizer).name].astype(np.float32)
                steps -= pair.zero_point
                for node in pair.dequantizers:
                    tensors[node.outputs[0]] = to_torch(steps * learned.number())
        for pair in pairs:
            expected = codes[bounded_codes(pair.quantizer).name].astype(int)
            scale = next(one for one in student.ranges if pair.quantizer in one.nodes).number()
            for node in pair.dequantizers:
                others = {
                    key: tensor for key, tensor in tensors.items() if key is not node.outputs[0]
                }
                with torch.no_grad():
                    (result,) = student.network.compute(others, [node.outputs[0]]).values()
                actual = np.rint(result.numpy() / scale).astype(int) + pair.zero_point
                assert np.abs(actual - expected).max() <= 1
                count += expected.size
                different += int((actual != expected).sum())
    assert count > 300
    assert different <= max(1, 1e-4 * count)


def test_what_comes_in_is_what_training_starts_from(prepared):
    model = quantized(prepared, "mobilenet_v2", "apot")
    before = {weight.name: weight.quantized for weight in weights(model)}
    after = weights(student_of(prepared, "mobilenet_v2", model).to_model())
    assert len(after) == len(before)
    for weight in after:
        old = before[weight.name]
        np.testing.assert_array_equal(weight.quantized.codes, old.codes)
        np.testing.assert_array_equal(weight.quantized.scale, old.scale)
        assert (weight.quantized.codebook, weight.quantized.axis) == (old.codebook, old.axis)


def test_pairs_of_weights_stay_within_what_a_target_sums_in_16_bits(prepared):
    model = quantized(prepared, "mobilenet_v2", "uniform", SATURATING)
    student = student_of(prepared, "mobilenet_v2", model, SATURATING)
    move(student, 0.5)
    for weight in weights(student.to_model()):
        pairings = weight.pairings(SATURATING)
        if pairings:
            rows = weight.to_rows(weight.quantized.codes.astype(int))
            assert np.abs(pair_sums(rows, pairings)).max() <= LARGEST_PAIR


@pytest.mark.parametrize(("levels", "highest"), [("uniform", 255), (W4A4, 15)])
def test_scales_never_grow_beyond_where_a_clip_is_absorbed(levels, highest, prepared):
    student = student_of(prepared, "mobilenet_v2", quantized(prepared, "mobilenet_v2", levels))
    capped = [learned for learned in student.ranges if np.isfinite(learned.largest)]
    assert capped
    with torch.no_grad():
        for factor in student.range_factors():
            factor += 1
    student.keep_within_limits()
    for learned in capped:
        assert learned.number() * np.float32(highest) <= np.float32(6)


def test_scales_of_a_target_that_shifts_are_not_learned(prepared):
    shifts = Target(power_of_two_scales=True)
    model = quantized(prepared, "keywords", "uniform", shifts)
    student = student_of(prepared, "keywords", model, shifts)
    assert not student.weight_factors()
    assert not student.range_factors()


def test_levels_that_qpipe_does_not_know_are_those_in_use(prepared):
    folder, statistics = prepared("keywords")
    model = symmetric(ir.load(folder / "float.onnx"), statistics, bits=4)
    levels = (-8, -7, -3, -1, 0, 1, 3, 7)
    for weight in weights(model):
        near = np.abs(weight.quantized.codes[..., None].astype(int) - np.array(levels)).argmin(-1)
        codes = np.array(levels, np.int8)[near]
        old = weight.quantized
        theirs = Codebook("theirs", 3, levels)
        quantize_weight(
            model, weight, QuantizedWeight(codes, old.scale, old.zero_point, old.axis, theirs)
        )
    student = student_of(prepared, "keywords", model)
    move(student)
    for weight in weights(student.to_model()):
        assert set(np.unique(weight.quantized.codes)) <= set(levels)

"""Training: closer to float, in the same codebook, never worse, and in one line where it cannot be done."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import conv_net, run
from processors import machine_kind, machine_target, session
from qpipe.engine.request import Request, resolve_request
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.biases import quantize_biases
from qpipe.quant.target_check import check_target
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample, Target
from qpipe_plugins.quantize.asymmetric import asymmetric
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.qat import qat
from qpipe_plugins.quantize.symmetric import symmetric
from trained import (
    CALIBRATION,
    EVALUATION,
    needs_torch,
    noise_db,
    quiet,
    start,
    statistics,
    written,
)

# its tests share statistics, and torch, which takes seconds to import
pytestmark = pytest.mark.xdist_group("student")

# how far a weight moves in a step toward the next level: few steps must do
RATE = 2e-2


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Samples:
    return written(tmp_path_factory.mktemp("samples"), [array[0] for array in CALIBRATION])


def codes_of(model: ir.Model) -> list[np.ndarray]:
    return [weight.quantized.codes for weight in qdq.weights(model)]


def kernels(model: ir.Model, folder: Path) -> Counter[str]:
    quantize_biases(model)
    path = folder / "optimized.onnx"
    session(ir.to_proto(model), machine_kind(), optimized_path=path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@needs_torch
@pytest.mark.parametrize(("quantizer", "granularity"), [
    (symmetric, "tensor"), (asymmetric, "tensor"), (logarithmic, "channel"),
])  # fmt: skip
def test_it_comes_closer_to_float_in_the_same_codebook_and_on_the_same_kernels(
    quantizer, granularity, samples, tmp_path
):
    def quantized():
        return quantizer(
            conv_net(), statistics(), machine_target(), bits=3, granularity=granularity
        )

    before = quantized()
    model = qat(
        quantized(), conv_net(), samples, tmp_path, quiet, machine_target(), epochs=8, rate=RATE
    )
    assert noise_db(model) > noise_db(before) + 3
    for old, new in zip(qdq.weights(before), qdq.weights(model), strict=True):
        assert new.quantized.codebook == old.quantized.codebook
        assert set(np.unique(new.quantized.codes)) <= set(old.quantized.codebook.levels)
        assert new.quantized.axis == old.quantized.axis
        np.testing.assert_array_equal(new.quantized.zero_point, old.quantized.zero_point)
    (tmp_path / "before").mkdir()
    assert kernels(model, tmp_path) == kernels(before, tmp_path / "before")


@needs_torch
def test_what_the_target_takes_it_still_takes_afterwards(samples, tmp_path):
    strict = Target(symmetric_only=True, per_tensor_weights=True, power_of_two_scales=True)
    before = start(strict)
    model = qat(start(strict), conv_net(), samples, tmp_path, quiet, strict, epochs=4, rate=RATE)
    check_target(model, strict)
    assert noise_db(model) > noise_db(before)


@needs_torch
def test_the_seed_decides_the_result(samples, tmp_path):
    def trained(seed: int, folder: str) -> ir.Model:
        (tmp_path / folder).mkdir()
        return qat(
            start(), conv_net(), samples, tmp_path / folder, quiet, epochs=3, rate=RATE, seed=seed
        )

    first = trained(1, "first")
    again = trained(1, "again")
    other = trained(2, "other")
    assert ir.to_proto(first) == ir.to_proto(again)
    assert not all(map(np.array_equal, codes_of(first), codes_of(other)))


@needs_torch
def test_a_run_that_was_ended_continues_where_it_was(samples, tmp_path, caplog):
    def ending(done: float, total: float | None = None, unit: str = "") -> None:
        assert total == 100
        assert re.fullmatch(r"%, loss \S+, rate \S+", unit)
        if done > 60:
            raise KeyboardInterrupt

    (tmp_path / "whole").mkdir()
    whole = qat(start(), conv_net(), samples, tmp_path / "whole", quiet, epochs=4, rate=RATE)
    with pytest.raises(KeyboardInterrupt):
        qat(start(), conv_net(), samples, tmp_path, ending, epochs=4, rate=RATE)
    assert (tmp_path / "training.pt").is_file()
    assert "goes on at step" not in caplog.text
    continued = qat(start(), conv_net(), samples, tmp_path, quiet, epochs=4, rate=RATE)
    assert "goes on at step" in caplog.text
    assert noise_db(continued) > noise_db(start())
    assert len(json.loads(continued.metadata_props["qpipe.training"])) == len(
        json.loads(whole.metadata_props["qpipe.training"])
    )


@needs_torch
def test_a_run_that_continues_watches_weights_from_where_they_are(samples, tmp_path, monkeypatch):
    import torch

    from qpipe_plugins.quantize.training import training_loop

    watched = []

    class Recording(training_loop.Oscillations):
        def __init__(self, student):
            super().__init__(student)
            watched.append(student.state())

    def ending(done: float, total: float | None = None, unit: str = "") -> None:
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qat(start(), conv_net(), samples, tmp_path, ending, epochs=4, rate=RATE)
    stored = torch.load(tmp_path / "training.pt", weights_only=True)["student"]
    monkeypatch.setattr(training_loop, "Oscillations", Recording)
    qat(start(), conv_net(), samples, tmp_path, quiet, epochs=4, rate=RATE)
    assert all(torch.equal(watched[-1][name], tensor) for name, tensor in stored.items())


@needs_torch
def test_training_that_diverges_is_named_and_never_makes_it_worse(samples, tmp_path, caplog):
    before = start()
    model = qat(start(), conv_net(), samples, tmp_path, quiet, epochs=8, rate=1.0, scale_rate=1.0)
    assert "training diverged (" in caplog.text
    assert "back to the best state, at 0.3 times the rate" in caplog.text
    assert noise_db(model) >= noise_db(before) - 0.5
    if "stays as it was" in caplog.text:
        assert all(map(np.array_equal, codes_of(before), codes_of(model)))


@needs_torch
def test_the_scores_of_the_run_stay_with_the_network(samples, tmp_path):
    model = qat(start(), conv_net(), samples, tmp_path, quiet, epochs=3, rate=RATE)
    curve = json.loads(model.metadata_props["qpipe.training"])
    steps, losses, scores = zip(*curve, strict=True)
    assert steps == tuple(sorted(steps))
    assert losses[0] is None
    assert all(np.isfinite(losses[1:]))
    assert max(scores) > scores[0]


@needs_torch
def test_naive_training_ends_on_levels_too(samples, tmp_path):
    model = qat(start(), conv_net(), samples, tmp_path, quiet, epochs=10, rate=RATE, guided=False)
    for old, new in zip(qdq.weights(start()), qdq.weights(model), strict=True):
        assert set(np.unique(new.quantized.codes)) <= set(old.quantized.codebook.levels)
        np.testing.assert_array_equal(new.quantized.scale, old.quantized.scale)


@needs_torch
@pytest.mark.parametrize("options", [
    {"gradual": 0.5, "warm_restarts": 2}, {"features": 0.0, "freezing": False, "scale_rate": 0.0},
    {"batch": 1, "samples": 12},
], ids=str)  # fmt: skip
def test_each_ingredient_can_be_left_out_or_added(options, samples, tmp_path):
    model = qat(start(), conv_net(), samples, tmp_path, quiet, epochs=3, rate=RATE, **options)
    assert noise_db(model) > noise_db(start())


def divergence(logits: np.ndarray, others: np.ndarray) -> float:
    """The Kullback-Leibler divergence of probabilities from those of logits, by numpy."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max()

    own = log_softmax(logits)
    return float((np.exp(own) * (own - log_softmax(others))).sum())


@needs_torch
def test_scores_of_classes_are_compared_by_their_probabilities(samples, tmp_path):
    def lost(model: ir.Model) -> float:
        pairs = zip(run(conv_net(), EVALUATION), run(model, EVALUATION), strict=True)
        return sum(divergence(exact["logits"], one["logits"]) for exact, one in pairs)

    model = qat(
        start(), conv_net(), samples, tmp_path, quiet, epochs=6, rate=RATE, classes=("logits",)
    )
    assert lost(model) < 0.7 * lost(start())
    message = "quantize qat: classes has 'scores', which is no output of floats; there is logits"
    with pytest.raises(StageError, match=re.escape(message)):
        qat(start(), conv_net(), samples, tmp_path, quiet, epochs=1, classes=("scores",))


@needs_torch
def test_boxes_count_where_something_is():
    import torch

    from qpipe_plugins.quantize.training.output_distance import OutputDistance

    random = np.random.default_rng(5)
    scores = np.array([[[8.0, 0, 0], [8, 0, 0], [8, 0, 0], [0, 8, 0]]], np.float32)
    boxes = random.normal(size=(1, 4, 2)).astype(np.float32)
    other_scores = scores + random.normal(size=scores.shape).astype(np.float32)
    other_boxes = boxes + random.normal(size=boxes.shape).astype(np.float32)
    distance = OutputDistance(["boxes", "scores"], ["scores"], "test")
    expected = {"boxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores)}
    actual = {"boxes": torch.from_numpy(other_boxes), "scores": torch.from_numpy(other_scores)}
    distance.learn_frequencies([expected])
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    usual = np.log(probabilities.mean(axis=(0, 1)))
    told = [divergence(scores[0, place], usual) for place in range(4)]
    assert told[3] > 4 * told[0]
    distances = {
        name: noise.item() / signal.item()
        for name, (noise, signal) in distance.of(expected, actual).items()
    }
    noise = sum(divergence(scores[0, place], other_scores[0, place]) for place in range(4))
    assert distances["scores"] == pytest.approx(noise / sum(told), rel=1e-3)
    square = ((other_boxes - boxes)[0] ** 2).sum(-1) @ told
    assert distances["boxes"] == pytest.approx(square / ((boxes[0] ** 2).sum(-1) @ told), rel=1e-4)
    geometric_mean = np.sqrt(distances["boxes"] * distances["scores"])
    assert distance.total([(expected, actual)]) == pytest.approx(geometric_mean, rel=1e-6)
    loss = distance.loss(expected, actual).item()
    assert loss == pytest.approx(np.log(geometric_mean), rel=1e-2)


@needs_torch
def test_a_batch_that_does_not_fit_in_memory_is_computed_in_parts(samples, tmp_path):
    import torch

    from qpipe.quant.in_torch.torch_network import TorchNetwork
    from qpipe_plugins.quantize.training.sample_batches import SampleBatches
    from qpipe_plugins.quantize.training.saved_memory import saved_bytes

    batches = SampleBatches(samples, TorchNetwork(conv_net()), 8)
    image = batches.of([0])["image"].requires_grad_()
    # the exponential serves its own gradient and that of the cosine; a root is kept as well
    kept = saved_bytes(lambda feeds: feeds["image"].exp().cos().sum(), {"image": image})
    assert kept == image.nbytes
    kept = saved_bytes(lambda feeds: feeds["image"].exp().sqrt().sum(), {"image": image})
    assert kept == 2 * image.nbytes
    batches.limit(3)
    (first, *_) = batches.shuffled(range(20), torch.Generator().manual_seed(0))
    assert [len(part["image"]) for part in first] == [3, 3, 2]
    model = qat(start(), conv_net(), samples, tmp_path, quiet, epochs=4, rate=RATE, memory_mb=1)
    assert noise_db(model) > noise_db(start())


@needs_torch
def test_samples_are_augmented_as_their_inputs_allow(samples, tmp_path):
    pictures = [np.moveaxis(array[0], 0, -1) for array in CALIBRATION]
    stored = written(tmp_path / "pictures", pictures, "NCHW")
    (tmp_path / "work").mkdir()
    changes = ("flip", "crop", "color", "mix")
    model = qat(
        start(), conv_net(), stored, tmp_path / "work", quiet, epochs=4, rate=RATE, augment=changes
    )
    assert noise_db(model) > noise_db(start())
    message = (
        "quantize qat: augment has crop, but no input of the samples is an image; leave it out"
    )
    with pytest.raises(StageError, match=re.escape(message)):
        qat(start(), conv_net(), samples, tmp_path, quiet, epochs=1, augment=("crop",))
    message = (
        "quantize qat: augment has shift, but no input of the samples is floats other than an "
        "image; leave it out"
    )
    with pytest.raises(StageError, match=re.escape(message)):
        qat(start(), conv_net(), stored, tmp_path, quiet, epochs=1, augment=("shift",))


@needs_torch
def test_each_change_does_what_it_says():
    import torch

    from qpipe_plugins.quantize.training.augmentation import Augmentation

    def changed(change: str, layout: str, x: torch.Tensor) -> torch.Tensor:
        augmentation = Augmentation([change], {"x": Preprocessing(layout=layout)}, ["x"], "test")
        generator = torch.Generator().manual_seed(2)
        return torch.cat([augmentation({"x": x}, generator)["x"] for _ in range(8)])

    picture = torch.arange(3 * 20 * 20, dtype=torch.float32).reshape(1, 3, 20, 20)
    flipped = [bool((one == picture[0].flip(-1)).all()) for one in changed("flip", "NCHW", picture)]
    assert len(set(flipped)) == 2
    rows = changed("crop", "NCHW", picture)[:, 0, :, 0]
    assert len({tuple(row.tolist()) for row in rows}) > 1
    assert all((row.diff() >= 0).all() for row in rows), "the edge fills what is left empty"
    colored = changed("color", "NCHW", picture)
    assert colored.min() >= picture.min()
    assert colored.max() <= picture.max()
    sound = torch.arange(100, dtype=torch.float32).reshape(1, 1, 100)
    for one in changed("shift", "none", sound):
        assert sorted(one[0].tolist()) == sound[0, 0].tolist()
        first = int(one[0].argmin())
        assert min(first, 100 - first) <= 10
    two = torch.stack([sound[0], -sound[0]])
    mixed = changed("mix", "none", two)
    factors = mixed[:, 0, -1] / two[:, 0, -1].repeat(8)
    assert ((factors > 0) & (factors <= 1)).all(), "of the other there is half at most"
    assert factors.unique().numel() > 8
    torch.testing.assert_close(mixed, factors[:, None, None] * two.repeat(8, 1, 1))
    difference = changed("noise", "none", sound) - sound
    assert 0.01 < float(difference.std() / sound.std()) < 0.03


def test_a_smoke_run_hardly_trains(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    recipe = Path("recipes/mobilenet_ssd_qat.yaml")
    calls = resolve_request(Request(recipe, smoke=True)).recipe.schemes["pot-qat"]
    assert calls[-1].options["epochs"] == 1
    usual = resolve_request(Request(recipe)).recipe.schemes["pot-qat"]
    assert (usual[-1].options["minutes"], usual[-1].options["epochs"]) == (10, 3)


# ---- what cannot be done


def test_without_torch_the_error_says_which_extra(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = "quantize qat: torch is not installed; pip install 'qpipe-edge[train]'"
    with pytest.raises(StageError, match=re.escape(message)):
        qat(start(), conv_net(), samples, tmp_path, quiet)


@needs_torch
def test_a_network_that_is_not_quantized_yet_is_refused(samples, tmp_path):
    message = (
        "quantize qat: no weight is quantized yet; put stages before it that quantize weights "
        "and activations, such as symmetric"
    )
    with pytest.raises(StageError, match=re.escape(message)):
        qat(conv_net(), conv_net(), samples, tmp_path, quiet, epochs=1)


@needs_torch
def test_too_few_samples_are_refused(samples, tmp_path):
    message = (
        "quantize qat: 3 samples are too few to train on some and score on others; "
        "give at least 4, better hundreds, to calibrate with"
    )
    with pytest.raises(StageError, match=re.escape(message)):
        qat(start(), conv_net(), samples, tmp_path, quiet, epochs=1, samples=3)


@needs_torch
def test_where_no_gradient_passes_the_operator_is_named(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 8] x) => (float[1, 8] y) { a = Gemm <transB = 1> (x, w) [top] y, i = TopK (a, k) }"""
    random = np.random.default_rng(3)
    arrays = {"w": random.normal(size=(8, 8)).astype(np.float32), "k": np.array([8])}
    tensors = [ir.tensor(array, name=name) for name, array in arrays.items()]
    model = ir.from_onnx_text(text, initializers=tensors)
    given = [random.normal(size=8).astype(np.float32) for _ in range(8)]
    how = {"x": Preprocessing()}
    stored = Samples.write(
        tmp_path / "s", (Sample(str(i), {"x": array}) for i, array in enumerate(given)), how
    )
    quantized = ir.from_proto(ir.to_proto(model))
    (weight,) = qdq.weights(quantized)
    qdq.quantize_weight(quantized, weight, qdq.symmetric(weight, axis=0))
    message = (
        "quantize qat: no weight can be trained: no gradient passes through TopK 'top'; "
        "quantize by compensate, which needs none"
    )
    with pytest.raises(StageError, match=re.escape(message)):
        qat(quantized, model, stored, tmp_path, quiet, epochs=1)

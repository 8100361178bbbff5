"""Bits layer by layer: what is chosen keeps to what was asked, and is what numpy finds best of all choices."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from models import SHAPES, conv_net, images, run, statistics_of
from networks import log_mel, sounds
from qpipe.errors import StageError
from qpipe.quant import qdq
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.saturation import limit_pairs
from qpipe.samples.store import Samples
from qpipe.types import ANY_TARGET, Preprocessing, Sample, Target
from qpipe_plugins.quantize.correct_bias import correct_bias
from qpipe_plugins.quantize.mixed import mixed
from qpipe_plugins.quantize.symmetric import symmetric

CALIBRATION = images(8, seed=1)
STATISTICS = statistics_of(conv_net(), CALIBRATION)
COUNTS = {name: int(np.prod(shape)) for name, shape in SHAPES.items() if name.endswith("_w")}
Quantizer = Callable[..., ir.Model]


def nothing(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def quantized(tmp_path: Path) -> Quantizer:
    given = [Sample(str(at), {"image": array[0]}) for at, array in enumerate(CALIBRATION)]
    samples = Samples.write(tmp_path / "samples", given, {"image": Preprocessing()})

    def quantize(
        model: ir.Model | None = None, target: Target = ANY_TARGET, **options: object
    ) -> ir.Model:
        return mixed(model or conv_net(), conv_net(), STATISTICS, samples, tmp_path, nothing, target, **options)  # type: ignore[arg-type]  # fmt: skip

    return quantize


def bits(model: ir.Model) -> dict[str, int]:
    return {w.name: w.quantized.codebook.bits if w.quantized else 32 for w in qdq.weights(model)}


def damages(options: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """By numpy, of networks in which one weight alone is quantized; more bits never cost more."""
    exact = np.stack([each["logits"] for each in run(conv_net(), CALIBRATION)])
    found: dict[str, dict[int, float]] = {}
    for name in COUNTS:
        least = np.inf
        for option in sorted(options):
            method = "minmax" if option == 8 else "mse"
            others = [other for other in COUNTS if other != name]
            model = symmetric(
                conv_net(),
                STATISTICS,
                bits=option,
                weight_range=method,
                activation_range="none",
                exclude=others,
            )
            model = correct_bias(model, conv_net(), STATISTICS)
            noise = np.stack([each["logits"] for each in run(model, CALIBRATION)]) - exact
            least = min(least, float(np.sum(noise**2) / np.sum(exact**2)))
            found.setdefault(name, {})[option] = least
    return found


def choices(options: tuple[int, ...]) -> list[dict[str, int]]:
    return [
        dict(zip(COUNTS, each, strict=True))
        for each in itertools.product(options, repeat=len(COUNTS))
    ]


@pytest.mark.parametrize("size", [0.5, 0.6, 0.8, 1.0])
def test_of_all_choices_of_that_size_it_takes_the_one_of_least_damage(
    size: float, quantized: Quantizer
) -> None:
    options = (2, 4, 8)
    own, room = damages(options), size * 8 * sum(COUNTS.values())
    fitting = [
        each
        for each in choices(options)
        if sum(each[name] * n for name, n in COUNTS.items()) <= room
    ]
    best = min(fitting, key=lambda each: sum(own[name][each[name]] for name in COUNTS))
    assert bits(quantized(bits=options, size=size)) == best


def test_of_all_choices_of_that_sqnr_it_takes_the_smallest(quantized: Quantizer) -> None:
    options, floor = (3, 5, 8), 25.0
    own = damages(options)
    good = [
        each
        for each in choices(options)
        if sum(own[n][each[n]] for n in COUNTS) <= 10 ** (-floor / 10)
    ]
    best = min(good, key=lambda each: sum(each[name] * n for name, n in COUNTS.items()))
    assert bits(quantized(bits=options, sqnr=floor)) == best


@pytest.mark.parametrize("count", [1, 2])
def test_the_layers_that_cost_most_stay_float(count: int, quantized: Quantizer) -> None:
    own = damages((8,))
    worst = sorted(own, key=lambda name: own[name][8])[-count:]
    model = quantized(bits=(8, 32), layers=count)
    assert bits(model) == {name: 32 if name in worst else 8 for name in COUNTS}
    assert all(
        weight.array.dtype == np.float32 for weight in qdq.weights(model) if weight.name in worst
    )


def test_weights_are_rounded_to_nearest_and_biases_corrected(quantized: Quantizer) -> None:
    found = quantized(bits=(4,), activation_range="none")
    expected = symmetric(
        conv_net(), STATISTICS, bits=4, weight_range="mse", activation_range="none"
    )
    expected = correct_bias(expected, conv_net(), STATISTICS)
    for one, other in zip(qdq.weights(found), qdq.weights(expected), strict=True):
        np.testing.assert_array_equal(one.array, other.array)
        np.testing.assert_allclose(one.bias, other.bias, rtol=1e-6)


def test_activations_are_quantized_around_what_is_not_float(quantized: Quantizer) -> None:
    model = quantized(bits=(4, 8))
    assert {n.inputs[0].name for n in model.graph if n.op_type == "QuantizeLinear"} >= {
        "image",
        "stem_out",
        "deep_out",
    }


@pytest.mark.parametrize(("levels", "name"), [("pot", "pot"), ("apot", "apot")])
def test_levels_of_few_bits_may_be_logarithmic(
    levels: str, name: str, quantized: Quantizer
) -> None:
    books = {
        w.quantized.codebook.bits: w.quantized.codebook.name
        for w in qdq.weights(quantized(bits=(4, 8), levels=levels, size=0.7))
    }
    assert books[4] == name
    assert books[8] == "uniform"


def test_eight_bits_do_not_overflow_where_sums_saturate(quantized: Quantizer) -> None:
    target = Target(saturates=True)
    model = quantized(target=target, bits=(4, 8), sqnr=100.0)
    assert set(bits(model).values()) == {8}
    for weight in qdq.weights(model):
        codes = weight.to_rows(weight.quantized.codes)
        np.testing.assert_array_equal(limit_pairs(codes, weight.pairings(target)), codes)


def test_a_target_of_one_scale_a_tensor_gets_it(quantized: Quantizer) -> None:
    model = quantized(target=Target(per_tensor_weights=True))
    assert {weight.quantized.axis for weight in qdq.weights(model)} == {None}


def test_what_is_excluded_or_quantized_already_is_left_alone(quantized: Quantizer) -> None:
    model = conv_net()
    flat = qdq.weights(model)[2]
    qdq.quantize_weight(model, flat, qdq.symmetric(flat, bits=3, axis=0))
    assert bits(quantized(model, bits=(4, 8), size=2.0, exclude=("last",))) == {
        "stem_w": 8, "deep_w": 8, "flat_w": 3, "head_w": 32,
    }  # fmt: skip


def test_what_was_measured_before_a_kill_is_not_measured_again(
    tmp_path: Path, quantized: Quantizer
) -> None:
    first = bits(quantized(bits=(4, 8), size=0.7))
    journal = tmp_path / "damages.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 * len(COUNTS)
    least = next(name for name, chosen in first.items() if chosen == 8)
    # lies that a measurement would correct, and a line that the kill cut
    lies = [
        json.dumps([name, option, 0.0 if name == least else 1.0 / option])
        for name, option, _ in map(json.loads, lines)
    ]
    journal.write_text("\n".join(lies[:-1]) + "\n" + lies[-1][:9], encoding="utf-8")
    assert bits(quantized(bits=(4, 8), size=0.7))[least] == 4


def test_two_goals_are_one_too_many(quantized: Quantizer) -> None:
    with pytest.raises(
        StageError, match="size, sqnr and layers exclude each other; give one of them"
    ):
        quantized(size=0.6, layers=2)


# ---- a floor


def test_layers_that_int8_ruins_stay_float_where_there_is_a_floor(tmp_path: Path) -> None:
    def load() -> ir.Model:
        return ir.from_proto(log_mel())

    def noise(model: ir.Model) -> float:
        exact, rounded = (
            np.concatenate([next(iter(each.values())) for each in run(network, sounds(16, seed=2))])
            for network in (load(), model)
        )
        return sqnr_db(exact, rounded)

    calibration = sounds(40, seed=1)
    stream = (Sample(str(at), {"sound": array[0]}) for at, array in enumerate(calibration))
    samples = Samples.write(tmp_path / "samples", stream, {"sound": Preprocessing()})
    statistics = statistics_of(load(), calibration)
    model = mixed(load(), load(), statistics, samples, tmp_path, nothing, bits=(8, 32), sqnr=30.0)
    assert noise(symmetric(load(), statistics)) < 10
    assert noise(model) > 30
    assert list(bits(model).values()) == [32, 32, 32, 8, 8, 8, 8]


def test_a_floor_that_is_kept_leaves_nothing_float(quantized: Quantizer) -> None:
    assert set(bits(quantized(bits=(8, 32), sqnr=15.0)).values()) == {8}


def test_a_floor_that_takes_all_layers_float_is_refused(quantized: Quantizer) -> None:
    reason = r"^quantize mixed: outputs reach 90 dB only with all layers float; give a lower sqnr"
    with pytest.raises(StageError, match=reason):
        quantized(bits=(8, 32), sqnr=90.0)

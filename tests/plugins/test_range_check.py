"""Searched ranges of activations are no worse for the outputs than the whole ranges."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from models import run, statistics_of
from qpipe.quant.arithmetic import sqnr_db
from qpipe.quant.ranges import Method
from qpipe.samples.store import Samples
from qpipe.stages.registry import load
from qpipe.types import ANY_TARGET, Array, Preprocessing, Sample
from qpipe_plugins.quantize.symmetric import symmetric

# a maximum over time picks the few values that a search for the least squared error gives up
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 4, 1, 200] x) => (float[1, 6] y) {
  c = Conv (x, w) m = GlobalMaxPool (c) f = Flatten (m) y = Gemm (f, v) }"""


def network() -> ir.Model:
    random = np.random.default_rng(4)
    shapes = {"w": (8, 4, 1, 1), "v": (8, 6)}
    arrays = {name: random.normal(0, 0.5, shape) for name, shape in shapes.items()}
    tensors = [ir.tensor(array.astype(np.float32), name=name) for name, array in arrays.items()]
    model = ir.from_onnx_text(TEXT, initializers=tensors)
    ShapeInferencePass()(model)
    return model


def rare_peaks(count: int, seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.standard_t(2, (1, 4, 1, 200)).astype(np.float32) for _ in range(count)]


def logits(model: ir.Model) -> Array:
    return np.concatenate([outputs["y"] for outputs in run(model, rare_peaks(24, seed=2))])


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_a_searched_range_that_ruins_what_is_picked_gives_way_to_minmax(
    tmp_path: Path, method: Method
) -> None:
    arrays = rare_peaks(24, seed=1)
    stream = (Sample(str(index), {"x": array[0]}) for index, array in enumerate(arrays))
    samples = Samples.write(tmp_path, stream, {"x": Preprocessing()})
    statistics = statistics_of(network(), arrays)
    expected = logits(network())
    minmax = sqnr_db(expected, logits(symmetric(network(), statistics)))
    searched = symmetric(network(), statistics, activation_range=method)
    assert sqnr_db(expected, logits(searched)) < minmax - 3
    checked = symmetric(network(), statistics, ANY_TARGET, samples, activation_range=method)
    assert sqnr_db(expected, logits(checked)) > minmax - 0.1


def test_every_stage_that_searches_ranges_is_given_samples_to_check_them() -> None:
    stages = load().stages
    for name in ("symmetric", "asymmetric", "logarithmic", "activations", "mixed"):
        function = stages["quantize", name].function
        assert "calibration_samples" in inspect.signature(function).parameters

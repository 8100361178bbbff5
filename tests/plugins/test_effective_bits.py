"""Mean bits of a build's weights, counted by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models import SHAPES, conv_net, images, statistics_of
from qpipe.quant.exact_sums import make_sums_exact
from qpipe.quant.weight_bits import weight_count_and_bits
from qpipe.types import Deployed, Platform, Stored, Target
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.measure.size import size
from qpipe_plugins.quantize.logarithmic import logarithmic
from qpipe_plugins.quantize.symmetric import symmetric

COUNTS = {name: int(np.prod(shape)) for name, shape in SHAPES.items() if name.endswith("_w")}
TABLES = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[1] index, float[1, 4, 5, 5] image) => (float[1, 4] row, float[1, 6, 6, 6] larger)
<int64[2, 2] places = {0, 1, 2, 3}>
{
  row = Gather (table, index)
  biased = Add (image, shift)
  larger = ConvTranspose (biased, up)
  chosen = Gather (table, places)
}
"""


@pytest.fixture(scope="module")
def statistics():
    return statistics_of(conv_net(), images(4))


def measured(model, folder):
    build = onnxruntime(model, Platform(), folder)
    found = {
        each.metric: each for each in size(Deployed("net/x/ort", build, Stored("", "", 1000, 0)))
    }
    assert found["size_mb"].value == 0.001
    return found["effective_bits"]


def test_a_float_network_has_32(tmp_path):
    found = measured(conv_net(), tmp_path)
    assert (found.value, found.unit, found.n, found.better) == (
        32,
        "bits",
        sum(COUNTS.values()),
        "min",
    )


def test_a_weight_counts_with_the_bits_of_its_codebook(statistics, tmp_path):
    found = measured(logarithmic(conv_net(), statistics, bits=4, exclude=["head_w"]), tmp_path)
    bits = {"stem_w": 8, "deep_w": 8, "flat_w": 4, "head_w": 32}
    assert found.value == pytest.approx(
        sum(bits[name] * n for name, n in COUNTS.items()) / sum(COUNTS.values())
    )


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_what_the_file_needs_for_it_does_not_count(bits, statistics, tmp_path):
    assert measured(symmetric(conv_net(), statistics, bits=bits), tmp_path).value == bits


def test_tables_of_other_operators_count_and_biases_and_indices_do_not():
    tables = {"table": (7, 4), "up": (4, 6, 2, 2), "shift": (1, 4, 1, 1)}
    tensors = [ir.tensor(np.ones(shape, np.float32), name=name) for name, shape in tables.items()]
    count = 7 * 4 + 4 * 6 * 2 * 2
    assert weight_count_and_bits(ir.from_onnx_text(TABLES, initializers=tensors)) == (
        count,
        32 * count,
    )


def test_another_compilers_build_that_does_not_say_has_a_size_alone(tmp_path):
    build = onnxruntime(conv_net(), Platform(), tmp_path)
    del build.manifest["weights"]
    assert [
        each.metric for each in size(Deployed("net/x/ort", build, Stored("", "", 1000, 0)))
    ] == ["size_mb"]


def test_layers_with_fewer_levels_are_counted_where_sums_saturate(statistics, tmp_path):
    for target, layers in ((Target(), 0), (Target(saturates=True), 3)):
        model = symmetric(conv_net(), statistics, target)
        make_sums_exact(model, target)
        found = measured(model, tmp_path / str(layers))
        assert (found.value, found.detail) == (8, {"limited_layers": layers})

"""Splitting channels: more of them, the same function, and weights that one scale per tensor serves better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from networks import NETWORKS, SHAPES, feeds
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.transform.split import split

Arrays = dict[str, np.ndarray]
PAIR = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {{
  a = Conv <kernel_shape = [1, 1]> (x, first, b)
  {between}
  y = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, second)
}}"""
RELU, SWISH, GATE = (
    "c = Relu (a)",
    "c = HardSwish (a)",
    "g = GlobalAveragePool (a) h = Sigmoid (g) c = Mul (a, h)",
)
DEEP = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] x) => (float[1, 4] y) <float zero = {{0.0}}, float six = {{6.0}}, int64[2] flat = {{1, 16}}> {{
  a = Conv <kernel_shape = [1, 1]> (x, first, b)
  r = Relu (a)
  d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 16> (r, deep, b2)
  c = {activation} (d{bounds})
  p = GlobalAveragePool (c)
  f = Reshape (p, flat)
  y = Gemm (f, second)
}}"""


def pair(between: str = RELU) -> ir.Model:
    """Two layers; one input channel of the second has weights eight times as large as any other's."""
    random = np.random.default_rng(5)
    arrays = {"first": random.uniform(-1, 1, (16, 3, 1, 1)), "b": random.uniform(-1, 1, 16)}
    arrays["second"] = random.uniform(-1, 1, (4, 16, 3, 3))
    arrays["second"][:, 5] *= 8
    return made(PAIR.format(between=between), arrays)


def deep(activation: str = "Relu") -> ir.Model:
    """A depthwise layer with a channel that is eight times as large, between two others."""
    random = np.random.default_rng(6)
    arrays = {"first": random.uniform(-1, 1, (16, 3, 1, 1)), "b": random.uniform(-1, 1, 16)}
    arrays |= {"deep": random.uniform(-1, 1, (16, 1, 3, 3)), "b2": random.uniform(-1, 1, 16)}
    arrays["deep"][3] *= 8
    arrays["second"] = random.uniform(-1, 1, (16, 4))
    return made(
        DEEP.format(activation=activation, bounds=", zero, six" if activation == "Clip" else ""),
        arrays,
    )


def made(text: str, arrays: Arrays) -> ir.Model:
    tensors = [ir.tensor(array.astype(np.float32), name=name) for name, array in arrays.items()]
    model = ir.from_onnx_text(text, initializers=tensors)
    ShapeInferencePass()(model)
    return model


def inputs(count: int = 8, loudness: float = 1.0) -> list[Arrays]:
    random = np.random.default_rng(7)
    return [
        {"x": random.normal(0, loudness, (1, 3, 8, 8)).astype(np.float32)} for _ in range(count)
    ]


def stored(folder: Path, given: list[Arrays]) -> Samples:
    how = {name: Preprocessing(dtype=array.dtype.name) for name, array in given[0].items()}
    stream = (
        Sample(str(i), {name: array[0] for name, array in one.items()})
        for i, one in enumerate(given)
    )
    return Samples.write(folder / "samples", stream, how)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return stored(tmp_path, inputs())


def silent(done: float, total: float | None = None, unit: str = "") -> None:
    pass


def outputs(model: ir.Model, given: list[Arrays]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)  # the shapes it says are those it has
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.concatenate([array.ravel() for one in given for array in session.run(None, one)])


def array(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def assert_same(after: np.ndarray, before: np.ndarray) -> None:
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("between", [RELU, SWISH, GATE])
def test_an_outlier_before_the_second_layer_becomes_several_and_the_function_stays(
    between: str, samples: Samples
) -> None:
    model = split(pair(between), samples, silent, multiple=1, share=0.5)
    assert array(model, "first").shape[0] > 16
    assert np.abs(array(model, "second")).max() < np.abs(array(pair(), "second")).max() / 3
    assert_same(outputs(model, inputs()), outputs(pair(between), inputs()))


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_a_depthwise_outlier_becomes_several_where_the_activation_lets_it(
    activation: str, samples: Samples
) -> None:
    model = split(deep(activation), samples, silent, multiple=1, share=0.5)
    largest = np.abs(array(model, "deep")).max() / np.abs(array(deep(), "deep")).max()
    assert largest == 1 if activation == "Clip" else largest < 1 / 3
    assert_same(outputs(model, inputs()), outputs(deep(activation), inputs()))


def test_with_a_tolerance_a_channel_below_its_bound_is_split_before_relu6_too(
    tmp_path: Path,
) -> None:
    quiet = inputs(loudness=0.02)
    model = deep("Clip")
    for name in ("b", "b2"):
        model.graph.initializers[name].const_value = ir.tensor(
            np.full(16, 0.1, np.float32), name=name
        )
    before = outputs(model, quiet)
    model = split(model, stored(tmp_path, quiet), silent, multiple=1, share=0.5, tolerance=1e-9)
    assert array(model, "deep").shape[0] > 16
    assert_same(outputs(model, quiet), before)


def test_parts_of_a_weight_round_together_as_the_whole_would(samples: Samples) -> None:
    model = split(pair(), samples, silent, multiple=1, share=0.5, bits=4)
    parts, whole = array(model, "second"), array(pair(), "second")
    step = (np.abs(parts).max() - 0) / 7
    origin = [
        np.flatnonzero((array(pair(), "first") == row).all(axis=(1, 2, 3)))[0]
        for row in array(model, "first")
    ]
    copies = np.flatnonzero(np.array(origin) == 5)
    assert len(copies) > 2
    together = np.rint(parts[:, copies] / step).sum(axis=1) * step
    # the steps were laid before the parts moved apart, which widens the range by less than one
    assert np.abs(together - whole[:, 5]).max() < 1.1 * step
    apart = np.rint(whole[:, 5] / len(copies) / step) * step * len(copies)
    assert np.square(together - whole[:, 5]).sum() < np.square(apart - whole[:, 5]).sum() / 2


def test_no_more_channels_are_added_than_the_share_allows(samples: Samples) -> None:
    sizes = [
        len(array(split(pair(), samples, silent, multiple=1, share=share), "first"))
        for share in (0.0, 0.05, 0.2)
    ]
    assert sizes == [16, 17, 19]


def test_a_number_of_channels_that_kernels_like_stays_one(samples: Samples) -> None:
    sizes = [
        len(array(split(pair(), samples, silent, share=share, multiple=8), "first"))
        for share in (0.2, 0.3, 0.8)
    ]
    assert sizes == [16, 24, 32]  # the nearest multiple
    model = split(pair(), samples, silent, share=0.5)
    assert_same(outputs(model, inputs()), outputs(pair(), inputs()))


def test_where_nothing_stands_out_nothing_is_split(samples: Samples) -> None:
    model = pair()
    model.graph.initializers["second"].const_value = ir.tensor(
        np.ones((4, 16, 3, 3), np.float32), name="second"
    )
    model.graph.initializers["first"].const_value = ir.tensor(
        np.ones((16, 3, 1, 1), np.float32), name="first"
    )
    before = ir.to_proto(model).SerializeToString()
    assert (
        ir.to_proto(split(model, samples, silent, multiple=1, share=0.5)).SerializeToString()
        == before
    )


def test_one_scale_per_tensor_serves_split_weights_better(samples: Samples) -> None:
    def noise(model: ir.Model) -> float:
        exact = outputs(model, inputs())
        weight = array(model, "second")
        step = np.abs(weight).max() / 127
        rounded = (np.rint(weight / step) * step).astype(np.float32)
        model.graph.initializers["second"].const_value = ir.tensor(rounded, name="second")
        return float(np.square(outputs(model, inputs()) - exact).mean())

    assert noise(split(pair(), samples, silent, multiple=1, share=0.5)) < noise(pair()) / 4


def test_what_it_costs_is_logged(samples: Samples, caplog: pytest.LogCaptureFixture) -> None:
    split(pair(), samples, silent, multiple=1, share=0.05)
    (record,) = [record for record in caplog.records if record.name.endswith("split")]
    assert (
        record.getMessage()
        == "split: channels added: 1; 6.2 % more weights and work in the layers around them"
    )


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_of_all_kinds_stay_the_function_they_are(name: str, tmp_path: Path) -> None:
    onnx.save(NETWORKS[name](), tmp_path / "net.onnx")
    model = onnx_file(path=tmp_path / "net.onnx", shapes=SHAPES.get(name))
    given = feeds(name, 2)
    before = outputs(model, given)
    assert_same(
        outputs(split(model, stored(tmp_path, given), silent, multiple=1, share=0.3), given), before
    )


def test_what_a_branch_reads_keeps_its_channels(samples: Samples) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 16, 8, 8] z) {
      a = Conv <kernel_shape = [1, 1]> (x, first, b)
      c = Relu (a)
      y = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, second)
      top = ReduceMax <keepdims = 0> (y)
      none = Constant <value_float = 0.0> ()
      is_up = Greater (top, none)
      z = If (is_up) <
        then_branch = then () => (float[1, 16, 8, 8] t) { t = Neg (c) },
        else_branch = other () => (float[1, 16, 8, 8] e) { e = Identity (c) }
      >
    }"""
    names = ("first", "b", "second")
    model = made(text, {name: array(pair(), name) for name in names})
    before = outputs(model, inputs())
    assert_same(outputs(split(model, samples, silent, multiple=1, share=0.5), inputs()), before)
    assert array(model, "first").shape[0] == 16

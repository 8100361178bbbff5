"""Import computes what the file computes, under its names: whatever the exporter left in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from models import statistics_of
from qpipe.errors import StageError
from qpipe.quant.given_network import given_content, interface_of
from qpipe.samples.store import Samples
from qpipe.types import Array, Platform, Preprocessing, Sample
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.symmetric import symmetric

STATE = {"random": np.random.default_rng(3)}


@pytest.fixture(autouse=True)
def random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers for each test, in whatever order they run."""
    monkeypatch.setitem(STATE, "random", np.random.default_rng(3))


def weight(*shape: int, dtype: type = np.float32) -> Array:
    return STATE["random"].normal(0, 0.5, shape).astype(dtype)


def write(
    folder: Path, text: str, arrays: dict[str, Array] | None = None, *, opset: int = 17, ir: int = 8
) -> Path:
    """Write a network, given as text without its header, with these initializers."""
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "own" : 1]> '
    model = onnx.parser.parse_model(header + text)
    for name, array in (arrays or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def outputs(network: bytes, feeds: dict[str, Array], *, optimize: bool = False) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    if not optimize:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def noise(model: ir.Model) -> dict[str, Array]:
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        array = STATE["random"].normal(0, 1, value.shape.numpy())
        feeds[value.name or ""] = array.astype(value.dtype.numpy())
    return feeds


def imported(
    path: Path, shapes: dict[str, list[int]] | None = None, *, tolerance: float = 1e-4
) -> ir.Model:
    """Import a file; it must compute what the file does, under the same names."""
    model = onnx_file(path=path, shapes=shapes)
    for _ in range(3):
        feeds = noise(model)
        before = outputs(path.read_bytes(), feeds)
        after = outputs(ir.to_proto(model).SerializeToString(), feeds)
        assert list(before) == list(after)
        for name, array in before.items():
            assert after[name].dtype == array.dtype
            assert after[name].shape == array.shape
            np.testing.assert_allclose(after[name], array, rtol=tolerance, atol=tolerance / 10)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


# ---- outputs

CONV = "c = Conv (x, w) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p) "
OUTPUTS = {
    "twins": ("float[1, 4] y, float[1, 4] z", "y = Gemm (f, g) z = Identity (y)"),
    "twins, swapped": ("float[1, 4] z, float[1, 4] y", "y = Gemm (f, g) z = Identity (y)"),
    "triplets": (
        "float[1, 4] y, float[1, 4] z, float[1, 4] u",
        "y = Gemm (f, g) z = Identity (y) t = Identity (y) u = Identity (t)",
    ),
    "renamed": ("float[1, 4] z", "y = Gemm (f, g) t = Identity (y) z = Identity (t)"),
    "read on": ("float[1, 4] z, float[1, 4] u", "y = Gemm (f, g) z = Identity (y) u = Relu (y)"),
    "weight": ("float[1, 4] y, float[4, 3, 1, 1] w", "y = Gemm (f, g)"),
    "weight by Identity": (
        "float[1, 4] y, float[4, 3, 1, 1] z",
        "y = Gemm (f, g) z = Identity (w)",
    ),
    "constant": (
        "float[1, 4] y, int64[2] z",
        "y = Gemm (f, g) z = Constant <value = int64[2] {3, 4}> ()",
    ),
    "folded constant": ("float[1, 4] y, int64[4] z", "y = Gemm (f, g) z = Shape (c)"),
    "input": ("float[1, 4] y, float[1, 3, 5, 5] z", "y = Gemm (f, g) z = Identity (x)"),
    "without shape": ("float[1, 4] y, float[] z", "y = Gemm (f, g) z = Relu (c)"),
    "Dropout": ("float[1, 4] y, float[1, 4] z", "y = Gemm (f, g) z = Dropout (y)"),
}  # fmt: skip


def network_with(folder: Path, case: str) -> Path:
    declared, end = OUTPUTS[case]
    text = f"net (float[1, 3, 5, 5] x) => ({declared}) {{ {CONV} {end} }}"
    return write(folder, text, {"w": weight(4, 3, 1, 1), "g": weight(4, 4)})


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_keep_name_order_and_value_through_import_schemes_and_compile(
    tmp_path: Path, case: str
) -> None:
    path = network_with(tmp_path, case)
    model = imported(path)
    pictures = [weight(1, 3, 5, 5) for _ in range(4)]
    statistics = statistics_of(model, pictures)
    stream = (Sample(str(index), {"x": array[0]}) for index, array in enumerate(pictures))
    samples = Samples.write(tmp_path / "samples", stream, {"x": Preprocessing()})
    copies = [ir.from_proto(ir.to_proto(model)) for _ in range(3)]
    networks = {
        "float": copies[0],
        "symmetric": symmetric(copies[1], statistics),
        "static": onnxruntime_static(copies[2], samples),
    }
    interface = interface_of(model)
    feeds = {"x": pictures[0]}
    expected = outputs(path.read_bytes(), feeds)
    for name, network in networks.items():
        assert interface_of(network) == interface
        compiled(network, Platform(), tmp_path / name)
        content = (tmp_path / name / "model.onnx").read_bytes()
        assert interface_of(ir.from_proto(onnx.load_model_from_string(content))) == interface
        arrays = outputs(content, feeds, optimize=True)
        assert list(arrays) == list(expected)
        if name == "static":
            continue  # where a Relu reads an output, ONNX Runtime's quantizer clips the output
        for output, array in expected.items():
            scale = np.abs(array).max()
            close = 1e-5 if name == "float" else 0.4
            np.testing.assert_allclose(arrays[output], array, atol=close * scale)


def test_the_file_is_handed_on_as_it_was_with_weights_that_lay_beside_it(tmp_path: Path) -> None:
    path = network_with(tmp_path, "twins")
    feeds = {"x": weight(1, 3, 5, 5)}
    expected = outputs(path.read_bytes(), feeds)
    network = onnx.load(path)
    options = {"location": "weights.bin", "size_threshold": 0}
    onnx.save(network, path, save_as_external_data=True, **options)
    content = given_content(onnx_file(path=path))
    assert content is not None
    for name, array in outputs(content, feeds).items():
        np.testing.assert_array_equal(array, expected[name])


# ---- products


def test_products_of_two_and_of_three_axes_are_both_joined_with_their_bias(tmp_path: Path) -> None:
    text = """net (float[N, 4, 8] x) => (float[N, 5] y) {
      a = MatMul (x, w1) b = Add (a, b1) r = Relu (b)
      m = ReduceMean <axes = [1], keepdims = 0> (r) c = MatMul (m, w2) y = Add (c, b2) }"""
    arrays = {"w1": weight(8, 6), "b1": weight(6), "w2": weight(6, 5), "b2": weight(5)}
    model = imported(write(tmp_path, text, arrays))
    assert operators(model).count("Gemm") == 2
    for node in model.graph:
        assert node.outputs[0].shape is not None


# ---- branches

BRANCHES = """a = Gemm <transB = 1> (x, w) {condition}
  b = If (cond) <then_branch = one () => (float[1, 6] t) {{ t = Relu (a) }},
                 else_branch = two () => (float[1, 6] e) {{ e = Identity (a) }}>
  y = Gemm (b, v)"""


@pytest.mark.parametrize("zero", ["0.0", "1000.0"])
def test_a_branch_that_gives_an_outer_tensor_by_identity_stays(tmp_path: Path, zero: str) -> None:
    condition = f"""m = ReduceMean <keepdims = 0> (a) z = Constant <value = float {{{zero}}}> ()
      cond = Greater (m, z)"""
    text = f"net (float[1, 4] x) => (float[1, 3] y) {{ {BRANCHES.format(condition=condition)} }}"
    model = imported(write(tmp_path, text, {"w": weight(6, 4), "v": weight(6, 3)}))
    assert "If" in operators(model)


@pytest.mark.parametrize("taken", ["1", "0"])
@pytest.mark.parametrize("output", ["b", "y"])
def test_a_decided_branch_is_part_of_the_network(tmp_path: Path, taken: str, output: str) -> None:
    condition = f"cond = Constant <value = bool {{{taken}}}> ()"
    body = BRANCHES.format(condition=condition)
    columns = {"b": 6, "y": 3}[output]
    text = f"net (float[1, 4] x) => (float[1, {columns}] {output}) {{ {body} }}"
    model = imported(write(tmp_path, text, {"w": weight(6, 4), "v": weight(6, 3)}))
    assert "If" not in operators(model)
    assert "Identity" not in operators(model)


def test_decided_branches_with_constants_and_names_of_their_own_are_taken_one_in_the_other(
    tmp_path: Path,
) -> None:
    text = """net (float[1, 4] x) => (float[1, 4] y, float[1, 4] z) {
      size = Shape (x) four = Constant <value = int64[2] {1, 4}> () same = Equal (size, four)
      n = Cast <to = 6> (same) both = ReduceMin <keepdims = 0> (n) cond = Cast <to = 9> (both)
      y, z = If (cond) <
        then_branch = one () => (float[1, 4] p, float[1, 4] q) {
          k = Constant <value = float {2.0}> () p = Mul (x, k)
          q = If (cond) <
            then_branch = three () => (float[1, 4] p2) {
              k2 = Constant <value = float {3.0}> () p2 = Add (p, k2) },
            else_branch = four () => (float[1, 4] q2) { q2 = Identity (p) }> },
        else_branch = two () => (float[1, 4] u, float[1, 4] v) {
          u = Identity (x) v = Relu (x) }> }"""
    model = imported(write(tmp_path, text))
    assert "If" not in operators(model)


NESTED = """cond = Greater (c, z)
  y = If (cond) <
    then_branch = one () => (float[] t) {{
      s = Shape (x) i = Constant <value = int64[1] {{1}}> () n = Gather (s, i)
      k = Constant <value = int64[1] {{{length}}}> () e = Equal (n, k)
      q = If (e) <then_branch = three () => (float[] q1) {{ q1 = Squeeze (x, axis) }},
                  else_branch = four () => (float[] q2) {{ q2 = Identity (x) }}>
      u = Unsqueeze (q, zero) t = Relu (u) }},
    else_branch = two () => (float[] v) {{ {other} v = Neg (w) }}>"""
NESTED_ARRAYS = {
    "z": np.array(-1000, np.float32),
    "axis": np.array([1], np.int64),
    "zero": np.array([0], np.int64),
    "weight": np.zeros((1, 9, 4), np.float32),
    "recurrent": np.zeros((1, 9, 3), np.float32),
}


def nested(folder: Path, other: str, *, length: int) -> Path:
    body = NESTED.format(other=other, length=length)
    text = f"net (float[N, L, 4] x, float c) => (float[] y) {{ {body} }}"
    used = {name: array for name, array in NESTED_ARRAYS.items() if re.search(rf"\b{name}\b", text)}
    return write(folder, text, used)


@pytest.mark.parametrize("length", [1, 2])
def test_an_if_in_a_branch_is_decided_by_the_shape_and_the_outer_one_stays(
    tmp_path: Path, length: int
) -> None:
    model = imported(nested(tmp_path, "w = Relu (x)", length=length), {"x": [1, 1, 4]})
    assert operators(model) == ["Greater", "If"]
    branch = model.graph[1].attributes["then_branch"].as_graph()
    inner_operators = [node.op_type for node in branch]
    assert "If" not in inner_operators
    assert ("Squeeze" in inner_operators) == (length == 1)


def test_a_branch_that_no_input_of_the_shape_can_take_leaves_the_other(tmp_path: Path) -> None:
    other = """so = Shape (x) io = Constant <value = int64[1] {1}> () no = Gather (so, io)
      ko = Constant <value = int64[1] {7}> () eo = Equal (no, ko)
      p = If (eo) <then_branch = five () => (float[] p1) { p1 = Squeeze (x, axis) },
                   else_branch = six () => (float[] p2) { p2 = Identity (x) }>
      o = Unsqueeze (p, zero) w = GRU <hidden_size = 3> (o, weight, recurrent)"""
    model = imported(nested(tmp_path, other, length=1), {"x": [1, 1, 4]})
    assert "If" not in operators(model)
    assert [value.name for value in model.graph.inputs] == ["x", "c"]


def test_bodies_stay_as_they_are(tmp_path: Path) -> None:
    text = """net (float[1, 4] x) => (float[1, 4] y) {
      n = Constant <value = int64 {3}> () yes = Constant <value = bool {1}> ()
      y = Loop (n, yes, x) <body = again (int64 i, bool go, float[1, 4] a) => (bool on, float[1, 4] b) {
        k = Constant <value = float {0.5}> () d = Dropout (a) m = Mul (d, k) unused = Neg (m)
        on = Identity (go) b = Identity (m) }> }"""
    model = imported(write(tmp_path, text))
    (loop,) = (node for node in model.graph if node.op_type == "Loop")
    body = loop.attributes["body"].as_graph()
    expected = ["Constant", "Dropout", "Mul", "Neg", "Identity", "Identity"]
    assert [node.op_type for node in body] == expected
    assert not body.initializers


# ---- constants and functions of exporters


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_constants_that_are_cast_to_float32_are_folded(tmp_path: Path, dtype: type) -> None:
    text = """net (float[1, 3, 4, 4] x) => (float[1, 4, 4, 4] y) {
      m = Cast <to = 1> (mean) s = Cast <to = 1> (deviation)
      a = Sub (x, m) b = Div (a, s) y = Conv (b, w) }"""
    arrays = {
        "mean": weight(1, 3, 1, 1, dtype=dtype),
        "deviation": np.array(0.25, dtype),
        "w": weight(4, 3, 1, 1),
    }
    model = imported(write(tmp_path, text, arrays))
    assert "Cast" not in operators(model)


def test_sparse_weights_are_dense_ones_also_in_constants_and_branches(tmp_path: Path) -> None:
    text = """net (float[1, 4] x) => (float[1, 6] y) {
      a = MatMul (x, w) m = ReduceMean <keepdims = 0> (x) cond = Greater (m, zero) k = Constant <value = float {1.0}> ()
      y = If (cond) <then_branch = one () => (float[1, 6] t) { t = Mul (a, v) },
                     else_branch = two () => (float[1, 6] u) { u = Mul (a, k) }> }"""
    path = write(tmp_path, text, {"zero": np.array(0, np.float32)})
    network = onnx.load(path)
    flat = [int(index) for index in np.flatnonzero(np.arange(24) % 5 == 1)]
    numbers = weight(len(flat))
    sparse = onnx.helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(numbers, "w"),
        onnx.numpy_helper.from_array(np.array(flat, np.int64), "w_indices"),
        [4, 6],
    )
    network.graph.sparse_initializer.append(sparse)
    pairs = np.array([[0, 2], [0, 5]], np.int64)
    branch = network.graph.node[-1].attribute[0].g
    branch.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(
            onnx.numpy_helper.from_array(weight(2), "v"),
            onnx.numpy_helper.from_array(pairs, "v_indices"),
            [1, 6],
        )
    )
    onnx.save(network, path)
    imported(path)


def test_weights_that_are_no_inputs_are_weights_in_the_oldest_files_too(tmp_path: Path) -> None:
    text = "net (float[1, 4] x) => (float[] y) { a = Gemm (x, w, b) y = Relu (a) }"
    arrays = {"w": weight(4, 6), "b": weight(6)}
    imported(write(tmp_path, text, arrays, opset=8, ir=3))


def test_an_output_of_maps_is_named(tmp_path: Path) -> None:
    text = """net (float[1, 3] x) => (float[1, 3] y, seq(map(int64, float)) z) {
      y = Relu (x) z = ai.onnx.ml.ZipMap <classlabels_int64s = [1, 5, 9]> (y) }"""
    header = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> '
    path = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(header + text), path)
    with pytest.raises(StageError, match="output 'z' gives maps, as of the operator ZipMap; "):
        onnx_file(path=path)


def test_a_fixed_batch_that_shapes_replaces_is_open_in_what_import_is_held_against(
    tmp_path: Path,
) -> None:
    text = "net (float[4, 3] x) => (float[4, 5] y) { y = MatMul (x, w) }"
    path = write(tmp_path, text, {"w": weight(3, 5)})
    model = onnx_file(path=path, shapes={"x": [1, 3]})
    content = given_content(model)
    assert content is not None
    feeds = noise(model)
    (expected,) = outputs(content, feeds).values()
    np.testing.assert_allclose(
        expected,
        feeds["x"] @ onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]),
        rtol=1e-5,
    )
    assert expected.shape == (1, 5)


def test_an_output_that_is_an_input_stays_it_when_activations_are_quantized(tmp_path: Path) -> None:
    text = "net (float[1, 3, 4, 4] x) => (float[1, 4, 4, 4] y, float[1, 3, 4, 4] x) { y = Conv (x, w) }"
    model = imported(write(tmp_path, text, {"w": weight(4, 3, 1, 1)}))
    before = interface_of(model)
    feeds = noise(model)
    quantized = symmetric(model, statistics_of(model, [feeds["x"]]))
    assert interface_of(quantized) == before
    assert "QuantizeLinear" in operators(quantized)
    after = outputs(ir.to_proto(quantized).SerializeToString(), feeds)
    assert (after["x"] == feeds["x"]).all()


# ---- other floating-point types

HALF_PRECISION = 2.0**-11  # half a unit in the last place of float16, relative
CONVOLUTION = """c = Conv <pads = [1, 1, 1, 1]> (x, w, b) n = BatchNormalization (c, scale, bias, mean, variance)
  r = Relu (n) p = GlobalAveragePool (r) f = Flatten (p)"""
PRODUCT = "c = Flatten (x) m1 = MatMul (c, flat) r = Add (m1, b) f = Relu (r)"  # ONNX Runtime has no Conv of doubles


class OtherFloat(NamedTuple):
    name: str
    number: int
    dtype: type
    layers: str  # from x to f
    tolerance: float


OTHER_FLOATS = [
    OtherFloat("float16", 10, np.float16, CONVOLUTION, 20 * HALF_PRECISION),
    OtherFloat("double", 11, np.float64, PRODUCT, 1e-4),
]
of_other_floats = pytest.mark.parametrize("other", OTHER_FLOATS, ids=lambda other: other.name)


def layer_arrays(dtype: type) -> dict[str, Array]:
    shapes = {
        "w": (4, 3, 3, 3), "b": (4,), "scale": (4,), "bias": (4,), "mean": (4,), "flat": (192, 4), "g": (4, 5)
    }  # fmt: skip
    arrays = {name: weight(*shape, dtype=dtype) for name, shape in shapes.items()}
    return {**arrays, "variance": np.ones(4, dtype)}


def other_floats(model: ir.Model) -> set[str]:
    """The names of all tensors that are computed or stored in another type than float32."""
    values = [*model.graph.initializers.values()]
    for node in model.graph:
        values += node.outputs
    floats = (ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    return {value.name or "" for value in values if value.dtype in floats}


@of_other_floats
def test_a_network_of_another_float_computes_in_float32_between_its_inputs_and_outputs(
    tmp_path: Path, other: OtherFloat
) -> None:
    text = f"""net ({other.name}[1, 3, 8, 8] x) => ({other.name}[1, 5] y) {{
      {other.layers} y = MatMul (f, g) }}"""
    path = write(tmp_path, text, layer_arrays(other.dtype))
    model = imported(path, tolerance=other.tolerance)
    assert interface_of(model) == interface_of(ir.load(path))
    assert other_floats(model) == {"y"}
    assert operators(model)[0] == operators(model)[-1] == "Cast"
    assert operators(model).count("Cast") == 2
    assert "BatchNormalization" not in operators(model)


@of_other_floats
def test_outputs_of_another_float_keep_names_order_and_types(
    tmp_path: Path, other: OtherFloat
) -> None:
    text = f"""net ({other.name}[1, 3, 8, 8] x) => ({other.name}[1, 4] f, {other.name}[1, 4] z,
      {other.name}[1, 3, 8, 8] x2, {other.name}[4, 5] g, float[1, 5] y, int64[1] k) {{
      {other.layers} z = Identity (f) x2 = Identity (x) m = MatMul (f, g) y = Cast <to = 1> (m)
      k = ArgMax <axis = 1, keepdims = 0> (f) }}"""
    path = write(tmp_path, text, layer_arrays(other.dtype))
    model = imported(path, tolerance=other.tolerance)
    assert interface_of(model) == interface_of(ir.load(path))


@of_other_floats
def test_what_is_of_another_float_inside_is_float32(tmp_path: Path, other: OtherFloat) -> None:
    text = f"""net (float[1, 4] x) => (float[1, 4] y, float[1, 4] e) {{
      d = Cast <to = {other.number}> (x) s = Mul (d, w) m = Max (s, half) l = CastLike (x, m)
      t = Add (m, l) y = Cast <to = 1> (t)
      b = Greater (x, zero) h = Cast <to = {other.number}> (b) e = Cast <to = 1> (h) }}"""
    arrays = {
        "w": weight(4, dtype=other.dtype), "half": np.array(0.5, other.dtype), "zero": np.array(0, np.float32)
    }  # fmt: skip
    model = imported(write(tmp_path, text, arrays), tolerance=other.tolerance)
    assert not other_floats(model)
    assert operators(model).count("Cast") == 1, "of booleans"


@of_other_floats
def test_branches_and_bodies_of_another_float_compute_in_float32(
    tmp_path: Path, other: OtherFloat
) -> None:
    vector = f"{other.name}[1, 4]"
    text = f"""net ({vector} x) => ({vector} y, {other.name}[3, 1, 4] all) {{
      n = Constant <value = int64 {{3}}> () yes = Constant <value = bool {{1}}> ()
      a = MatMul (x, w)
      l, all = Loop (n, yes, a) <body = again (int64 i, bool go, {vector} a1) => (bool on, {vector} b1, {vector} c1) {{
        k = Constant <value = float {{0.5}}> () k1 = Cast <to = {other.number}> (k) m = Mul (a1, k1)
        v = MatMul (m, w) on = Identity (go) b1 = Relu (v) c1 = Identity (m) }}>
      sum = ReduceSum <keepdims = 0> (l) wide = Cast <to = 1> (sum) cond = Greater (wide, zero)
      y = If (cond) <then_branch = one () => ({vector} t) {{ t = Relu (l) }},
                     else_branch = two () => ({vector} u) {{ u = Neg (l) }}> }}"""
    arrays = {"w": weight(4, 4, dtype=other.dtype), "zero": np.array(0, np.float32)}
    model = imported(write(tmp_path, text, arrays), tolerance=other.tolerance)
    assert other_floats(model) == {"y", "all"}


def test_functions_in_functions_of_an_old_opset_are_inlined(tmp_path: Path) -> None:
    text = """net (float[1, 3, 6, 6] x) => (float[1, 4] y) {
      c = own.Layer (x, w1, b1) d = own.Block (c, w2, b2)
      p = GlobalAveragePool (d) y = Flatten (p) }
    <domain: "own", opset_import: ["" : 15]>
    Layer (a, w, b) => (o) { z = Conv <pads = [1, 1, 1, 1]> (a, w, b) o = Relu (z) }
    <domain: "own", opset_import: ["" : 15, "own" : 1]>
    Block (a, w, b) => (o) { z = own.Layer (a, w, b) o = Add (z, a) }"""
    arrays = {
        "w1": weight(4, 3, 3, 3),
        "b1": weight(4),
        "w2": weight(4, 4, 3, 3),
        "b2": weight(4),
    }
    model = imported(write(tmp_path, text, arrays, opset=15))
    assert operators(model).count("Conv") == 2


# ---- old opsets

OLD = "net (float[1, 2, 6, 6] x) => (float[1, 2, h, v] y) "


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factors", [(2, 2), (1.5, 1.5), (0.5, 0.5), (2.5, 1), (0.7, 0.7)])
@pytest.mark.parametrize("opset", [9, 10])
def test_resizing_of_old_opsets_keeps_its_coordinates(
    tmp_path: Path, mode: str, factors: tuple[float, float], opset: int
) -> None:
    operator = "Upsample" if opset == 9 else "Resize"
    if opset == 9 and min(factors) < 1:
        pytest.skip("Upsample only enlarges")
    scales = np.array([1, 1, *factors], np.float32)
    text = f'{OLD} {{ y = {operator} <mode = "{mode}"> (x, scales) }}'
    imported(write(tmp_path, text, {"scales": scales}, opset=opset, ir=4))


def test_weights_that_are_inputs_as_well_are_weights(tmp_path: Path) -> None:
    text = """net (float[1, 2, 6, 6] x, float[2] s, float[4] u) => (float[1, 2, 12, 12] y) {
      b = BatchNormalization (x, s, s, s, s) d = Dropout (b) y = Upsample <mode = "linear"> (d, u) }"""
    arrays = {"s": np.abs(weight(2)), "u": np.array([1, 1, 2, 2], np.float32)}
    imported(write(tmp_path, text, arrays, opset=9, ir=3))


def test_a_newer_opset_that_changes_an_output_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    text = f'{OLD} {{ y = Upsample <mode = "linear"> (x, scales) }}'
    path = write(tmp_path, text, {"scales": scales}, opset=9, ir=4)
    module = sys.modules[onnx_file.__module__]
    monkeypatch.setattr(module, "LAST_PLAIN_RESIZE_OPSET", 0)
    reason = "net.onnx: raising opset 9 to 17 changes output 'y': it differs by .*; export it with"
    with pytest.raises(StageError, match=reason):
        onnx_file(path=path)


# ---- constants behind a layer

LAYERS = {
    "Conv": ("c = Conv (x, w, b)", {"w": (6, 4, 1, 1), "b": (6,)}),
    "Conv without bias": ("c = Conv (x, w)", {"w": (6, 4, 1, 1)}),
    "groups": ("c = Conv <group = 2> (x, w)", {"w": (6, 2, 1, 1)}),
    "ConvTranspose": ("c = ConvTranspose (x, w, b)", {"w": (4, 6, 1, 1), "b": (6,)}),
    "grouped ConvTranspose": ("c = ConvTranspose <group = 2> (x, w)", {"w": (4, 3, 1, 1)}),
}
SHIFTS = {
    "a scalar": ((), ()),
    "one number": ((1,), (1,)),
    "channels": ((6, 1, 1), (6, 1, 1)),
    "channels with batch": ((1, 6, 1, 1), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("shapes", SHIFTS)
@pytest.mark.parametrize(
    "nodes",
    [
        "m = Mul (c, s) a = Add (m, o) y = Relu (a)",
        "m = Add (o, c) a = Mul (s, m) y = Relu (a)",
        "m = Div (c, s) a = Sub (m, o) y = Relu (a)",
        "m = BatchNormalization (c, n, n, n, n) y = Mul (m, s)",
        "m = Mul (c, s) y = BatchNormalization (m, n, n, n, n)",
    ],
)
def test_constants_that_scale_and_shift_channels_go_into_the_layer(
    tmp_path: Path, layer: str, shapes: str, nodes: str
) -> None:
    body, weights = LAYERS[layer]
    scale, offset = SHIFTS[shapes]
    arrays = {name: weight(*shape) for name, shape in weights.items()}
    arrays |= {"s": weight(*scale) + 2, "o": weight(*offset), "n": np.abs(weight(6))}
    text = f"net (float[1, 4, 5, 5] x) => (float[1, 6, 5, 5] y) {{ {body} {nodes} }}"
    arrays = {
        name: array for name, array in arrays.items() if f"({name}" in text or f", {name}" in text
    }
    model = imported(write(tmp_path, text, arrays))
    assert set(operators(model)) <= {"Conv", "ConvTranspose", "Relu"}


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 5), (1, 1, 6, 5, 5), (6, 5, 5), (1, 6, 5, 1)])
def test_constants_that_differ_within_a_channel_stay(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    text = """net (float[1, 4, 5, 5] x) => (float y) {
      c = Conv (x, w) m = Mul (c, s) y = Relu (m) }"""
    model = imported(write(tmp_path, text, {"w": weight(6, 4, 1, 1), "s": weight(*shape)}))
    assert "Mul" in operators(model)


def test_a_division_of_a_constant_and_a_layer_that_is_read_twice_stay(tmp_path: Path) -> None:
    text = """net (float[1, 4, 5, 5] x) => (float[1, 6, 5, 5] y, float[1, 6, 5, 5] z) {
      c = Conv (x, w) d = Sub (s, c) y = Relu (d)
      e = Conv (x, w) m = Mul (e, s) n = Relu (e) z = Add (m, n) }"""
    model = imported(write(tmp_path, text, {"w": weight(6, 4, 1, 1), "s": weight(6, 1, 1)}))
    assert {"Sub", "Mul"} <= set(operators(model))


@pytest.mark.parametrize("transposed", [0, 1])
def test_constants_behind_gemm_go_into_it(tmp_path: Path, transposed: int) -> None:
    text = f"""net (float[1, 4] x) => (float[1, 6] y) {{
      c = Gemm <transB = {transposed}> (x, w) m = Mul (c, s) a = Add (m, o) y = Relu (a) }}"""
    arrays = {"w": weight(6, 4) if transposed else weight(4, 6), "s": weight(6), "o": weight(1, 6)}
    model = imported(write(tmp_path, text, arrays))
    assert operators(model) == ["Gemm", "Relu"]

"""Files as exporters leave them: int8 is as near to the file's outputs as the runtime's own quantizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from processors import EXACT, session
from qpipe.quant.coverage import coverage
from qpipe.samples.store import Samples
from qpipe.types import Array, Platform, Preprocessing, Sample
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.compile.onnxruntime import onnxruntime as compiled
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from qpipe_plugins.quantize.symmetric import symmetric
from small_build import nothing

Arrays = dict[str, Array]
PICTURE = "float[1, 3, 12, 12] picture"
POOLED = "pooled = GlobalAveragePool (active) flat = Flatten (pooled)"
FEATURES = f"first = Conv <pads = [1, 1, 1, 1]> (picture, w1, b1) active = Relu (first) {POOLED}"
# weights are initializers by their names, of these shapes
WEIGHTS = {
    "w1": (12, 3, 3, 3), "b1": (12,), "w2": (12, 12, 3, 3), "b2": (12,), "w3": (12, 6), "point": (12, 12, 1, 1),
    "shift": (1, 12, 1, 1), "v1": (6, 20), "c1": (20,), "v2": (20, 7), "c2": (7,),
    "lw": (1, 32, 6), "lr": (1, 32, 8), "lb": (1, 64), "lo": (8, 3), "table": (900, 6),
}  # fmt: skip
NUMBERS = {
    "zero": np.array([0]),
    "ones": np.array([1, 1]),
    "full": np.ones(12, np.float32),
    "full_too": np.ones(12, np.float32),
    "mean": np.array([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1),
    "deviation": np.array(0.3),
    "factor": np.float32([1.4]),
    "offset": np.float32([0.1]),
    "twice": np.float32([1, 1, 2, 2]),
    "rate16k": np.array(16000),
    "none": np.float32(0),
    "keep": np.float32(0),
    "training": np.array(True),
}


class Export(NamedTuple):
    inputs: str
    outputs: str
    body: str
    opset: int = 17
    functions: str = ""
    shapes: dict[str, list[int | str]] | None = None


RECURRENT = """old_h, old_c = Split <axis = 0> (state, ones)
  sequence = Unsqueeze (part, zero)
  all, h, c = LSTM <hidden_size = 8> (sequence, lw, lr, lb, , old_h, old_c)
  new_state = Concat <axis = 0> (h, c) last = Squeeze (h, zero) score = MatMul (last, lo)"""
EXPORTS = {
    "a branch gives an outer tensor": Export(
        "float[1, 6] x",
        "float[1, 7] y",
        """hidden = Gemm (x, v1, c1) middle = ReduceMean <keepdims = 0> (hidden)
        is_positive = Greater (middle, none)
        chosen = If (is_positive) <then_branch = one () => (float[1, 20] t) { t = Relu (hidden) },
                                   else_branch = two () => (float[1, 20] e) { e = Identity (hidden) }>
        y = Gemm (chosen, v2, c2)""",
    ),
    "products of three and of two axes": Export(
        "float[N, 5, 6] x",
        "float[N, 7] y",
        """a = MatMul (x, v1) b = Add (a, c1) r = Relu (b) m = ReduceMean <axes = [1], keepdims = 0> (r)
        c = MatMul (m, v2) y = Add (c, c2)""",
    ),
    "one tensor as two outputs": Export(
        PICTURE,
        "float[1, 6] y, float[1, 6] copy",
        f"{FEATURES} y = MatMul (flat, w3) copy = Identity (y)",
    ),
    "a weight as an output": Export(
        PICTURE,
        "float[1, 6] y, float[12, 12, 1, 1] point",
        f"""before = Conv <pads = [1, 1, 1, 1]> (picture, w1, b1) kept = Relu (before)
        second = Conv (kept, point) active = Relu (second) {POOLED} y = MatMul (flat, w3)""",
    ),
    "doubles that are cast": Export(
        PICTURE,
        "float[1, 6] y",
        f"""less = Cast <to = 1> (mean) by = Cast <to = 1> (deviation)
        centred = Sub (picture, less) scaled = Div (centred, by)
        first = Conv (scaled, w1, b1) active = Relu (first) {POOLED} y = MatMul (flat, w3)""",
    ),
    "functions in functions": Export(
        PICTURE,
        "float[1, 6] y",
        f"start = own.Layer (picture, w1, b1) active = own.Block (start, w2, b2) {POOLED} y = MatMul (flat, w3)",
        opset=15,
        functions="""<domain: "own", opset_import: ["" : 15]>
        Layer (a, w, b) => (o) { z = Conv <pads = [1, 1, 1, 1]> (a, w, b) o = Relu (z) }
        <domain: "own", opset_import: ["" : 15, "own" : 1]>
        Block (a, w, b) => (o) { z = own.Layer (a, w, b) o = Add (z, a) }""",
    ),
    "in training": Export(
        PICTURE,
        "float[1, 6] y",
        f"""first = Conv (picture, w1)
        normal, mean1, variance1 = BatchNormalization <training_mode = 1> (first, full, b1, b2, full_too)
        positive = Relu (normal) active, mask = Dropout (positive, keep, training) {POOLED} y = MatMul (flat, w3)""",
        opset=15,
    ),
    "enlarged by an old opset": Export(
        PICTURE,
        "float[1, 12, 24, 24] y",
        """first = Conv (picture, w1, b1) active = Relu (first)
        coarse = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (active)
        near = Upsample <mode = "nearest"> (coarse, twice) second = Conv <pads = [2, 2, 2, 2]> (near, w2, b2)
        positive = Relu (second) wide = Upsample <mode = "linear"> (positive, twice) y = Conv (wide, point)""",
        opset=9,
    ),
    "a state with its batch on axis 1": Export(
        "float[N, 6] part, float[2, N, 8] state",
        "float[N, 3] score, float[2, N, 8] new_state",
        RECURRENT,
        shapes={"part": [1, 6], "state": [2, 1, 8]},
    ),
    "a state and a rate without axes": Export(
        "float[1, 6] part, float[2, 1, 8] state, int64 rate",
        "float[1, 3] share, float[2, 1, 8] new_state",
        f"""{RECURRENT} is_known = Equal (rate, rate16k) factor1 = Cast <to = 1> (is_known)
        scaled = Mul (score, factor1) share = Sigmoid (scaled)""",
        opset=15,
    ),
    "constants behind layers": Export(
        PICTURE,
        "float[1, 6] y",
        f"""first = Conv <pads = [1, 1, 1, 1]> (picture, w1, b1) larger = Mul (first, factor)
        moved = Add (larger, offset) kept = Relu (moved)
        second = Conv (kept, point) biased = Add (second, shift) active = Relu (biased)
        {POOLED} y = MatMul (flat, w3)""",
    ),
    "mostly a table": Export(
        "int64[N, 5] words",
        "float[N, 7] y",
        """x = Gather (table, words) a = MatMul (x, v1) b = Add (a, c1) r = Relu (b)
        c = MatMul (r, v2) d = Add (c, c2) y = ReduceMean <axes = [1], keepdims = 0> (d)""",
    ),
}


def write(export: Export, folder: Path) -> Path:
    header = f'<ir_version: 8, opset_import: ["" : {export.opset}, "own" : 1]> '
    text = f"{header} net ({export.inputs}) => ({export.outputs}) {{ {export.body} }}"
    model = onnx.parser.parse_model(text + export.functions)
    random = np.random.default_rng(6)
    arrays = {
        name: random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        for name, shape in WEIGHTS.items()
    }
    for name, array in {**arrays, **NUMBERS}.items():
        if re.search(rf"\b{name}\b", text):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def draw(model: ir.Model, random: np.random.Generator) -> Arrays:
    feeds: Arrays = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.name is not None
        if value.name == "rate":
            feeds["rate"] = np.array(16000)
        elif value.dtype == ir.DataType.INT64:
            feeds[value.name] = random.integers(0, 900, value.shape.numpy())
        else:
            feeds[value.name] = random.normal(0, 1, value.shape.numpy()).astype(np.float32)
    return feeds


def outputs(session: onnxruntime.InferenceSession, rows: list[Arrays]) -> list[Arrays]:
    names = [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(None, row), strict=True)) for row in rows]


def sqnr_db(expected: list[Arrays], answers: list[Arrays]) -> float:
    """The SQNR over all outputs, which have the same names, order and shapes."""
    signal = 0.0
    noise = 0.0
    for right, answer in zip(expected, answers, strict=True):
        assert list(answer) == list(right)
        for name, array in right.items():
            assert answer[name].shape == array.shape
            signal += float(np.sum(np.square(array, dtype=np.float64)))
            noise += float(np.sum(np.square(answer[name].astype(np.float64) - array)))
    return float(10 * np.log10(signal / max(noise, 1e-30)))


def write_samples(rows: list[Arrays], folder: Path) -> Samples:
    how = {name: Preprocessing(dtype=array.dtype.name) for name, array in rows[0].items()}
    stream = (Sample(str(number), row) for number, row in enumerate(rows))
    return Samples.write(folder, stream, how)


def schemes(model: ir.Model, calibration: Samples) -> dict[str, ir.Model]:
    proto = ir.to_proto(model)
    statistics = histogram(model, calibration, nothing)
    return {
        "float": model,
        "int8": symmetric(ir.from_proto(proto), statistics, EXACT.target),
        "static": onnxruntime_static(ir.from_proto(proto), calibration),
    }


@pytest.mark.parametrize("case", EXPORTS)
def test_float_is_the_file_and_int8_is_as_good_and_small_as_the_runtimes_quantizer_makes_it(
    case: str, tmp_path: Path
) -> None:
    export = EXPORTS[case]
    path = write(export, tmp_path)
    model = onnx_file(path=path, shapes=export.shapes)
    random = np.random.default_rng(8)
    rows = [draw(model, random) for _ in range(48)]
    evaluation = rows[32:]
    stock = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = outputs(stock, evaluation)
    quality: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for name, network in schemes(model, write_samples(rows[:32], tmp_path / "samples")).items():
        build = compiled(network, Platform(), tmp_path / name).folder / "model.onnx"
        sizes[name] = build.stat().st_size
        quality[name] = sqnr_db(expected, outputs(session(onnx.load(build), EXACT), evaluation))
    assert quality["float"] > 100
    assert quality["int8"] > max(25, quality["static"] - 1)
    assert sizes["int8"] < 1.05 * sizes["static"]


def test_constants_behind_layers_are_part_of_them_and_all_nodes_run_on_integers(
    tmp_path: Path,
) -> None:
    model = onnx_file(path=write(EXPORTS["constants behind layers"], tmp_path))
    by_hand = ["Conv", "Relu", "Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul"]
    assert [node.op_type for node in model.graph] == by_hand
    covered = coverage(model)
    assert not covered.float_nodes
    assert covered.integer_work.products > 0

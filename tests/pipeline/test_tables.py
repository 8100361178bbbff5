"""Tables that Gather looks up, such as word embeddings: 8 bits in the file and on integer kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from processors import Arithmetic, both_kinds, session
from qpipe.quant.coverage import coverage
from qpipe.quant.statistics import Statistics, gather
from qpipe.types import Platform
from qpipe_plugins.compile.onnxruntime import onnxruntime
from qpipe_plugins.quantize.symmetric import symmetric

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[1, 6] words) => (float[1, 6, 12] y)
{
  rows = Gather (table, words)
  hidden = MatMul (rows, hidden_w)
  cut = Relu (hidden)
  y = MatMul (cut, last_w)
}
"""
NORMALIZED = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[1, 6] words) => (float[1, 6, 12] y)
{
  rows = Gather (table, words)
  normal = LayerNormalization <axis = -1> (rows, gain)
  y = MatMul (normal, last_w)
}
"""
WORDS = 500
SHAPES = {"table": (WORDS, 32), "hidden_w": (32, 24), "last_w": (24, 12)}
RANDOM = np.random.default_rng(4)
ARRAYS = {name: RANDOM.normal(0, 0.5, shape).astype(np.float32) for name, shape in SHAPES.items()}
FEEDS = [{"words": RANDOM.integers(0, WORDS, (1, 6))} for _ in range(8)]


def net(text: str = NET, **arrays: np.ndarray) -> ir.Model:
    replaced = {**ARRAYS, **arrays}
    tensors = [ir.tensor(array, name=name) for name, array in replaced.items() if name in text]
    model = ir.to_proto(ir.from_onnx_text(text, initializers=tensors))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def outputs(model: onnx.ModelProto, kind: Arithmetic, *, optimize: bool = True) -> np.ndarray:
    running = session(model, kind, optimize=optimize)
    return np.stack([running.run(None, feeds)[0] for feeds in FEEDS])


def statistics_of(model: ir.Model) -> Statistics:
    """The statistics of all float tensors, from the ONNX reference on the float network."""
    proto = ir.to_proto(model)
    names = [name for node in proto.graph.node for name in node.output]
    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    running = ReferenceEvaluator(proto)
    results = [running.run(None, feeds) for feeds in FEEDS]
    return Statistics(
        gather(name, [result[at] for result in results]) for at, name in enumerate(names)
    )


def table_constants(proto: onnx.ModelProto) -> dict[int, np.ndarray]:
    """The constants as large as the table, by their type."""
    return {
        tensor.data_type: onnx.numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if tuple(tensor.dims) == SHAPES["table"]
    }


def quantized_table() -> tuple[np.ndarray, np.float32, int]:
    """Codes, scale and zero point by numpy: 256 levels from the table's lowest to its highest value."""
    low, high = ARRAYS["table"].min(), ARRAYS["table"].max()
    scale = np.float32((float(high) - float(low)) / 255)
    zero_point = int(np.rint(-low / scale))
    codes = np.clip(np.rint(ARRAYS["table"] / scale) + zero_point, 0, 255).astype(np.uint8)
    return codes, scale, zero_point


@both_kinds
@pytest.mark.parametrize(("arch", "dtype"), [("x86_64", "UINT8"), ("aarch64", "INT8")])
def test_a_table_has_8_bits_in_the_file_and_its_rows_go_to_integer_kernels(
    arch: str, dtype: str, kind: Arithmetic, tmp_path: Path
) -> None:
    model = symmetric(net(), statistics_of(net()), kind.target)
    build = onnxruntime(model, Platform(arch=arch), tmp_path / "build")
    proto = onnx.load(build.folder / "model.onnx")
    codes, _, _ = quantized_table()
    constants = table_constants(proto)
    assert list(constants) == [onnx.TensorProto.DataType.Value(dtype)]
    shift = 0 if dtype == "UINT8" else 128
    stored = next(iter(constants.values())).astype(np.int16) + shift
    assert np.abs(stored - codes.astype(np.int16)).max() <= 1, "but for rounding at the edge"
    path = tmp_path / "optimized.onnx"
    entries = {"session.qdqisint8allowed": "1"} if arch == "aarch64" else None
    session(proto, kind, optimized_path=path, entries=entries)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators[0] == "Gather"
    assert "DequantizeLinear" not in operators[: operators.index("QLinearMatMul")]


@both_kinds
def test_outputs_are_those_of_the_rounded_table(kind: Arithmetic, tmp_path: Path) -> None:
    codes, scale, zero_point = quantized_table()
    rounded = ((codes.astype(np.int32) - zero_point) * scale).astype(np.float32)
    expected = symmetric(net(table=rounded), statistics_of(net()), kind.target)
    build = onnxruntime(symmetric(net(), statistics_of(net()), kind.target), Platform(), tmp_path)
    found = outputs(onnx.load(build.folder / "model.onnx"), kind)
    exact = outputs(ir.to_proto(expected), kind, optimize=False)
    step = np.ptp(exact) / 255
    assert np.abs(found - exact).max() <= 3 * step


@both_kinds
def test_a_table_before_a_float_operator_is_rounded_once(kind: Arithmetic, tmp_path: Path) -> None:
    codes, scale, zero_point = quantized_table()
    rounded = ((codes.astype(np.int32) - zero_point) * scale).astype(np.float32)
    arrays = {"gain": np.ones(32, np.float32), "last_w": RANDOM.normal(0, 0.3, (32, 12))}
    arrays["last_w"] = arrays["last_w"].astype(np.float32)
    model = net(NORMALIZED, **arrays)
    quantized = symmetric(model, statistics_of(net(NORMALIZED, **arrays)), kind.target)
    build = onnxruntime(quantized, Platform(), tmp_path / "build")
    proto = onnx.load(build.folder / "model.onnx")
    assert list(table_constants(proto)) == [onnx.TensorProto.UINT8]
    float_rounded = outputs(ir.to_proto(net(NORMALIZED, table=rounded, **arrays)), kind)
    found = outputs(proto, kind)
    assert np.abs(found - float_rounded).max() < 0.05 * np.ptp(float_rounded)


def outlier() -> np.ndarray:
    """One value is so large that integers would tell the others not apart."""
    table = ARRAYS["table"].copy()
    table[3, 5] = -10000
    return table


@pytest.mark.parametrize("reason", ["excluded", "its levels", "infinite", "small"])
def test_a_table_stays_float_where_it_must(reason: str) -> None:
    table = {"its levels": outlier(), "infinite": np.where(outlier() < -9, -np.inf, 1)}.get(reason)
    model = net() if table is None else net(table=table.astype(np.float32))
    if reason == "small":
        model = net(table=ARRAYS["table"][:30])
    exclude = ("table",) if reason == "excluded" else ()
    statistics = statistics_of(net(table=ARRAYS["table"]))
    quantized = ir.to_proto(symmetric(model, statistics, exclude=exclude))
    kept = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    assert kept["table"] == onnx.TensorProto.FLOAT


def test_coverage_counts_the_lookup_before_and_after() -> None:
    model = net()
    assert coverage(model).integer["Gather"] == 1
    assert coverage(symmetric(model, statistics_of(net()))).integer["Gather"] == 1

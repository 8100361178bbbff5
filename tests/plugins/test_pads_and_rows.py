"""Pads with zeros become those of convolutions, and a Relu joins the Gemm before a Reshape: exactly, and on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qpipe.quant.coverage import coverage
from qpipe_plugins.models.onnx_file import onnx_file

RANDOM = np.random.default_rng(8)
NET = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[1, 3, 9, 9] x) => (float[1, 4, h, w] y)
  <int64[8] around = {0, 0, 1, 2, 0, 0, 3, 0}, int64[4] sides = {1, 2, 3, 0}, int64[2] axes = {-2, -1},
   int64[8] channels = {0, 1, 0, 0, 0, 0, 0, 0}, int64[8] cut = {0, 0, -1, 0, 0, 0, 0, 0}, float one = {1}, float zero = {0}>
{ padded = PAD y = Conv ATTRIBUTES (padded, WEIGHT) }
"""
FOLDED = [
    ("Pad (x, around)", ""),
    ("Pad (x, around, zero)", "<pads = [1, 1, 1, 1], strides = [2, 2]>"),
    ("Pad (x, sides, zero, axes)", '<auto_pad = "VALID">'),
]
KEPT = [
    ("Pad (x, around, one)", ""),
    ('Pad <mode = "reflect"> (x, around)', ""),
    ('Pad (x, around)', '<auto_pad = "SAME_UPPER">'),
    ("Pad (x, channels)", ""),
    ("Pad (x, cut)", ""),
]  # fmt: skip


def written(path: Path, text: str, weights: dict[str, np.ndarray]) -> Path:
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, path)
    return path


def outputs(network: bytes, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(network, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def check_exact(path: Path, model: ir.Model, shape: tuple[int, ...]) -> None:
    x = RANDOM.normal(size=shape).astype(np.float32)
    expected = outputs(path.read_bytes(), x)
    np.testing.assert_allclose(
        outputs(ir.to_proto(model).SerializeToString(), x), expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("pad", "attributes", "is_folded"),
    [(*case, True) for case in FOLDED] + [(*case, False) for case in KEPT],
)
def test_pads_of_zeros_are_those_of_the_convolution(
    pad: str, attributes: str, is_folded: bool, tmp_path: Path
) -> None:
    text = NET.replace("PAD", pad).replace("ATTRIBUTES", attributes).replace("WEIGHT", "weight")
    channels = 4 if "channels" in pad else 3
    weight = RANDOM.normal(size=(4, channels, 3, 3))
    path = written(tmp_path / "net.onnx", text, {"weight": weight})
    model = onnx_file(path=path)
    assert ("Pad" in [node.op_type for node in model.graph]) is not is_folded
    check_exact(path, model, (1, 3, 9, 9))


EQUATIONS = [
    ("bij, jk -> bik", (1, 6, 8), (8, 3), "MatMul"),
    ("bij,kj->bik", (1, 6, 8), (3, 8), "MatMul"),
    ("bhid,bhjd->bhij", (1, 2, 6, 8), (1, 2, 5, 8), "MatMul"),
    ("ij,jk->ik", (6, 8), (8, 3), "MatMul"),
    ("ij,jk->ki", (6, 8), (8, 3), "Einsum"),
    ("bij,bij->bi", (1, 6, 8), (1, 6, 8), "Einsum"),
    ("bij,bjk->bijk", (1, 6, 8), (1, 8, 3), "Einsum"),
    ("bij,cjk->bik", (1, 6, 8), (2, 8, 3), "Einsum"),
]


@pytest.mark.parametrize(("equation", "left", "right", "operator"), EQUATIONS)
@pytest.mark.parametrize("is_computed", [False, True])
def test_an_einsum_that_is_a_product_becomes_matmul(
    equation: str,
    left: tuple[int, ...],
    right: tuple[int, ...],
    operator: str,
    is_computed: bool,
    tmp_path: Path,
) -> None:
    """The right side is a constant, or computed of the left one."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[{", ".join(map(str, left))}] x) => (float[] y)
    {{ {"s = ReduceMax <keepdims = 0> (x) r = Mul (w, s)" if is_computed else "r = Identity (w)"}
       y = Einsum <equation = "{equation}"> (x, r) }}
    """
    path = written(tmp_path / "net.onnx", text, {"w": RANDOM.normal(size=right)})
    model = onnx_file(path=path)
    assert operator in [node.op_type for node in model.graph]
    check_exact(path, model, left)


def test_a_relu_is_computed_by_the_product_before_it(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 6, 8] x) => (float[1, 6, 4] y)
    { wide = MatMul (x, w) sum = Add (wide, b) active = Relu (sum) narrow = MatMul (active, v) y = Add (narrow, c) }
    """
    shapes = {"w": (8, 16), "b": (16,), "v": (16, 4), "c": (4,)}
    weights = {name: RANDOM.normal(size=shape) for name, shape in shapes.items()}
    path = written(tmp_path / "net.onnx", text, weights)
    model = onnx_file(path=path)
    operators = [node.op_type for node in model.graph]
    assert operators == ["Reshape", "Gemm", "Relu", "Gemm", "Reshape"]
    assert coverage(model).float_nodes == []
    check_exact(path, model, (1, 6, 8))

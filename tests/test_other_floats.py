"""A network that takes, computes and gives float16, from a first look to the file that is handed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from shell import Shell

RANDOM = np.random.default_rng(5)
RECIPE = """
samples: {npz: {calibration: data/calibration.npz, evaluation: data/evaluation.npz, dtype: {x: float16}}}
models: {net: {onnx: {path: net.onnx}}}
schemes: {int8: [symmetric]}
measure: [accuracy, size]
"""


def write_network(path: Path) -> None:
    """Two convolutions and a layer of scores, all of float16."""
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (8, 5)}
    weights = [
        numpy_helper.from_array(RANDOM.normal(0, 0.3, shape).astype(np.float16), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 5])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    for part in ("calibration", "evaluation"):
        arrays = RANDOM.normal(size=(16, 3, 12, 12)).astype(np.float32)
        np.savez(tmp_path / "data" / f"{part}.npz", x=arrays)
    return Shell(monkeypatch, capsys)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_it_is_quantized_and_handed_over_with_its_own_types(qpipe: Shell, tmp_path: Path) -> None:
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    qpipe("run recipe.yaml")
    rows = {row["scheme"]: row for row in qpipe.json("pareto")["rows"]}
    assert rows["int8"]["metrics"]["sqnr_db"]["value"] > 25
    for scheme, tolerance in (("float32", 0.01), ("int8", 0.05)):
        qpipe(f"export --device local --scheme {scheme} -o {scheme}")
        shipped = session(tmp_path / scheme / "model.onnx")
        (taken,) = shipped.get_inputs()
        assert (taken.name, taken.type) == ("x", "tensor(float16)")
        fed = {"x": np.load("data/evaluation.npz")["x"][:1].astype(np.float16)}
        (expected,) = session(tmp_path / "net.onnx").run(None, fed)
        (output,) = shipped.run(None, fed)
        assert output.dtype == np.float16
        largest = float(np.abs(expected).max())
        np.testing.assert_allclose(output, expected, atol=tolerance * largest, rtol=0)


def test_new_converts_arrays_to_what_the_network_takes(qpipe: Shell) -> None:
    qpipe("new net.onnx --samples npz:data")
    text = Path("recipe.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["samples"]["npz"]["dtype"] == {"x": "float16"}
    assert "arrays are converted to the types that the network takes" in text


def test_new_feeds_pictures_in_the_type_that_the_network_takes(
    qpipe: Shell, tmp_path: Path
) -> None:
    for part in ("calibration", "evaluation"):
        folder = tmp_path / "pictures" / part
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = RANDOM.integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{part}{number}.png")
    qpipe("new net.onnx --samples images:pictures")
    assert (
        yaml.safe_load(Path("recipe.yaml").read_text())["samples"]["images"]["dtype"] == "float16"
    )

"""A network that selects its detections itself: the number of rows differs by sample, and by scheme; nothing breaks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import yaml

from qpipe.compare.scoring import Scores
from qpipe.engine.float_reference import write_float_outputs
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.metric.agreement import agreement
from qpipe_plugins.metric.sqnr import sqnr
from qpipe_plugins.models.onnx_file import onnx_file
from shell import Shell

RANDOM = np.random.default_rng(21)
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 16, 16] image) => (float[n, 4] boxes, float[n, 1] scores, int64[n] labels, float[1, 5] kind) {
  features = Conv <kernel_shape = [4, 4], strides = [4, 4]> (image, w, b)
  active = Relu (features)
  raw = Conv <kernel_shape = [1, 1]> (active, wb)
  corners = Reshape (raw, four)
  rows = Transpose <perm = [0, 2, 1]> (corners)
  sizes = Abs (rows)
  all_boxes = CumSum (sizes, last)
  logits = Conv <kernel_shape = [1, 1]> (active, ws, bs)
  shares = Sigmoid (logits)
  table = Reshape (shares, two)
  selected = NonMaxSuppression (all_boxes, table, most, iou, least)
  index = Gather <axis = 1> (selected, column)
  labels = Gather <axis = 1> (selected, first)
  flat_boxes = Squeeze (all_boxes, zero)
  boxes = Gather <axis = 0> (flat_boxes, index)
  flat_table = Squeeze (table, zero)
  by_box = Transpose <perm = [1, 0]> (flat_table)
  chosen = Gather <axis = 0> (by_box, index)
  where = Unsqueeze (labels, first_axis)
  scores = GatherElements <axis = 1> (chosen, where)
  pooled = GlobalAveragePool (active)
  flat = Flatten (pooled)
  kind = Gemm (flat, wk)
}
"""
RECIPE = """
samples: {npz: {calibration: data/calibration.npz, evaluation: data/evaluation.npz}}
models: {net: {onnx: {path: net.onnx}}}
schemes: {int8: [symmetric]}
measure: [accuracy, size, {memory: {rounds: 1}}]
"""


def write_network(path: Path) -> None:
    model = onnx.parser.parse_model(NETWORK)
    arrays = {
        "w": RANDOM.normal(0, 0.3, (8, 3, 4, 4)).astype(np.float32),
        "b": RANDOM.normal(0, 0.3, 8).astype(np.float32),
        "wb": RANDOM.normal(0, 0.5, (4, 8, 1, 1)).astype(np.float32),
        "ws": RANDOM.normal(0, 1, (2, 8, 1, 1)).astype(np.float32),
        "bs": np.float32([-1.5, -1.5]),
        "wk": RANDOM.normal(0, 0.5, (8, 5)).astype(np.float32),
        "four": np.array([1, 4, -1]),
        "two": np.array([1, 2, -1]),
        "last": np.array(2),
        "most": np.array([9]),
        "iou": np.float32([0.5]),
        "least": np.float32([0.5]),
        "column": np.array(2),
        "first": np.array(1),
        "zero": np.array([0]),
        "first_axis": np.array([1]),
    }
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.save(model, path)


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    for part in ("calibration", "evaluation"):
        images = RANDOM.normal(size=(12, 3, 16, 16)).astype(np.float32)
        np.savez(tmp_path / "data" / f"{part}.npz", image=images)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    device = {"local": {"local": {"lock": str(tmp_path / "lock"), "folder": str(tmp_path / "d")}}}
    (tmp_path / "devices.yaml").write_text(json.dumps(device), encoding="utf-8")
    return Shell(monkeypatch, capsys)


def test_the_float_reference_holds_the_rows_of_each_sample(qpipe: Shell, tmp_path: Path) -> None:
    images = np.load(tmp_path / "data" / "evaluation.npz")["image"]
    rows = [Sample(str(number), {"image": image}) for number, image in enumerate(images)]
    samples = Samples.write(tmp_path / "s", rows, {"image": Preprocessing()})
    (tmp_path / "r").mkdir()
    model = onnx_file(path=tmp_path / "net.onnx")
    written = write_float_outputs(model, samples, tmp_path / "r", lambda *_: None)
    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    counts = set()
    for image, outputs in zip(images, written, strict=True):
        boxes, scores, labels, kind = session.run(None, {"image": image[None]})
        counts.add(len(boxes))
        np.testing.assert_allclose(outputs["boxes"], boxes, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs["scores"], scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(outputs["labels"], labels)
        np.testing.assert_allclose(outputs["kind"], kind, rtol=1e-4, atol=1e-4)
    assert len(counts) > 2


def test_it_is_run_shown_and_diagnosed(qpipe: Shell) -> None:
    qpipe("run recipe.yaml")
    rows = {row["scheme"]: row for row in qpipe.json("pareto")["rows"]}
    assert rows["float32"]["metrics"]["agreement"]["value"] == 1.0
    assert 0 < rows["int8"]["metrics"]["agreement"]["value"] <= 1.0
    assert rows["int8"]["metrics"]["memory_mb"]["value"] > 0
    qpipe("samples recipe.yaml --count 9")
    out, _ = qpipe("diagnose recipe.yaml --scheme int8 --count 4")
    assert "original" in out
    qpipe("new net.onnx --samples npz:data --out new.yaml")
    written = yaml.safe_load(Path("new.yaml").read_text(encoding="utf-8"))
    assert "agreement" in written["pareto"], "rows that differ in number have no SQNR"


def outputs(count: int, kind: list[float]) -> dict[str, np.ndarray]:
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    return {"boxes": boxes, "kind": np.float32([kind])}


def test_sqnr_compares_the_outputs_that_it_can_and_names_the_others() -> None:
    scores = Scores([sqnr()])
    scores.add(Sample("a", {}), outputs(2, [1.0, 2.0]), outputs(2, [1.0, 2.1]))
    scores.add(Sample("b", {}), outputs(1, [3.0, 0.0]), outputs(2, [3.2, 0.0]))
    (measurement,) = scores.measurements()
    signal = 1.0 + 2.1**2 + 3.2**2
    noise = 0.1**2 + 0.2**2
    assert measurement.value == pytest.approx(10 * np.log10(signal / noise), rel=1e-5)
    assert measurement.detail["not_compared"] == {
        "boxes": "is [1, 4], that of float [2, 4] (sample 'b')"
    }


def test_agreement_compares_the_outputs_that_have_an_answer_and_names_the_others() -> None:
    state = np.ones((2, 1, 8), np.float32)
    scores = Scores([], usual=[agreement()])
    right = {"y": np.float32([[0.1, 0.9]]), "hn": state}
    wrong = {"y": np.float32([[0.9, 0.1]]), "hn": state}
    scores.add(Sample("a", {}), right, right)
    scores.add(Sample("b", {}), wrong, right)
    (measurement,) = scores.measurements()
    assert measurement.value == 0.5
    assert measurement.detail["not_compared"] == {
        "hn": "which axis of [2, 1, 8] is that of the classes? (sample 'a')"
    }


def test_a_usual_metric_without_any_output_to_compare_is_left_out() -> None:
    scores = Scores([], usual=[sqnr()])
    one = {"a": np.zeros((1, 2)), "b": np.ones((1, 3))}
    scores.add(Sample("a", {}), {**one, "a": np.zeros((2, 2))}, one)
    scores.add(Sample("b", {}), {**one, "b": np.zeros((2, 3))}, one)
    assert scores.measurements() == []


def test_detections_with_an_axis_of_one_more_agree_by_their_boxes() -> None:
    one = {
        "boxes": np.float32([[[0, 0, 2, 2], [4, 4, 6, 6]]]),
        "scores": np.float32([[0.9], [0.8]]),
        "labels": np.array([[1, 0]]),
    }
    fewer = {name: array[..., :1, :] for name, array in one.items()}
    fewer["labels"] = one["labels"][:, :1]
    contribution = agreement().contribution
    assert contribution(one, one) == 1.0
    assert contribution(fewer, one) == 0.5

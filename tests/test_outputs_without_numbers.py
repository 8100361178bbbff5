"""A network that also gives texts and a sequence: its numbers are scored, and nothing breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from shell import Shell

RANDOM = np.random.default_rng(8)
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 8, 8] image) => (string[1] label, seq(float[1, 5]) parts, float[1, 5] logits) {
  c = Conv (image, w) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p) logits = Gemm (f, v)
  best = ArgMax <axis = 1, keepdims = 0> (logits) label = Gather (names, best)
  parts = SequenceConstruct (logits, logits) }
"""
RECIPE = """
samples: {npz: {calibration: data/calibration.npz, evaluation: data/evaluation.npz}}
models: {net: {onnx: {path: net.onnx}}}
schemes: {int8: [symmetric]}
measure: [accuracy, size]
"""


@pytest.fixture
def qpipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    model = onnx.parser.parse_model(NETWORK)
    for name, shape in {"w": (8, 3, 3, 3), "v": (8, 5)}.items():
        array = RANDOM.normal(0, 0.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    names = [f"class {number}".encode() for number in range(5)]
    tensor = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [5], names)
    model.graph.initializer.append(tensor)
    onnx.save(model, "net.onnx")
    Path("data").mkdir()
    for part in ("calibration", "evaluation"):
        images = RANDOM.normal(size=(12, 3, 8, 8)).astype(np.float32)
        np.savez(f"data/{part}.npz", image=images)
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    device = {"local": {"local": {"lock": str(tmp_path / "lock"), "folder": str(tmp_path / "d")}}}
    Path("devices.yaml").write_text(json.dumps(device), encoding="utf-8")
    return Shell(monkeypatch, capsys)


def test_it_is_run_diagnosed_and_exported(qpipe: Shell) -> None:
    qpipe("run recipe.yaml")
    rows = {row["scheme"]: row["metrics"] for row in qpipe.json("pareto")["rows"]}
    assert rows["float32"]["agreement"]["value"] == 1.0
    assert rows["int8"]["sqnr_db"]["value"] > 20
    out, _ = qpipe("diagnose recipe.yaml --scheme int8 --count 4")
    assert "original" in out
    qpipe("export --device local --scheme int8 --out bundle")
    session = onnxruntime.InferenceSession("bundle/model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["label", "parts", "logits"]
    done = subprocess.run(
        [sys.executable, "bundle/example.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

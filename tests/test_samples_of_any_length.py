"""A network that leaves a length open, and samples that differ in it: calibrated, scored, timed, diagnosed, exported."""

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

from qpipe.engine.float_reference import write_float_outputs
from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.models.onnx_file import onnx_file
from qpipe_plugins.quantize.onnxruntime_static import onnxruntime_static
from shell import Shell

LENGTHS = (9, 24, 17, 9, 30, 12)
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch, 4, time] sound) => (float[batch, half, 6] symbols, float[batch, 3] kind) {
  first = Conv <kernel_shape = [3], pads = [1, 1], strides = [2]> (sound, w, b)
  active = Relu (first)
  rows = Transpose <perm = [0, 2, 1]> (active)
  product = MatMul (rows, v)
  sum = Add (product, c)
  size = Shape <start = 1, end = 2> (rows)
  shape = Concat <axis = 0> (one, size, six)
  symbols = Reshape (sum, shape)
  pooled = GlobalAveragePool (active)
  flat = Flatten (pooled)
  kind = Gemm (flat, k)
}
"""
RECIPE = """
samples: {npz: {calibration: data/calibration, evaluation: data/evaluation}}
models: {net: {onnx: {path: net.onnx, shapes: {sound: [1, 4, time]}}}}
schemes: {int8: [{symmetric: {activation_range: mse}}, compensate]}
measure: [accuracy, {latency: {rounds: 2, values: 3, warmup_s: 0.01}}]
"""


def sounds(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(4, length)).astype(np.float32) for length in LENGTHS]


def stored(folder: Path) -> Samples:
    rows = [Sample(str(number), {"sound": sound}) for number, sound in enumerate(sounds(3))]
    return Samples.write(folder, rows, {"sound": Preprocessing()})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    random = np.random.default_rng(7)
    model = onnx.parser.parse_model(NETWORK)
    shapes = {"w": (8, 4, 3), "b": (8,), "v": (8, 6), "c": (6,), "k": (8, 3)}
    arrays = {name: random.normal(0, 0.4, shape) for name, shape in shapes.items()}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    for name, number in (("one", 1), ("six", 6)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), name))
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_import_leaves_a_named_size_open_and_computes_what_the_file_does(
    path: Path, tmp_path: Path
) -> None:
    model = onnx_file(path=path, shapes={"sound": [1, 4, "time"]})
    assert [str(size) for size in model.graph.inputs[0].shape or ()] == ["1", "4", "time"]
    (tmp_path / "outputs").mkdir()
    written = write_float_outputs(
        model, stored(tmp_path / "s"), tmp_path / "outputs", lambda *_: None
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for sound, outputs in zip(sounds(3), written, strict=True):
        symbols, kind = session.run(None, {"sound": sound[None]})
        np.testing.assert_allclose(outputs["symbols"], symbols, atol=1e-5)
        np.testing.assert_allclose(outputs["kind"], kind, atol=1e-5)


def test_calibration_sees_all_values_of_samples_of_all_lengths(path: Path, tmp_path: Path) -> None:
    model = onnx_file(path=path, shapes={"sound": [1, 4, "time"]})
    statistics = histogram(model, stored(tmp_path / "s"), lambda *_: None)
    values = np.concatenate([sound.reshape(-1) for sound in sounds(3)])
    assert statistics["sound"].count == values.size
    assert statistics["sound"].minimum == values.min()
    assert statistics["sound"].maximum == values.max()
    symbols = sum(6 * -(-length // 2) for length in LENGTHS)
    assert statistics["symbols"].count == symbols


@pytest.mark.parametrize("sizes", [[1, 4], [1, 4, 0], [1, 4, ""]])
def test_a_shape_of_no_sizes_and_names_is_refused(sizes: list[int | str], path: Path) -> None:
    line = "give 3 numbers from 1 up, or names of sizes that differ by sample"
    with pytest.raises(StageError, match=line):
        onnx_file(path=path, shapes={"sound": sizes})


def test_the_rival_calibrates_by_minmax_alone(path: Path, tmp_path: Path) -> None:
    model = onnx_file(path=path, shapes={"sound": [1, 4, "time"]})
    with pytest.raises(StageError, match="its method entropy takes samples of one size"):
        onnxruntime_static(model, stored(tmp_path / "s"), method="entropy")


def test_it_is_run_diagnosed_and_exported(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = path.parent
    monkeypatch.chdir(home)
    for seed, part in enumerate(("calibration", "evaluation")):
        (home / "data" / part).mkdir(parents=True)
        for number, sound in enumerate(sounds(seed)):
            np.savez(home / "data" / part / f"{number}.npz", sound=sound)
    (home / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    device = {"local": {"local": {"lock": str(home / "lock"), "folder": str(home / "d")}}}
    (home / "devices.yaml").write_text(json.dumps(device), encoding="utf-8")
    qpipe = Shell(monkeypatch, capsys)
    qpipe("run recipe.yaml")
    rows = {row["scheme"]: row["metrics"] for row in qpipe.json("pareto")["rows"]}
    assert rows["int8"]["sqnr_db"]["value"] > 25
    assert rows["int8"]["latency_ms"]["value"] > 0
    out, _ = qpipe("diagnose recipe.yaml --scheme int8")
    assert "Conv" in out
    qpipe("export --device local --scheme int8 --out bundle")
    example = subprocess.run(
        [sys.executable, "bundle/example.py"], capture_output=True, text=True, check=True
    )
    assert "symbols [1, 5, 6]: off by 0 %" in example.stdout
    assert "symbols [1, 12, 6]: off by 0 %" in example.stdout

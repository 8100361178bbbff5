"""A network whose outputs feed its states: everywhere it is run over sequences, as a loop over stock ONNX Runtime does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from qpipe.engine.exactness import check_exact
from qpipe.engine.float_reference import float_outputs
from qpipe.engine.sequences import write_chunks
from qpipe.errors import StageError
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.calibrate.histogram import histogram
from qpipe_plugins.models.onnx_file import onnx_file
from shell import Shell
from small_build import nothing

RANDOM = np.random.default_rng(33)
STATES = {"h": "hn"}
# the state grows from chunk to chunk, so that its range is not that of the first
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 6] x, float[1, 1, 4] h, int64 rate) => (float[1, 3] y, float[1, 1, 4] hn) {
  axis = Constant <value = int64[1] {0}> ()
  mixed = Gemm (x, wi)
  active = Relu (mixed)
  x3 = Unsqueeze (active, axis)
  decayed = Mul (h, keep)
  hn = Add (x3, decayed)
  flat = Squeeze (hn, axis)
  scores = Gemm (flat, wo, bo)
  factor = Cast <to = 1> (rate)
  y = Mul (scores, factor)
}
"""
RECIPE = """
samples: {npz: {calibration: data/calibration, evaluation: data/evaluation}}
models: {net: {onnx: {path: net.onnx, states: {h: hn}}}}
schemes: {int8: [symmetric], mixed: [equalize, {mixed: {bits: [8, 32], layers: 1}}, compensate]}
measure: [accuracy, size, {latency: {rounds: 1, budget_s: 2, warmup_s: 0.01}}]
"""

Arrays = dict[str, np.ndarray]


def write_network(path: Path) -> None:
    model = onnx.parser.parse_model(NETWORK)
    arrays = {
        "wi": RANDOM.normal(0, 0.5, (6, 4)),
        "wo": RANDOM.normal(0, 0.5, (4, 3)),
        "bo": RANDOM.normal(0, 0.5, 3),
        "keep": np.array(0.9),
    }
    for name, array in arrays.items():
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    onnx.save(model, path)


def sequence(chunks: int) -> Arrays:
    return {
        "x": RANDOM.normal(size=(chunks, 6)).astype(np.float32),
        "rate": np.array(2),
    }


def open_stock(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def looped(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    """The outputs of all chunks, and the states before each, by a loop."""
    state = inputs.get("h", np.zeros((1, 1, 4), np.float32))
    answers: list[np.ndarray] = []
    states: list[np.ndarray] = []
    for chunk in inputs["x"]:
        states.append(state)
        y, state = session.run(["y", "hn"], {"x": chunk[None], "h": state, "rate": inputs["rate"]})
        answers.append(y)
    return {"y": np.stack(answers), "h": np.stack(states)}


def write_samples(folder: Path, rows: list[Arrays]) -> Samples:
    how = {name: Preprocessing(dtype=array.dtype.name) for name, array in rows[0].items()}
    return Samples.write(folder, [Sample(f"s{i}", row) for i, row in enumerate(rows)], how)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    write_network(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("has_state", [False, True])
def test_float_outputs_are_those_of_all_chunks(
    network: Path, tmp_path: Path, has_state: bool
) -> None:
    rows = [sequence(5), sequence(2), sequence(1)]
    if has_state:
        for row in rows:
            row["h"] = RANDOM.normal(size=(1, 1, 4)).astype(np.float32)
    model = onnx_file(path=network, states=STATES)
    samples = write_samples(tmp_path / "s", rows)
    check_exact(model, network, [samples])
    session = open_stock(network)
    for row, outputs in zip(rows, float_outputs(model, samples), strict=True):
        assert outputs.keys() == {"y"}
        np.testing.assert_allclose(outputs["y"], looped(session, row)["y"], rtol=1e-4, atol=1e-5)


def test_calibration_sees_each_chunk_with_its_true_state(network: Path, tmp_path: Path) -> None:
    rows = [sequence(6), sequence(9)]
    model = onnx_file(path=network, states=STATES)
    chunks = write_chunks(model, write_samples(tmp_path / "s", rows), tmp_path / "c", nothing)
    assert len(chunks) == 15
    session = open_stock(network)
    expected = [looped(session, row)["h"] for row in rows]
    for sample in chunks:
        name, number = sample.id.split("/")
        state = expected[int(name[1:])][int(number)]
        np.testing.assert_allclose(sample.inputs["h"], state, rtol=1e-4, atol=1e-5)
    statistics = histogram(model, chunks, nothing)
    largest = max(float(states.max()) for states in expected)
    assert statistics["h"].maximum == pytest.approx(largest, rel=1e-4)


@pytest.fixture
def qpipe(
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    monkeypatch.chdir(tmp_path)
    for part in ("calibration", "evaluation"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for number in range(6):
            row = sequence(int(RANDOM.integers(2, 9)))
            np.savez(tmp_path / "data" / part / f"{number}.npz", **row)  # type: ignore[arg-type]
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    device = {"local": {"local": {"lock": str(tmp_path / "lock"), "folder": str(tmp_path / "d")}}}
    (tmp_path / "devices.yaml").write_text(json.dumps(device), encoding="utf-8")
    return Shell(monkeypatch, capsys)


def test_a_run_scores_the_build_over_sequences_on_the_device(qpipe: Shell, tmp_path: Path) -> None:
    qpipe("run recipe.yaml")
    rows: dict[str, Any] = {row["scheme"]: row["metrics"] for row in qpipe.json("pareto")["rows"]}
    assert set(rows) == {"float32", "int8", "mixed"}
    assert rows["float32"]["agreement"]["value"] == 1.0
    assert all(metrics["latency_ms"]["value"] > 0 for metrics in rows.values())

    qpipe("export --device local --scheme int8 -o out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["states"] == STATES
    stock = open_stock(tmp_path / "net.onnx")
    built = open_stock(tmp_path / "out" / "model.onnx")
    signal = 0.0
    noise = 0.0
    agreed: list[float] = []
    for file in sorted((tmp_path / "data" / "evaluation").glob("*.npz")):
        inputs = dict(np.load(file))
        exact = looped(stock, inputs)["y"].astype(np.float64)
        rounded = looped(built, inputs)["y"].astype(np.float64)
        signal += np.sum(exact**2)
        noise += np.sum((rounded - exact) ** 2)
        agreed.append(np.mean(exact.argmax(axis=2) == rounded.argmax(axis=2)))
    assert rows["int8"]["sqnr_db"]["value"] == pytest.approx(10 * np.log10(signal / noise), abs=0.1)
    assert rows["int8"]["agreement"]["value"] == pytest.approx(np.mean(agreed))

    ended = subprocess.run(
        [sys.executable, "out/example.py"], capture_output=True, text=True, check=True
    )
    assert len(ended.stdout.splitlines()) == 3
    qpipe("samples recipe.yaml --count 2")
    out, _ = qpipe("diagnose recipe.yaml --scheme int8 --count 3")
    assert "Gemm" in out


def test_a_new_recipe_tells_of_inputs_that_look_like_states(qpipe: Shell, tmp_path: Path) -> None:
    for file in (tmp_path / "data").rglob("*.npz"):
        inputs = dict(np.load(file))
        chunk = {"x": inputs["x"][0], "h": np.zeros((1, 1, 4), np.float32), "rate": inputs["rate"]}
        np.savez(file, **chunk)  # type: ignore[arg-type]
    qpipe("new net.onnx --samples npz:data --out new.yaml")
    assert "states: {h: hn}" in (tmp_path / "new.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ({"k": "hn"}, "states names input 'k', which is not there; there is h, rate, x"),
        ({"h": "z"}, "states names output 'z', which is not there; there is hn, y"),
        (
            {"h": "y"},
            "state 'h' is float [1, 1, 4], output 'y' is float [1, 3]; give an output that is like its state",
        ),
    ],
)
def test_states_that_do_not_fit_are_named(
    network: Path, states: dict[str, str], reason: str
) -> None:
    with pytest.raises(StageError) as raised:
        onnx_file(path=network, states=states)
    assert str(raised.value) == f"{network}: {reason}"


def test_inputs_that_differ_in_their_chunks_are_named(network: Path, tmp_path: Path) -> None:
    row = {**sequence(5), "rate": np.array([1, 2])}
    samples = write_samples(tmp_path / "s", [row])
    with pytest.raises(StageError) as raised:
        list(float_outputs(onnx_file(path=network, states=STATES), samples))
    assert str(raised.value) == (
        "sample 's0': chunks of its inputs: 'x' has 5, 'rate' has 2; give as many of each, at least one"
    )

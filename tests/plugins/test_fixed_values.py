"""An input that is always fed one number decides branches at import, and stays in the interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from qpipe.engine.exactness import check_exact
from qpipe.errors import StageError
from qpipe.quant.inference import infer, open_session
from qpipe.samples.store import Samples
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.models.onnx_file import onnx_file
from shell import Shell

# a branch for each rate; the shape of the state that is given back is as open as that of the other
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch, 8] x, int64 rate, float[batch, 4] h) => (float[batch, 4] y, float[batch, 4] hn)
{
  usual = Constant <value = int64 {16000}> ()
  is_usual = Equal (rate, usual)
  made = If (is_usual) <
    then_branch = usual_rate () => (float[batch, 4] then_made) { then_made = MatMul (x, wide) },
    else_branch = other_rate () => (float[batch, 4] else_made) { else_made = MatMul (x, narrow) }
  >
  hn = Add (made, h)
  y = Relu (hn)
}
"""
RANDOM = np.random.default_rng(0)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(NETWORK)
    for name in ("wide", "narrow"):
        values = RANDOM.normal(size=(8, 4)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def feeds(rate: int) -> dict[str, np.ndarray]:
    return {
        "x": RANDOM.normal(size=(1, 8)).astype(np.float32),
        "rate": np.array(rate, np.int64),
        "h": RANDOM.normal(size=(1, 4)).astype(np.float32),
    }


@pytest.mark.parametrize("rate", [16000, 8000])
def test_the_branch_of_the_number_is_all_that_is_left(network: Path, rate: int) -> None:
    model = onnx_file(path=network, values={"rate": rate})
    assert [node.op_type for node in model.graph] == ["MatMul", "Add", "Relu"]
    session = open_session(model)
    assert [value.name for value in session.get_inputs()] == ["x", "rate", "h"]
    given = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    inputs = feeds(rate)
    for array, exact in zip(infer(session, inputs).values(), given.run(None, inputs), strict=True):
        np.testing.assert_allclose(array, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"rat": 16000}, "values names input 'rat', which is not there; did you mean 'rate'?"),
        (
            {"rate": 0.5},
            "values gives input 'rate' 0.5, which int64 cannot hold; give a number of its type",
        ),
    ],
)
def test_what_cannot_be_fixed_is_told(network: Path, values: dict[str, float], reason: str) -> None:
    with pytest.raises(StageError) as caught:
        onnx_file(path=network, values=values)
    assert str(caught.value) == f"{network}: {reason}"


def test_each_sample_must_feed_the_number(network: Path, tmp_path: Path) -> None:
    how = {"x": Preprocessing(), "rate": Preprocessing(dtype="int64"), "h": Preprocessing()}
    samples = Samples.write(
        tmp_path / "samples",
        [Sample(f"s{rate}", feeds(rate)) for rate in (16000, 8000)],
        how,
    )
    model = onnx_file(path=network, values={"rate": 16000})
    with pytest.raises(StageError) as caught:
        check_exact(model, network, [samples])
    assert str(caught.value) == (
        "sample 's8000' feeds input 'rate' 8000, values says 16000; "
        "leave it out of values, or out of the samples"
    )


def test_a_state_of_open_batch_is_fed_by_an_output_like_it(network: Path) -> None:
    onnx_file(path=network, shapes={"x": [1, 8], "h": [1, 4]}, states={"h": "hn"})
    with pytest.raises(StageError, match="state 'rate' is int64"):
        onnx_file(path=network, shapes={"h": [1, 4], "x": [1, 8]}, states={"rate": "y"})


def test_a_new_recipe_has_the_number_that_samples_feed(
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("calibration", "evaluation"):
        rows = [feeds(16000) for _ in range(4)]
        arrays = {
            "x": np.concatenate([row["x"] for row in rows]),
            "rate": np.stack([row["rate"] for row in rows]),
            "h": np.concatenate([row["h"] for row in rows]),
        }
        np.savez(tmp_path / f"{part}.npz", **arrays)  # type: ignore[arg-type]
    shell = Shell(monkeypatch, capsys)
    shell.run("new", str(network), "--samples", "npz:.", "--out", "recipe.yaml")
    recipe = (tmp_path / "recipe.yaml").read_text()
    assert "      values: {rate: 16000}\n" in recipe
    assert "states: {h: hn}" in recipe

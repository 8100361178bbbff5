"""The batch axis of a network's inputs: found by name and by the samples, or given; nothing else is taken for one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

import qpipe
from qpipe.engine.float_reference import check_fit, float_outputs
from qpipe_devices import local
from qpipe_plugins.compile.onnxruntime import onnxruntime as compile_onnxruntime
from qpipe_plugins.models.onnx_file import onnx_file
from small_build import nothing

RANDOM = np.random.default_rng(15)

# a recurrent network as torch exports it: its states have the batch on axis 1; a sampling rate is a number
RECURRENT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[{batch}, 6] x, float[1, {batch}, 4] h, int64 rate) => (float[{batch}, 4] y, float[1, {batch}, 4] hn) {{
  axis = Constant <value = int64[1] {{0}}> ()
  x3 = Unsqueeze (x, axis)
  all, hn = GRU <hidden_size = 4> (x3, w, r, , , h)
  last = Squeeze (hn, axis)
  factor = Cast <to = 1> (rate)
  y = Mul (last, factor)
}}
"""
# a picture without a batch, and frames of sound one after the other
UNBATCHED = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[3, 8, 8] image, float[5, 1, 2] sound) => (float[3, 8, 8] y, float[5, 1, 2] z) {
  y = Relu (image)
  z = Neg (sound)
}
"""


def write(folder: Path, text: str, **arrays: tuple[int, ...]) -> Path:
    model = onnx.parser.parse_model(text)
    for name, shape in arrays.items():
        array = RANDOM.normal(0, 0.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def recurrent(folder: Path, batch: str) -> Path:
    return write(folder, RECURRENT.format(batch=batch), w=(1, 12, 6), r=(1, 12, 4))


def input_shapes(model: ir.Model) -> dict[str | None, list[int]]:
    return {value.name: list(value.shape.numpy()) for value in model.graph.inputs}  # type: ignore[union-attr, misc]


@pytest.mark.parametrize(
    ("dimensions", "pinned"),
    [
        ("N, 3", [1, 3]),
        ("4, N, 3", [4, 1, 3]),
        ("4, batch_size, 3", [4, 1, 3]),
        ("rows, 3", [1, 3]),
        ("2, 1, 3", [2, 1, 3]),
        ("3, 8", [3, 8]),
    ],
)
def test_an_open_batch_becomes_one_wherever_it_is(
    tmp_path: Path, dimensions: str, pinned: list[int]
) -> None:
    path = write(
        tmp_path,
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dimensions}] x) => (float[{dimensions}] y) {{ y = Relu (x) }}',
    )
    assert input_shapes(onnx_file(path=path)) == {"x": pinned}


def test_a_batch_that_another_input_names_is_the_same(tmp_path: Path) -> None:
    shapes = input_shapes(onnx_file(path=recurrent(tmp_path, "rows")))
    assert shapes == {"x": [1, 6], "h": [1, 1, 4], "rate": []}


@pytest.mark.parametrize(
    ("dimensions", "hint"),
    [("time, 1, 3", "[?, 1, 3]"), ("T, batch, 3", "[?, 1, 3]"), ("4, d, 3", "[4, ?, 3]")],
)
def test_an_open_axis_that_is_no_batch_is_asked_for(
    tmp_path: Path, dimensions: str, hint: str
) -> None:
    path = write(
        tmp_path,
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dimensions}] x) => (float[{dimensions}] y) {{ y = Relu (x) }}',
    )
    with pytest.raises(
        qpipe.StageError, match=re.escape(f"pin it with shapes: {{x: {hint}}}") + "$"
    ):
        onnx_file(path=path)
    shape = [int(size) for size in hint.replace("?", "5").strip("[]").split(",")]
    assert input_shapes(onnx_file(path=path, shapes={"x": shape})) == {"x": shape}


def test_a_batch_axis_can_be_given(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[4, d, 3] x) => (float[4, d, 3] y) { y = Relu (x) }'
    path = write(tmp_path, text)
    assert input_shapes(onnx_file(path=path, batch_axis={"x": 1})) == {"x": [4, 1, 3]}
    with pytest.raises(qpipe.StageError, match="batch_axis of input 'x' is 0; its open axes are 1"):
        onnx_file(path=path, batch_axis={"x": 0})
    with pytest.raises(qpipe.StageError, match="batch_axis names input 'y', which is not there"):
        onnx_file(path=path, batch_axis={"y": 0})


def fed(folder: Path, path: Path, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The outputs of a sample on the host, and on a device by way of the agent."""
    model = onnx_file(path=path)
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    how = {name: qpipe.Preprocessing(dtype=array.dtype.name) for name, array in arrays.items()}
    samples = qpipe.Samples.write(folder / "samples", [qpipe.Sample("a", arrays)], how)
    check_fit(model, samples)
    (host,) = float_outputs(model, samples)
    (folder / "build").mkdir()
    build = compile_onnxruntime(model, qpipe.Platform(), folder / "build")
    device = local("board", folder=folder / "board")
    try:
        stored = device.store(build.folder, nothing), device.store(samples.folder, nothing)
        (remote,) = device.infer(*stored, 1)
        timed = device.round(*stored, warmup_s=0, values=1, budget_s=5)
    finally:
        device.close()
    assert len(timed.values_ms) == 1
    return host, dict(remote)


def expected(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


@pytest.mark.parametrize("is_whole", [True, False])
def test_states_and_numbers_are_fed_as_they_are_and_what_lacks_the_batch_gets_it(
    tmp_path: Path, is_whole: bool
) -> None:
    path = recurrent(tmp_path, "1")
    x = RANDOM.normal(size=(1, 6)).astype(np.float32)
    h = RANDOM.normal(size=(1, 1, 4)).astype(np.float32)
    rate = np.array(3)
    sample = {"x": x, "h": h, "rate": rate} if is_whole else {"x": x[0], "h": h[:, 0], "rate": rate}
    right = expected(path, {"x": x, "h": h, "rate": rate})
    for outputs in fed(tmp_path, path, sample):
        assert outputs.keys() == right.keys()
        for name, array in right.items():
            np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=1e-6)


def test_a_network_without_a_batch_and_one_with_time_first_get_none(tmp_path: Path) -> None:
    path = write(tmp_path, UNBATCHED)
    image = RANDOM.normal(size=(3, 8, 8)).astype(np.float32)
    sound = RANDOM.normal(size=(5, 1, 2)).astype(np.float32)
    for sample in ({"image": image, "sound": sound}, {"image": image, "sound": sound[:, 0]}):
        folder = tmp_path / str(sample["sound"].ndim)
        folder.mkdir()
        for outputs in fed(folder, path, sample):
            np.testing.assert_array_equal(outputs["y"], np.maximum(image, 0))
            np.testing.assert_array_equal(outputs["z"], -sound)


def test_the_hint_for_a_fixed_batch_of_several_is_one_that_fixes(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[4, 3] x) => (float[rows, 3] y) { y = Relu (x) }'
    path = write(tmp_path, text)
    sample = qpipe.Sample("a", {"x": np.ones(3, np.float32)})
    samples = qpipe.Samples.write(tmp_path / "samples", [sample], {"x": qpipe.Preprocessing()})
    with pytest.raises(qpipe.StageError) as raised:
        check_fit(onnx_file(path=path), samples)
    assert str(raised.value) == (
        "the samples give float32 [1, 3], input 'x' of the network takes float32 [4, 3]; "
        "set shapes: {x: [1, 3]} of the model, or export it so"
    )
    check_fit(onnx_file(path=path, shapes={"x": [1, 3]}), samples)

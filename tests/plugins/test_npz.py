"""The npz stage: arrays reach the network bit by bit, and what does not fit together is told in one line."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.engine import stage_results
from qpipe.engine.float_reference import float_outputs
from qpipe.errors import StageError
from qpipe.samples.preprocess import feeds
from qpipe.types import Dataset
from qpipe_plugins.samples.npz import npz

RANDOM = np.random.default_rng(6)
TOKENS = """
<ir_version: 8, opset_import: ["" : 17]>
two (int64[1, 5] ids, bool[1, 5] mask, float[1, 3] extra) => (float[1, 5, 3] y)
<float[4, 3] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, int64[1] last = {2}>
{
  found = Gather <axis = 0> (table, ids)
  kept = Cast <to = 1> (mask)
  column = Unsqueeze (kept, last)
  shown = Mul (found, column)
  y = Add (shown, extra)
}
"""


def tokens(count: int) -> dict[str, np.ndarray]:
    return {
        "ids": RANDOM.integers(0, 4, (count, 5)),
        "mask": RANDOM.random((count, 5)) < 0.5,
        "extra": RANDOM.normal(size=(count, 3)).astype(np.float32),
        "label": RANDOM.integers(0, 9, count),
    }


def files(folder: Path, calibration: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Path]:
    np.savez(folder / "few.npz", **calibration)
    np.savez_compressed(folder / "many.npz", **evaluation)
    return {"calibration": folder / "few.npz", "evaluation": folder / "many.npz"}


def simple(folder: Path, array: Any, **options: Any) -> Dataset:
    """One input x in both parts, shifted in one of them so that they differ."""
    return npz(**files(folder, {"x": array}, {"x": np.asarray(array) + 1}), **options)


def test_several_inputs_of_several_types_reach_the_network_as_they_are(tmp_path: Path) -> None:
    few, many = tokens(2), tokens(3)
    (tmp_path / "out").mkdir()
    stage_results.write(
        "samples", npz(**files(tmp_path, few, many), target="label"), tmp_path / "out"
    )
    samples = stage_results.read("samples", tmp_path / "out")["evaluation"]
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    expected = table[many["ids"]] * many["mask"][:, :, np.newaxis] + many["extra"][:, np.newaxis]
    outputs = list(float_outputs(ir.from_onnx_text(TOKENS), samples))
    assert np.array_equal([output["y"][0] for output in outputs], expected)
    assert [sample.target for sample in samples] == many["label"].tolist()
    assert [sample.id for sample in samples] == ["many-0", "many-1", "many-2"]


def test_a_folder_holds_one_file_a_sample(tmp_path: Path) -> None:
    for part, count in (("c", 2), ("e", 3)):
        (tmp_path / part).mkdir()
        for number in range(count):
            arrays = {
                "x": RANDOM.normal(size=(number + 1, 2)),
                "boxes": np.ones((number, 4)),
                "kinds": np.ones(number),
            }
            np.savez(tmp_path / part / f"{number}.npz", **arrays)
    targets = {"boxes": "boxes", "labels": "kinds"}
    data = npz(calibration=tmp_path / "c", evaluation=tmp_path / "e", target=targets)
    found = list(data.evaluation)
    assert [sample.id for sample in found] == ["0.npz", "1.npz", "2.npz"]
    assert [sample.inputs["x"].shape for sample in found] == [(1, 2), (2, 2), (3, 2)]
    assert found[1].target == {"boxes": [[1.0] * 4], "labels": [1.0]}


def test_calibration_needs_no_targets(tmp_path: Path) -> None:
    few, many = {"x": np.zeros((1, 2))}, {"x": np.ones((1, 2)), "label": np.array(["yes"])}
    data = npz(**files(tmp_path, few, many), target="label")
    assert [sample.target for sample in data.calibration] == [None]
    assert [sample.target for sample in data.evaluation] == ["yes"]


@pytest.mark.parametrize(
    "dtype", ["int64", "int32", "bool", "float16", "float32", "float64", "uint8"]
)
def test_an_input_keeps_its_type_and_its_bits(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1, 1]]).astype(dtype)
    data = npz(**files(tmp_path, {"x": ~array if dtype == "bool" else array + 1}, {"x": array}))
    (sample,) = data.evaluation
    fed = feeds(
        dict(sample.inputs),
        {name: vars(how) for name, how in data.preprocessing.items()},
        {"x": None},
    )["x"]
    assert fed.dtype == array.dtype
    assert fed.tobytes() == array.tobytes()


def test_mean_and_std_apply_to_the_input_they_name(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 99, (2, 4, 4, 3), np.uint8)
    few = {"image": pixels, "id": np.zeros((2, 1), np.int64)}
    many = {"image": pixels + 1, "id": np.zeros((2, 1), np.int64)}
    data = npz(
        **files(tmp_path, few, many), mean={"image": [1, 2, 3]}, std={"image": 4.0}, layout={"image": "NCHW"}
    )  # fmt: skip
    sample = next(iter(data.calibration))
    fed = feeds(
        dict(sample.inputs),
        {name: vars(how) for name, how in data.preprocessing.items()},
        {"image": (1, 3, 4, 4), "id": (1, 1)},
    )
    expected = (pixels[0].astype(np.float32) - np.float32([1, 2, 3])) / np.float32(4)
    assert np.array_equal(fed["image"][0], expected.transpose(2, 0, 1))
    assert fed["image"].dtype == np.float32
    assert fed["id"].dtype == np.int64


def test_an_input_becomes_the_type_it_is_told(tmp_path: Path) -> None:
    data = simple(tmp_path, np.ones((1, 2)), dtype={"x": "float32"})
    assert data.preprocessing["x"].dtype == "float32"


def test_arrays_that_are_no_inputs_stay_out(tmp_path: Path) -> None:
    part = {"x": np.zeros((2, 3)), "speaker": np.array(["a", "b"])}
    data = npz(**files(tmp_path, part, part), inputs=["x"])
    assert [set(sample.inputs) for sample in data.evaluation] == [{"x"}, {"x"}]


def test_fewer_samples_are_taken_evenly(tmp_path: Path) -> None:
    data = simple(tmp_path, np.arange(9), calibration_count=3, evaluation_count=2)
    assert [int(sample.inputs["x"]) for sample in data.calibration] == [0, 3, 6]
    assert [sample.id for sample in data.evaluation] == ["many-0", "many-4"]


def test_a_sample_in_both_files_is_refused(tmp_path: Path) -> None:
    message = "'many-6' of evaluation has the same inputs as 'few-2' of calibration"
    data = npz(**files(tmp_path, {"x": np.arange(3)}, {"x": np.arange(8, 0, -1)}))
    with pytest.raises(StageError, match=re.escape(message)):
        stage_results.write("samples", data, tmp_path)


@pytest.mark.parametrize(
    ("evaluation", "options", "message"),
    [
        (
            {"x": np.zeros((2, 3)), "y": np.zeros(3)},
            {},
            "arrays are 'x' [2, 3], 'y' [3]; all must have",
        ),
        (
            {"x": np.array(1.0)},
            {},
            "arrays are 'x' []; all must have the samples along axis 0, and the same",
        ),
        ({"x": np.zeros((0, 3))}, {}, "many.npz has no samples; save at least one"),
        ({}, {}, "many.npz holds no array; save it with numpy.savez(file, name=array)"),
        ({"y": np.zeros((2, 3))}, {}, "sample 'many-0' has no array 'x'; there is y"),
        (
            {"x": np.zeros((2, 3))},
            {"target": "label"},
            "sample 'many-0' has no array 'label'; there is x",
        ),
        (
            {"x": np.array(["a"])},
            {},
            "input 'x' of sample 'many-0' has type <U1; it must hold numbers",
        ),
        (
            {"x": np.zeros((2, 3), np.int8)},
            {},
            "of sample 'many-0' has type int8, but that of the first calibration sample has float64",
        ),
        ({"x": np.array([None])}, {}, "array 'x' cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, evaluation: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    given = files(tmp_path, {"x": np.ones((1, 3))}, {})
    np.savez(given["evaluation"], allow_pickle=True, **evaluation)
    with pytest.raises(StageError, match=re.escape(message)) as caught:
        list(npz(**given, **options).evaluation)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": {"z": 1.0}}, "npz: mean is given for 'z', which is not an input; there is x"),
        (
            {"std": {"x": [1.0, 0.0, 1.0]}},
            "npz: std of input 'x' is [1.0, 0.0, 1.0]; give one number that is not 0, or 3 for its",
        ),
        (
            {"mean": {"x": [1.0, 2.0]}},
            "npz: mean of input 'x' is [1.0, 2.0]; give one number, or 3 for its last axis",
        ),
        (
            {"mean": {"x": 1.0}, "dtype": {"x": "int8"}},
            "npz: input 'x' has mean or std, which make it float, and dtype int8; remove one",
        ),
        ({"inputs": ["y"]}, "sample 'few-0' has no array 'y'; there is x"),
        (
            {"target": "x"},
            "few.npz has no array besides the target; save the network's inputs in it",
        ),
        ({"evaluation_count": 0}, "npz: evaluation_count is 0; it must be at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=re.escape(message)):
        list(simple(tmp_path, np.ones((2, 3)), **options).evaluation)


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\x03\x04 cut"])
def test_a_file_that_holds_no_arrays_is_named(tmp_path: Path, content: bytes) -> None:
    given = files(tmp_path, {"x": np.ones(1)}, {})
    given["evaluation"].write_bytes(content)
    with pytest.raises(StageError, match=re.escape(f"npz: {given['evaluation']} cannot be read: ")):
        list(npz(**given).evaluation)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    given = files(tmp_path, {"x": np.ones(1)}, {"x": RANDOM.normal(size=1000)})
    content = bytearray(given["evaluation"].read_bytes())
    content[len(content) // 2] ^= 255
    given["evaluation"].write_bytes(content)
    with pytest.raises(StageError, match=r"many.npz: array 'x' cannot be read: "):
        list(npz(**given).evaluation)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(
        StageError, match=r"x.npy is a single array without a name; save it with numpy.savez"
    ):
        npz(calibration=tmp_path / "x.npy", evaluation=tmp_path / "x.npy")


def test_what_is_no_array_in_the_archive_is_refused(tmp_path: Path) -> None:
    given = files(tmp_path, {"x": np.ones(1)}, {"x": np.ones(1)})
    with zipfile.ZipFile(given["evaluation"], "a") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(StageError, match=r"arrays are 'x' \[1\], 'notes.txt' \[\]; all must"):
        list(npz(**given).evaluation)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=re.escape(f"npz: no .npz file in {tmp_path}; add at least one")
    ):
        npz(calibration=tmp_path, evaluation=tmp_path)

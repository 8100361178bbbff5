"""Samples in a folder: what is written is read back, and calibration and evaluation share none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from qpipe.engine import stage_results
from qpipe.errors import StageError
from qpipe.samples.preprocess import network_input
from qpipe.samples.store import Samples
from qpipe.types import Dataset, Preprocessing, Sample

HOW = {"x": Preprocessing()}


def dataset(calibration: np.ndarray, evaluation: np.ndarray) -> Dataset:
    """A part of one sample each."""
    return Dataset([Sample("c", {"x": calibration})], [Sample("e", {"x": evaluation}, 1)], HOW)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int64", "float16", "float32", "float64", "bool", ">i2", ">f4"]
)
def test_arrays_are_read_back_as_they_were(tmp_path: Path, dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)[:, ::2]
    stored = Samples.write(tmp_path, [Sample("a", {"x": array}, {"boxes": array})], HOW)
    read = Samples(tmp_path)[0].inputs["x"]
    assert np.array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("<")
    assert stored[0].target == {"boxes": array.tolist()}


def test_a_sample_of_both_parts_is_refused_and_both_ids_are_named(tmp_path: Path) -> None:
    one = np.arange(4, dtype=np.float32)
    message = "samples: 'e' of evaluation has the same inputs as 'c' of calibration; evaluate on samples that calibration does not use"
    with pytest.raises(StageError, match=re.escape(message)):
        stage_results.write("samples", dataset(one, one.copy()), tmp_path)


@pytest.mark.parametrize(
    "other", [np.zeros(4, np.int32), np.zeros((2, 2), np.float32), np.float32([0, 0, 0, 1])]
)
def test_samples_of_another_type_shape_or_value_are_others(
    tmp_path: Path, other: np.ndarray
) -> None:
    stage_results.write("samples", dataset(np.zeros(4, np.float32), other), tmp_path)


def test_a_sample_may_come_twice_in_one_part(tmp_path: Path) -> None:
    same = np.zeros(3, np.float32)
    assert (
        len(Samples.write(tmp_path, [Sample("a", {"x": same}), Sample("b", {"x": same})], HOW)) == 2
    )


@pytest.mark.parametrize("change", ["array", "id", "target", "mean"])
def test_the_digest_covers_arrays_ids_targets_and_preprocessing(
    tmp_path: Path, change: str
) -> None:
    array = np.zeros(3, np.float32)
    before = Samples.write(tmp_path / "a", [Sample("a", {"x": array}, 1)], HOW)
    other = Sample(
        "b" if change == "id" else "a",
        {"x": array + (change == "array")},
        2 if change == "target" else 1,
    )
    how = {"x": Preprocessing(mean=(1.0,))} if change == "mean" else HOW
    after = Samples.write(tmp_path / "b", [other], how)
    assert Samples(tmp_path / "a").digest == before.digest
    assert after.digest != before.digest


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match="sample 'a': input 'x' has type object; it must be numeric"
    ):
        Samples.write(tmp_path, [Sample("a", {"x": np.array([None])})], HOW)


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "float16", "float64", "float32"])
def test_a_network_is_fed_the_very_bits_that_there_are(dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    fed = network_input(array, vars(Preprocessing(dtype=dtype)))
    assert fed.dtype == array.dtype
    assert fed.tobytes() == array.tobytes()
    assert fed.shape == (1, 2, 3)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_pixels_are_normalized_in_float32_whatever_the_network_takes(dtype: str) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 4, 3)
    how = Preprocessing((1, 2, 3), (0.5, 1, 3), "NCHW", dtype)
    fed = network_input(pixels, vars(how))
    float32 = (pixels.astype(np.float32) - np.float32([1, 2, 3])) / np.float32([0.5, 1, 3])
    assert fed.dtype == dtype
    assert (fed == np.moveaxis(float32, -1, 0)[np.newaxis].astype(dtype)).all()


def test_integers_become_the_type_that_the_network_takes() -> None:
    fed = network_input(np.uint8([1, 255]), vars(Preprocessing(dtype="int64")))
    assert fed.dtype == np.int64
    assert fed.tolist() == [[1, 255]]

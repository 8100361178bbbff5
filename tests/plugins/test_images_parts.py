"""One folder for both parts, inputs that are no squares, and networks that take one channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qpipe.errors import StageError
from qpipe_plugins.samples.images import images

HOW = {"mean": 0.0, "std": 1.0}


def folder(path: Path, count: int, size: tuple[int, int] = (8, 8)) -> Path:
    random = np.random.default_rng(0)
    path.mkdir()
    for number in range(count):
        pixels = random.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


def test_one_folder_gives_both_parts_and_each_image_is_in_one(tmp_path: Path) -> None:
    made = images(evaluation=folder(tmp_path / "all", 7), calibration_count=3, size=8, **HOW)
    ids = [[sample.id for sample in part] for part in (made.calibration, made.evaluation)]
    assert ids[0] == ["0.png", "2.png", "4.png"]
    assert sorted([*ids[0], *ids[1]]) == [f"{number}.png" for number in range(7)]


@pytest.mark.parametrize(
    ("count", "said"),
    [(None, "calibration_count is not set"), (4, "calibration_count is 4")],
)
def test_a_part_must_be_left_to_evaluate(count: int | None, said: str, tmp_path: Path) -> None:
    with pytest.raises(StageError) as error:
        images(evaluation=folder(tmp_path / "all", 4), calibration_count=count, size=8, **HOW)
    hint = "set calibration_count to less than the 4 images of evaluation, or give a folder calibration"
    assert str(error.value) == f"images: calibration is not given and {said}; {hint}"


def test_an_input_that_is_no_square_takes_the_whole_image(tmp_path: Path) -> None:
    all_of_them = folder(tmp_path / "all", 2, (6, 10))
    made = images(evaluation=all_of_them, calibration_count=1, size=(6, 10), crop="none", **HOW)
    (sample,) = made.evaluation
    assert np.array_equal(sample.inputs["image"], np.asarray(Image.open(all_of_them / "1.png")))
    with pytest.raises(
        StageError,
        match=r"images: size is \[6, 10\], but crop center gives a square; set crop: none",
    ):
        images(evaluation=all_of_them, calibration_count=1, size=(6, 10), **HOW)


def test_grey_is_one_channel_of_luma(tmp_path: Path) -> None:
    all_of_them = folder(tmp_path / "all", 2)
    made = images(evaluation=all_of_them, calibration_count=1, size=8, color_order="grey", **HOW)
    (sample,) = made.evaluation
    pixels = np.asarray(Image.open(all_of_them / "1.png"), np.float64)
    luma = pixels @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert sample.inputs["image"].shape == (8, 8, 1)
    assert np.abs(sample.inputs["image"][:, :, 0] - luma).max() <= 1

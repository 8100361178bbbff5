"""The images stage: pixels, labels and the order they come in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qpipe.errors import StageError
from qpipe.samples.preprocess import network_input
from qpipe.samples.store import Samples
from qpipe.types import Dataset, Sample
from qpipe_plugins.samples.images import images
from qpipe_plugins.samples.scenes import scenes

RANDOM = np.random.default_rng(1)


def draw(file: Path, height: int = 8, width: int = 8) -> np.ndarray:
    """A file of random pixels, and these."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def dataset(folder: Path, **options: Any) -> Dataset:
    return images(
        calibration=folder / "c",
        evaluation=folder / "e",
        **{"mean": 0.0, "std": 1.0, "size": 8, **options},
    )


def only(samples: Any) -> Sample:
    (sample,) = samples
    assert isinstance(sample, Sample)
    return sample


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    pixels = draw(tmp_path / "e" / "b.png")
    sample = only(dataset(tmp_path).evaluation)
    assert sample.id == "b.png"
    assert sample.target is None
    assert sample.inputs["image"].dtype == np.uint8
    assert np.array_equal(sample.inputs["image"], pixels)


def test_the_color_order_may_be_reversed(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    pixels = draw(tmp_path / "e" / "b.png")
    assert np.array_equal(
        only(dataset(tmp_path, color_order="BGR").evaluation).inputs["image"], pixels[:, :, ::-1]
    )


@pytest.mark.parametrize(("height", "width"), [(20, 30), (30, 20), (5, 9), (16, 16)])
def test_the_short_side_is_resized_and_the_centre_cropped(
    tmp_path: Path, height: int, width: int
) -> None:
    draw(tmp_path / "c" / "a.png")
    pixels = draw(tmp_path / "e" / "b.png", height, width)
    scale = 10 / min(height, width)
    resized = Image.fromarray(pixels).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BILINEAR
    )
    top, left = (resized.height - 8) // 2, (resized.width - 8) // 2
    expected = np.asarray(resized)[top : top + 8, left : left + 8]
    assert np.array_equal(only(dataset(tmp_path, resize=10).evaluation).inputs["image"], expected)


def test_without_a_crop_the_whole_image_is_squeezed(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    pixels = draw(tmp_path / "e" / "b.png", 20, 30)
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(only(dataset(tmp_path, crop="none").evaluation).inputs["image"], expected)


def test_the_network_gets_pixels_less_mean_over_std(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    pixels = draw(tmp_path / "e" / "b.png")
    data = dataset(tmp_path, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], layout="NHWC")
    how = data.preprocessing["image"]
    given = network_input(only(data.evaluation).inputs["image"], vars(how))
    expected = (pixels.astype(np.float32) - np.float32([1, 2, 3])) / np.float32([4, 5, 6])
    assert np.array_equal(given[0], expected)


def test_labels_come_from_a_csv_in_order_of_the_names(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    for name in ("z.png", "b.png", "unlisted.png"):
        draw(tmp_path / "e" / name)
    (tmp_path / "e.csv").write_text("file,label\nz.png,7\nb.png,3\n", encoding="utf-8")
    data = dataset(tmp_path, evaluation_labels=tmp_path / "e.csv")
    assert [(sample.id, sample.target) for sample in data.evaluation] == [
        ("b.png", 3),
        ("z.png", 7),
    ]


def test_labels_come_from_class_folders(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "cat" / "1.png")
    for name in ("dog/1.png", "cat/2.png", "ant/3.png"):
        draw(tmp_path / "e" / name)
    data = dataset(tmp_path)
    assert data.classes == ["ant", "cat", "dog"]
    found = [(sample.id, sample.target) for sample in data.evaluation]
    assert found == [("ant/3.png", 0), ("cat/2.png", 1), ("dog/1.png", 2)]


def test_fewer_images_are_taken_evenly(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    for index in range(9):
        draw(tmp_path / "e" / f"{index}.png")
    assert [sample.id for sample in dataset(tmp_path, evaluation_count=3).evaluation] == [
        "0.png",
        "3.png",
        "6.png",
    ]


@pytest.mark.parametrize("which", ["calibration_labels", "evaluation_labels"])
def test_a_folder_given_as_labels_is_refused(tmp_path: Path, which: str) -> None:
    for folder in "ce":
        draw(tmp_path / folder / "a.png")
    message = f"images: labels {tmp_path} is a folder; give a CSV with the columns file,label, or null for none"
    with pytest.raises(StageError, match=re.escape(message)):
        dataset(tmp_path, **{which: tmp_path})


def test_a_class_has_the_same_number_however_many_images_are_taken(tmp_path: Path) -> None:
    for name in ("c/aardvark/1.png", "c/dog/2.png", "e/ant/1.png", "e/cat/2.png", "e/dog/3.png"):
        draw(tmp_path / name)
    for count in (1, 2, 3, None):
        data = dataset(tmp_path, evaluation_count=count)
        assert data.classes == ["ant", "cat", "dog"]
        assert all(
            data.classes[sample.target] == sample.id.partition("/")[0] for sample in data.evaluation
        )
    assert [sample.target for sample in dataset(tmp_path).calibration] == [None, 2]


def test_an_image_in_both_folders_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    draw(tmp_path / "e" / "x.png")
    (tmp_path / "e" / "b.png").write_bytes((tmp_path / "c" / "a.png").read_bytes())
    same = f"{tmp_path / 'e' / 'b.png'} is the same as {tmp_path / 'c' / 'a.png'}"
    with pytest.raises(
        StageError,
        match=re.escape(f"images: {same}; evaluate on files that calibration does not use"),
    ):
        dataset(tmp_path)


def test_all_files_that_are_no_images_are_named_before_any_is_decoded(tmp_path: Path) -> None:
    for name in ("c/a.png", "e/b.png", "e/c.png"):
        draw(tmp_path / name)
    bad = {
        "c/0.png": b"",
        "e/1.jpg": b"no image",
        "e/2.png": b"\x89PNG\r\n\x1a\n",
        "e/3.webp": b"",
        "e/4.bmp": b"",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError) as caught:
        dataset(tmp_path)
    shown = [
        f"{tmp_path}/{name} ({why})"
        for name, why in zip(bad, ("empty", "not an image", "not an image"), strict=False)
    ]
    end = f"{', '.join(shown)} and 2 more; replace or remove them"
    assert str(caught.value) == f"images: 5 of 8 images cannot be read: {end}"


def test_a_file_is_what_its_bytes_are(tmp_path: Path) -> None:
    """PostScript would be drawn by another program, whatever the file is called."""
    draw(tmp_path / "c" / "a.png")
    file = tmp_path / "e" / "b.png"
    file.parent.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16)).save(file, format="EPS")
    with pytest.raises(StageError, match=re.escape(f"{file} (not an image)")):
        dataset(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_that_are_cut_are_all_named_once_the_others_are_decoded(
    tmp_path: Path, suffix: str
) -> None:
    draw(tmp_path / "c" / "a.png")
    files = [tmp_path / "e" / f"{name}{suffix}" for name in "abcd"]
    for file in files:
        draw(file, 64, 64)
    for file in (files[1], files[3]):
        file.write_bytes(file.read_bytes()[:-600])
    with pytest.raises(StageError) as caught:
        list(dataset(tmp_path).evaluation)
    message = str(caught.value)
    assert re.match(r"images: 2 of [45] images cannot be read: ", message), message
    assert f"{files[1]} (" in message
    assert f"{files[3]} (" in message
    assert message.endswith("; replace or remove them")
    assert "\n" not in message


def save(folder: Path, image: Image.Image, name: str = "b.png", **options: Any) -> np.ndarray:
    """What the stage makes of an image that is stored so."""
    draw(folder / "c" / "a.png")
    (folder / "e").mkdir()
    image.save(folder / "e" / name, **options)
    return np.asarray(only(dataset(folder).evaluation).inputs["image"])


def grey(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[:, :, np.newaxis], 3, axis=2)


def test_a_grey_image_has_three_equal_channels(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (8, 8), np.uint8)
    assert np.array_equal(save(tmp_path, Image.fromarray(pixels)), grey(pixels))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_of_sixteen_bits_the_upper_eight_count(tmp_path: Path, suffix: str) -> None:
    pixels = RANDOM.integers(0, 65536, (8, 8), np.uint16)
    assert np.array_equal(save(tmp_path, Image.fromarray(pixels), f"b{suffix}"), grey(pixels >> 8))


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    indices, palette = (
        RANDOM.integers(0, 4, (8, 8), np.uint8),
        RANDOM.integers(0, 256, (4, 3), np.uint8),
    )
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert np.array_equal(save(tmp_path, image, transparency=1), palette[indices])


def test_transparency_is_dropped(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (8, 8, 4), np.uint8)
    assert np.array_equal(save(tmp_path, Image.fromarray(pixels)), pixels[:, :, :3])


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4] = [255, 0, 0, 0]  # cyan is what red lacks
    pixels[4:] = [0, 0, 0, 128]
    found = save(tmp_path, Image.fromarray(pixels, "CMYK"), "b.tif")
    assert np.array_equal(found[0, 0], [0, 255, 255])
    assert np.array_equal(found[7, 7], [127, 127, 127])


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, -1), (8, 1)])
def test_an_image_is_turned_as_its_exif_says(tmp_path: Path, orientation: int, turn: int) -> None:
    pixels, exif = RANDOM.integers(0, 256, (8, 8, 3), np.uint8), Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(
        save(tmp_path, Image.fromarray(pixels), exif=exif), np.rot90(pixels, turn)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(
        StageError,
        match=r"b.tif \(the range of its 32-bit pixels is not known; convert it to 8 bits",
    ):
        save(tmp_path, Image.fromarray(np.zeros((8, 8), dtype)), "b.tif")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("name,class\nb.png,1\n", "e.csv:1: columns are name, class; they must be file,label"),
        ("file,label\nb.png,1\ngone.png,2\n", "e.csv:3: no file 'gone.png' in "),
        ("file,label\n", "e.csv; add at least one"),
        ("file,label\n../c/c.png,1\n", "e.csv:2: '../c/c.png' is not below "),
        ("file,label\nx/../../c/c.png,1\n", "e.csv:2: 'x/../../c/c.png' is not below "),
        ("file,label\n/etc/hostname,1\n", "e.csv:2: '/etc/hostname' is not below "),
    ],
)
def test_a_wrong_csv_says_where(tmp_path: Path, rows: str, message: str) -> None:
    for folder in "ce":
        draw(tmp_path / folder / f"{folder.replace('e', 'b')}.png")
    (tmp_path / "e.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(StageError, match=re.escape(message)):
        dataset(tmp_path, evaluation_labels=tmp_path / "e.csv")


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        StageError,
        match=re.escape(f"images: no folder {tmp_path / 'c'}; give one with images in it"),
    ):
        dataset(tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(
        StageError, match=re.escape(f"images: no image in {tmp_path / 'c'}; add at least one")
    ):
        dataset(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [1.0, 2.0]}, "images: mean is [1.0, 2.0]; give one number, or three"),
        ({"std": 0.0}, "images: std is 0.0; give one number that is not 0, or three"),
        ({"evaluation_count": 0}, "images: evaluation_count is 0; it must be at least 1"),
        ({"resize": 4}, "images: resize is 4, less than size; it must be at least 8"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    for folder in "ce":
        draw(tmp_path / folder / "a.png")
    with pytest.raises(StageError, match=re.escape(message)):
        list(dataset(tmp_path, **options).evaluation)


def test_scenes_come_with_boxes_and_survive_storage(tmp_path: Path) -> None:
    data = scenes(calibration_count=2, evaluation_count=3, size=64)
    stored = Samples.write(tmp_path, data.evaluation, data.preprocessing, data.classes)
    assert [sample.id for sample in stored] == ["evaluate-0", "evaluate-1", "evaluate-2"]
    for sample in stored:
        assert sample.inputs["image"].shape == (64, 64, 3)
        assert len(sample.target["boxes"]) == len(sample.target["labels"])
        assert all(0 <= label < len(data.classes) for label in sample.target["labels"])
    assert [sample.id for sample in data.calibration] == ["calibrate-0", "calibrate-1"]


@pytest.mark.parametrize(
    ("names", "options", "classes"),
    [
        (["0", "1", "2", "10"], {}, ["0", "1", "2", "10"]),
        (["0", "1", "2", "10"], {"class_order": "name"}, ["0", "1", "10", "2"]),
        (["2", "10", "cup"], {}, ["10", "2", "cup"]),
    ],
)
def test_folders_that_are_all_numbers_are_classes_in_numeric_order(
    names: list[str], options: dict[str, Any], classes: list[str], tmp_path: Path
) -> None:
    draw(tmp_path / "c" / "a.png")
    for name in names:
        draw(tmp_path / "e" / name / "b.png")
    made = dataset(tmp_path, **options)
    assert made.classes == classes
    targets = {sample.id.partition("/")[0]: sample.target for sample in made.evaluation}
    assert targets == {name: number for number, name in enumerate(classes)}


def test_one_sample_is_read_without_the_others(tmp_path: Path) -> None:
    draw(tmp_path / "c" / "a.png")
    pixels = [draw(tmp_path / "e" / f"{number}.png") for number in range(3)]
    evaluation = dataset(tmp_path).evaluation
    (tmp_path / "e" / "0.png").unlink()
    assert isinstance(evaluation, Sequence)
    assert len(evaluation) == 3
    assert np.array_equal(evaluation[2].inputs["image"], pixels[2])
    assert [sample.id for sample in evaluation[1:]] == ["1.png", "2.png"]
    with pytest.raises(
        StageError, match=r"1 of 1 images cannot be read: .*0\.png \(no such file\)"
    ):
        evaluation[0]

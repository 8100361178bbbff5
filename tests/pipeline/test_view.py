"""A look at samples: what is written is what was fed, and what looks wrong is said."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from qpipe.errors import QpipeError
from qpipe.report import input_statistics, predictions
from qpipe.report.samples_report import FedSample, SamplesOfModel, write_samples_report
from qpipe.samples.preprocess import network_input
from qpipe.types import Array, Preprocessing

PIXELS = Preprocessing((127.5,), (127.5,), "NCHW")
IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "NCHW")
PLAIN = Preprocessing()


def photo(seed: int = 0, size: int = 12, channels: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (size, size + 4, channels), np.uint8)


def fed(source: Array, how: Preprocessing) -> Array:
    return network_input(source, asdict(how))


def subject(looks: Sequence[FedSample], how: Preprocessing, **more: Any) -> SamplesOfModel:
    return SamplesOfModel(
        "net", {name: how for look in looks for name in look.inputs}, looks, **more
    )


def one(folder: Path, tensor: Array, how: Preprocessing, **more: Any) -> dict[str, Any]:
    """What is written of a single sample."""
    looks = [FedSample("a", "evaluation", {"x": tensor}, **more)]
    found = write_samples_report(folder, "recipe", [subject(looks, how)])
    return dict(found["models"][0]["samples"][0])


@pytest.mark.parametrize("how", [PIXELS, IMAGENET, replace(IMAGENET, layout="NHWC")])
def test_a_picture_is_the_fed_tensor_brought_back(how: Preprocessing, tmp_path: Path) -> None:
    source = photo()
    shown = one(tmp_path, fed(source, how), how)["inputs"][0]
    assert shown["shown_as"] == "picture"
    assert np.array_equal(np.asarray(Image.open(tmp_path / shown["files"][0])), source)


def test_uint8_input_and_grey_images_are_pictures_too(tmp_path: Path) -> None:
    how = Preprocessing(layout="NHWC", dtype="uint8")
    source = photo(channels=1)
    shown = one(tmp_path, fed(source, how), how)["inputs"][0]
    picture = Image.open(tmp_path / shown["files"][0])
    assert picture.mode == "L"
    assert np.array_equal(np.asarray(picture), source[:, :, 0])


def test_bgr_shows_as_swapped_colours(tmp_path: Path) -> None:
    source = photo()
    shown = one(tmp_path, fed(source[:, :, ::-1], PIXELS), PIXELS)["inputs"][0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / shown["files"][0])), source[:, :, ::-1])


def test_what_lies_outside_of_pixels_is_clipped(tmp_path: Path) -> None:
    tensor = np.array([-3, -1, 0, 1, 3, np.nan], np.float32).reshape(1, 1, 1, 6)
    shown = one(tmp_path, tensor, PIXELS)["inputs"][0]
    assert np.asarray(Image.open(tmp_path / shown["files"][0])).tolist() == [
        [0, 0, 128, 255, 255, 0]
    ]


def test_an_image_of_undeclared_layout_is_stretched_and_says_so(tmp_path: Path) -> None:
    tensor = np.linspace(-2, 2, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)
    shown = one(tmp_path, tensor, PLAIN)["inputs"][0]
    assert shown["note"].startswith(
        "no mean, std and layout are declared; shown from the lowest value, -2, "
    )
    pixels = np.asarray(Image.open(tmp_path / shown["files"][0]))
    assert (pixels.shape, pixels.min(), pixels.max()) == ((8, 8, 3), 0, 255)


def test_sound_is_written_at_its_rate(tmp_path: Path) -> None:
    wanted = np.sin(np.linspace(0, 100, 2000)).astype(np.float32)
    looks = [FedSample("a", "evaluation", {"x": wanted[None, None]})]
    found = write_samples_report(tmp_path, "recipe", [subject(looks, PLAIN, sample_rate=8000)])
    shown = found["models"][0]["samples"][0]["inputs"][0]
    with wave.open(str(tmp_path / shown["files"][0])) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        values = np.frombuffer(file.readframes(2000), "<i2")
    assert np.abs(values / 32767 - wanted).max() < 1 / 32767


def test_sound_of_16_bits_keeps_its_values_and_an_unknown_rate_is_said(tmp_path: Path) -> None:
    wanted = np.arange(-1500, 1500, dtype=np.int16)
    shown = one(tmp_path, wanted[None], replace(PLAIN, dtype="int16"))["inputs"][0]
    assert shown["note"] == "the sample rate is not known; written as 16000 Hz"
    with wave.open(str(tmp_path / shown["files"][0])) as file:
        assert np.frombuffer(file.readframes(3000), "<i2").tolist() == wanted.tolist()


@pytest.mark.parametrize("shape", [(1, 40, 60), (1, 1, 40, 60)])
def test_a_feature_map_is_a_heat_map(shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = np.linspace(0, 1, 2400, dtype=np.float32).reshape(shape)
    shown = one(tmp_path, tensor, PLAIN)["inputs"][0]
    assert shown["shown_as"] == "heat map"
    pixels = np.asarray(Image.open(tmp_path / shown["files"][0]))
    assert (pixels.shape[0] % 40, pixels.shape[1] % 60) == (0, 0)
    assert pixels[0, 0].tolist() == [68, 1, 84]
    assert pixels[-1, -1].tolist() == [253, 231, 37]


def test_a_heat_map_of_channels_says_the_range_of_each_one_drawn(tmp_path: Path) -> None:
    tops = np.arange(1, 11, dtype=np.float32)  # of ten channels, of which eight are drawn
    tensor = tops[None, :, None, None] * np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    shown = one(tmp_path, tensor, PLAIN)["inputs"][0]
    ranges = ", ".join(f"0 to {top}" for top in range(1, 9))
    assert shown["note"] == (
        "rows by columns as in the tensor, the first 8 of 10 channels; dark is the lowest value of each "
        f"channel, yellow the highest: {ranges}"
    )
    tile = np.asarray(Image.open(tmp_path / shown["files"][0]))[:, :96]
    assert (tile[0, 0].tolist(), tile[-1, -1].tolist()) == ([68, 1, 84], [253, 231, 37])


def test_tokens_are_kept_as_numbers(tmp_path: Path) -> None:
    tokens = np.arange(40, dtype=np.int64)[None]
    shown = one(tmp_path, tokens, replace(PLAIN, dtype="int64"))["inputs"][0]
    assert shown["text"].startswith("0, 1, 2, ")
    assert np.array_equal(np.load(tmp_path / shown["files"][0]), tokens[0])


# ---- statistics


def test_statistics_are_of_each_channel_as_fed() -> None:
    tensors = [fed(photo(seed), IMAGENET) for seed in range(3)]
    found = input_statistics.channel_statistics(
        tensors, IMAGENET, input_name="x", part="evaluation"
    )
    assert [row["channel"] for row in found] == [0, 1, 2]
    sources = np.stack([photo(seed) for seed in range(3)])
    for channel, row in enumerate(found):
        values = np.stack(tensors)[:, 0, channel].astype(np.float64)
        assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std()))
        assert (row["min"], row["max"]) == (values.min(), values.max())
        assert row["clipped"] == np.isin(sources[..., channel], [0, 255]).mean()


def test_statistics_of_anything_else_are_of_all_values() -> None:
    (row,) = input_statistics.channel_statistics(
        [np.array([[1.0, 3.0, np.inf]])], PLAIN, input_name="x", part="evaluation"
    )
    assert (row["channel"], row["mean"], row["not_finite"], row["clipped"]) == (None, 2.0, 1, None)


def told(
    how: Preprocessing, sources: Sequence[Array], calibration: Sequence[Array] = ()
) -> list[str]:
    rows = []
    for part, pictures in (("calibration", calibration), ("evaluation", sources)):
        if pictures:
            tensors = [fed(source, how) for source in pictures]
            rows += input_statistics.channel_statistics(tensors, how, input_name="x", part=part)
    return input_statistics.input_warnings(rows, {"x": how})


PHOTOS = [photo(seed) for seed in range(3)]
DARK = [source // 16 for source in PHOTOS]


@pytest.mark.parametrize(
    "how",
    [
        PIXELS, IMAGENET, Preprocessing((0,), (255,), "NCHW"), Preprocessing(layout="NHWC", dtype="uint8"),
        Preprocessing((103.94, 116.78, 123.68), (58.8,), "NCHW"),
    ],
)  # fmt: skip
def test_what_networks_are_commonly_fed_with_is_right(how: Preprocessing) -> None:
    assert told(how, PHOTOS) == []
    assert told(how, PHOTOS, PHOTOS[:1]) == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (Preprocessing(layout="NCHW"), "looks unnormalised; set mean and std"),
        (Preprocessing((127.5,), (1.0,), "NCHW"), "centred, but not scaled; set std"),
        (Preprocessing((0.485,), (0.229,), "NCHW"), "pixels here are from 0 to 255; multiply both by 255"),
        (Preprocessing((127.5,), (32512.5,), "NCHW"), "nearly the same everywhere, as if pixels were scaled twice"),
    ],
)  # fmt: skip
def test_preprocessing_that_is_no_networks_is_told(how: Preprocessing, reason: str) -> None:
    (line,) = told(how, PHOTOS)
    assert line.startswith("x: mean ")
    assert reason in line


def test_a_constant_channel_is_told() -> None:
    sources = [source.copy() for source in PHOTOS]
    for source in sources:
        source[:, :, 1] = 255
    assert told(PIXELS, sources) == ["x: channel 1 is 1 everywhere in evaluation"]


def test_calibration_of_another_kind_is_told() -> None:
    (line,) = told(PIXELS, PHOTOS, DARK)
    assert line.startswith("x: calibration and evaluation differ: their means, -0.9")


# ---- predictions


def test_the_best_classes_are_named_and_the_target_is_marked() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.3]], np.float32))
    said = predictions.describe_prediction({"y": logits}, 2, ["cat", "dog", "owl"])
    assert said.lines[:3] == ["   dog  60.0%", "✓ owl  30.0%", "   cat  10.0%"]
    assert said.json["right"] is False
    assert [(each["label"], each["name"]) for each in said.json["top"]] == [
        (1, "dog"),
        (2, "owl"),
        (0, "cat"),
    ]


def test_a_target_beyond_the_best_is_told_with_its_rank() -> None:
    scores = np.arange(10, dtype=np.float32)
    assert "target: 2, at rank 8" in predictions.describe_prediction({"y": scores}, 2, []).lines
    assert "target: 99" in predictions.describe_prediction({"y": scores}, 99, []).lines


def test_weak_boxes_are_counted_and_not_drawn() -> None:
    found = {
        "boxes": np.array([[1, 2, 5, 6], [0, 0, 9, 9], [2, 2, 3, 3]], np.float32),
        "scores": np.array([0.1, 0.9, 0.5], np.float32),
        "labels": np.array([0, 1, 0]),
    }
    said = predictions.describe_prediction(
        found, {"boxes": [[0, 0, 8, 8]], "labels": [1]}, ["ring", "disc"]
    )
    assert said.lines == [
        "2 boxes found (orange), 1 more that score below 0.3",
        "1 boxes expected (green)",
    ]
    assert [(box.label, box.is_target) for box in said.boxes] == [
        ("disc", True), ("disc 0.90", False), ("ring 0.50", False)
    ]  # fmt: skip
    assert said.json["labels"] == [1, 0]


def detections(boxes: Sequence[Sequence[float]], scores: Sequence[float]) -> dict[str, Array]:
    """Boxes that are told apart by their labels: 0, 1, 2 ..."""
    return {"boxes": np.array(boxes), "scores": np.array(scores), "labels": np.arange(len(boxes))}


def test_good_boxes_that_are_too_many_to_draw_are_counted_as_good() -> None:
    said = predictions.describe_prediction(
        detections([[0, 0, 1, 1]] * 63, [0.9] * 60 + [0.1] * 3), None, []
    )
    assert said.lines == ["60 boxes found (orange), the best 40 drawn, 3 more that score below 0.3"]
    assert len(said.boxes) == 40


def test_boxes_that_are_no_numbers_are_counted_and_move_no_other() -> None:
    boxes = [[np.nan, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3], [0, 0, np.inf, 1], [4, 4, 5, 5]]
    said = predictions.describe_prediction(
        detections(boxes, [0.9, 0.5, 0.8, 0.95, np.nan]), None, []
    )
    assert said.lines == ["2 boxes found (orange), 3 more that are not finite"]
    assert [(box.corners[0], box.label) for box in said.boxes] == [(2.0, "2 0.80"), (1.0, "1 0.50")]
    assert said.json == {
        "boxes": [[2, 2, 3, 3], [1, 1, 2, 2]],
        "scores": [0.8, 0.5],
        "labels": [2, 1],
    }


def test_no_boxes_at_all_are_no_trouble() -> None:
    nothing = {"boxes": np.empty((0, 4)), "scores": np.empty(0), "labels": np.empty(0, np.int64)}
    said = predictions.describe_prediction(nothing, {"boxes": [], "labels": []}, [])
    assert (said.boxes, said.lines[0]) == ([], "0 boxes found (orange)")


def test_a_text_is_told_beside_the_one_wanted() -> None:
    assert predictions.describe_prediction({"text": "helo"}, "hello", []).lines == [
        "predicted: 'helo'",
        "target: 'hello'",
    ]


def test_anything_else_is_told_by_its_range() -> None:
    assert predictions.describe_prediction({"mask": np.zeros((1, 1, 4, 4))}, None, []).lines == [
        "mask: [1, 1, 4, 4] from 0 to 0, mean 0"
    ]


def answers(best: Sequence[int], targets: Sequence[int]) -> list[tuple[Any, Any]]:
    rows = np.eye(12, dtype=np.float32)
    return [(target, {"y": rows[[own]]}) for own, target in zip(best, targets, strict=True)]


def test_labels_that_are_numbered_otherwise_are_told() -> None:
    targets = list(range(10))
    assert predictions.count_correct_labels(answers(targets, targets)) == {
        "labels": 10,
        "of": 10,
    }
    assert predictions.label_warnings(answers(targets, targets)) == []
    (line,) = predictions.label_warnings(answers([target + 1 for target in targets], targets))
    assert (
        line
        == "labels: most predicted classes are the label +1; the labels are numbered differently from the network's classes"
    )
    (line,) = predictions.label_warnings(answers([11] * 10, targets))
    assert line.startswith("labels: float is right in none of 10 samples; check the pictures")
    assert predictions.label_warnings(answers([11] * 4, targets[:4])) == [], "too few to tell"


# ---- the folder


class Links(HTMLParser):
    """What a page refers to, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [unquote(value or "") for name, value in attrs if name in ("src", "href")]


def scene() -> FedSample:
    target = {"boxes": [[1, 1, 9, 9]], "labels": [0]}
    found = {"boxes": np.array([[2, 2, 8, 8]]), "scores": np.array([0.9]), "labels": np.array([0])}
    return FedSample(
        "<script>alert(1)</script>/../..", "evaluation", {"x": fed(photo(), PIXELS)}, target, found
    )


def test_the_page_is_escaped_and_refers_to_what_is_there(tmp_path: Path) -> None:
    found = write_samples_report(
        tmp_path / "out", "a <b> recipe", [subject([scene()], PIXELS, class_names=["<i>ring</i>"])]
    )
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Links(text)
    assert not {"script", "b>", "i"} & set(page.tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert sorted(set(page.links)) == ["0-000-0-boxes.png", "0-000-0.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0-000-0-boxes.png", "0-000-0.png", "index.html", "samples.json"
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8")) == found
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    write_samples_report(
        tmp_path,
        "recipe",
        [subject([replace(scene(), inputs={"x": fed(photo(size=400), PIXELS)})], PIXELS)],
    )
    drawn = np.asarray(Image.open(tmp_path / "0-000-0-boxes.png")).astype(int)
    plain = np.asarray(Image.open(tmp_path / "0-000-0.png")).astype(int)
    changed = np.argwhere((drawn != plain).any(axis=2))
    assert drawn.shape == plain.shape
    assert changed.min() == 0 or changed.min() == 1
    assert not (drawn != plain)[60:].any()
    assert (255, 120, 0) in {tuple(pixel) for pixel in drawn[2]}


def test_a_second_look_replaces_the_first(tmp_path: Path) -> None:
    write_samples_report(tmp_path, "recipe", [subject([scene(), replace(scene(), id="b")], PIXELS)])
    write_samples_report(
        tmp_path, "recipe", [subject([replace(scene(), target=None, prediction=None)], PIXELS)]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0-000-0.png",
        "index.html",
        "samples.json",
    ]


@pytest.mark.parametrize(
    "index", [None, "{}", "[1]", '{"models": [{"samples": [{"files": ["../kept"]}]}]}']
)
def test_other_peoples_files_stay(index: str | None, tmp_path: Path) -> None:
    folder, kept = tmp_path / "out", tmp_path / "kept"
    folder.mkdir()
    for file in (kept, folder / "thesis.txt"):
        file.write_text("years of work", encoding="utf-8")
    if index:
        (folder / "samples.json").write_text(index, encoding="utf-8")
    if index and "kept" in index:
        write_samples_report(folder, "recipe", [subject([scene()], PIXELS)])
    else:
        with pytest.raises(
            QpipeError,
            match=r"out: not empty, and not an earlier samples report; give a new folder$",
        ):
            write_samples_report(folder, "recipe", [subject([scene()], PIXELS)])
    assert (kept.read_text(), (folder / "thesis.txt").read_text()) == ("years of work",) * 2


def test_a_prediction_that_broke_says_why(tmp_path: Path) -> None:
    outputs = {"y": np.full((1, 2, 2), np.nan)}
    reason = "the postprocess failed: KeyError: 'boxes'"
    sample = one(tmp_path, fed(photo(), PIXELS), PIXELS, prediction=outputs, failure=reason)
    assert sample["reason"] == reason
    assert "the postprocess failed: KeyError: &#x27;boxes&#x27;" in (
        tmp_path / "index.html"
    ).read_text(encoding="utf-8")

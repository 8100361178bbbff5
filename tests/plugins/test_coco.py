"""The coco stage: pixels and boxes as the network sees them, and annotations that are wrong told in one line."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from qpipe.engine import stage_results
from qpipe.errors import StageError
from qpipe.types import Dataset, Sample
from qpipe_plugins.metric.coco_map import coco_map
from qpipe_plugins.samples.coco import coco

RANDOM = np.random.default_rng(3)
# ids as in COCO: with gaps, and in no order
CATEGORIES = [
    {"id": 18, "name": "dog"},
    {"id": 1, "name": "person"},
    {"id": 90, "name": "toothbrush"},
]
SIZES = [(40, 20), (20, 40), (30, 30), (16, 48)]  # width, height


def annotation(**fields: Any) -> dict[str, Any]:
    return {
        "id": 5,
        "image_id": 11,
        "category_id": 18,
        "bbox": [4.0, 2.0, 8.0, 10.0],
        "iscrowd": 0,
        **fields,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of different sizes, and annotations of them."""
    (tmp_path / "pictures").mkdir()
    images = []
    for number, (width, height) in enumerate(SIZES):
        pixels = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
        images.append(
            {"id": number + 10, "file_name": f"{number}.png", "width": width, "height": height}
        )
    boxes = [
        annotation(),
        annotation(id=6, category_id=1, bbox=[0, 0, 20, 40]),
        annotation(id=7, image_id=13),
    ]
    write(tmp_path, {"images": images[::-1], "categories": CATEGORIES, "annotations": boxes})
    return tmp_path


def write(folder: Path, content: Any) -> None:
    (folder / "boxes.json").write_text(json.dumps(content), encoding="utf-8")


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    edit(content)
    write(folder, content)


def dataset(folder: Path, **options: Any) -> Dataset:
    given = {"mean": 0.0, "std": 1.0, "size": (40, 60), "calibration_count": 1, **options}
    return coco(images=folder / "pictures", annotations=folder / "boxes.json", **given)


def evaluated(data: Dataset, name: str) -> Sample:
    return next(sample for sample in data.evaluation if sample.id == name)


def test_labels_are_numbered_in_the_order_of_the_category_ids(folder: Path) -> None:
    data = dataset(folder)
    assert data.classes == ["person", "dog", "toothbrush"]
    assert evaluated(data, "1.png").target["labels"] == [1, 0]


def test_stretched_boxes_follow_the_pixels(folder: Path) -> None:
    # 20 x 40 becomes 60 x 40: three times as wide
    sample = evaluated(dataset(folder), "1.png")
    assert sample.inputs["image"].shape == (40, 60, 3)
    assert sample.target == {"boxes": [[12, 2, 36, 12], [0, 0, 60, 40]], "labels": [1, 0]}


def test_letterboxed_boxes_follow_the_pixels(folder: Path) -> None:
    # 20 x 40 fits 60 x 40 as it is, with 20 columns of grey at both sides
    sample = evaluated(dataset(folder, fit="letterbox"), "1.png")
    pixels = sample.inputs["image"]
    assert np.array_equal(pixels[:, 20:40], np.asarray(Image.open(folder / "pictures" / "1.png")))
    assert (pixels[:, :20] == 114).all()
    assert (pixels[:, 40:] == 114).all()
    assert sample.target["boxes"] == [[24, 2, 32, 12], [20, 0, 40, 40]]


def test_a_box_lies_where_the_thing_is_after_a_letterbox_of_any_scale(folder: Path) -> None:
    pixels = np.zeros((48, 16, 3), np.uint8)
    pixels[12:36, 4:12] = 255
    Image.fromarray(pixels).save(folder / "pictures" / "3.png")
    change(folder, lambda content: content["annotations"][2].update(bbox=[4, 12, 8, 24]))
    sample = evaluated(dataset(folder, fit="letterbox", size=96), "3.png")
    rows, columns = np.nonzero((sample.inputs["image"] > 150).any(axis=2))
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.subtract(found, sample.target["boxes"][0])).max() <= 1


def test_crowds_are_marked_and_boxes_without_area_kept(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][0].update(iscrowd=1)
        content["annotations"][1].update(bbox=[5, 5, 0, 3])

    change(folder, edit)
    target = evaluated(dataset(folder, size=40), "1.png").target
    assert target["iscrowd"] == [1, 0]
    assert target["boxes"][1] == [10, 5, 10, 8]


def test_images_without_boxes_are_evaluated_too(folder: Path) -> None:
    assert evaluated(dataset(folder), "2.png").target == {"boxes": [], "labels": []}


def test_calibration_takes_some_of_the_annotated_and_evaluation_the_rest(folder: Path) -> None:
    data = dataset(folder, calibration_count=2)
    assert [sample.id for sample in data.calibration] == ["0.png", "2.png"]
    assert [sample.id for sample in data.evaluation] == ["1.png", "3.png"]


def test_calibration_takes_another_folder_without_annotations(folder: Path) -> None:
    (folder / "train").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.fromarray(RANDOM.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / "train" / name)
    data = dataset(folder, calibration=folder / "train", calibration_count=2, evaluation_count=2)
    assert [sample.id for sample in data.calibration] == ["a.png", "c.png"]
    assert [sample.id for sample in data.evaluation] == ["0.png", "2.png"]


def test_calibration_on_what_is_evaluated_is_refused(folder: Path) -> None:
    with pytest.raises(
        StageError,
        match=r"coco: .* is the same as .*; evaluate on files that calibration does not use",
    ):
        dataset(folder, calibration=folder / "pictures", calibration_count=9)


def test_one_picture_under_two_names_is_refused_when_it_is_written(
    folder: Path, tmp_path: Path
) -> None:
    # other files, the same pixels
    Image.open(folder / "pictures" / "0.png").save(
        folder / "pictures" / "1.png", optimize=True, compress_level=1
    )
    change(folder, lambda content: content["images"][2].update(width=40, height=20))
    with pytest.raises(
        StageError, match=r"'1.png' of evaluation has the same inputs as '0.png' of calibration"
    ):
        stage_results.write("samples", dataset(folder), tmp_path)


def turned(folder: Path, width: int, height: int) -> np.ndarray:
    """Stores 1.png lying, with the EXIF mark that it stands; gives the pixels as they lie."""
    pixels = RANDOM.integers(0, 256, (20, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    Image.fromarray(pixels).save(folder / "pictures" / "1.png", exif=exif)
    change(folder, lambda content: content["images"][2].update(width=width, height=height))
    return pixels


def test_a_picture_is_turned_as_its_exif_says(folder: Path) -> None:
    pixels = turned(folder, 20, 40)
    sample = evaluated(dataset(folder, size=(40, 20)), "1.png")
    assert np.array_equal(sample.inputs["image"], np.rot90(pixels, -1))


def test_a_picture_is_not_turned_where_the_boxes_belong_to_it_as_it_lies(folder: Path) -> None:
    pixels = turned(folder, 40, 20)
    sample = evaluated(dataset(folder, size=(20, 40)), "1.png")
    assert np.array_equal(sample.inputs["image"], pixels)


def test_a_picture_of_another_size_than_annotated_is_refused(folder: Path) -> None:
    change(folder, lambda content: content["images"][2].update(width=41))
    with pytest.raises(
        StageError, match=r"1.png is 20 x 40, but its annotations are for 41 x 40; give the image"
    ):
        list(dataset(folder).evaluation)


def test_all_missing_and_broken_pictures_are_named_at_once(folder: Path) -> None:
    (folder / "pictures" / "0.png").unlink()
    (folder / "pictures" / "1.png").write_bytes(b"")
    (folder / "pictures" / "2.png").write_text("<html>", encoding="utf-8")
    with pytest.raises(StageError) as caught:
        dataset(folder)
    at = folder / "pictures"
    expected = f"{at}/0.png (no such file), {at}/1.png (empty), {at}/2.png (not an image); replace or remove them"
    assert str(caught.value) == f"coco: 3 of 4 images cannot be read: {expected}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"bbox": [1, 2, 3]},
            "annotation 5: bbox is [1, 2, 3]; it must be [x, y, width, height] in pixels",
        ),
        (
            {"bbox": [1, 2, -3, 4]},
            "annotation 5: bbox is [1, 2, -3, 4]; it must be [x, y, width, height] in pixels",
        ),
        ({"bbox": None}, "annotation 5: bbox is None; it must be [x, y, width, height] in pixels"),
        ({"bbox": [1, 2, float("nan"), 4]}, "annotation 5: bbox is [1, 2, nan, 4]; it must be"),
        (
            {"category_id": 2},
            "annotation 5: category_id is 2, but no category has that id; the ids are 1 to 90",
        ),
        (
            {"category_id": [1]},
            "annotation 5: category_id is [1], but no category has that id; the ids are 1 to 90",
        ),
        (
            {"image_id": 99},
            "annotation 5: image_id is 99, but no image has that id; add the image to images",
        ),
        ({"iscrowd": "no"}, "annotation 5: iscrowd is 'no'; it must be 0 or 1"),
    ],
)
def test_a_wrong_annotation_is_named_by_file_and_id(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    change(folder, lambda content: content["annotations"][0].update(fields))
    with pytest.raises(StageError, match=re.escape(f"coco: {folder / 'boxes.json'}: {message}")):
        dataset(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "images",
            None,
            "no list 'images'; COCO annotations have images, annotations and categories",
        ),
        (
            "annotations",
            {},
            "no list 'annotations'; COCO annotations have images, annotations and categories",
        ),
        (
            "categories",
            [],
            "there are 4 images and 0 categories; there must be at least one of each",
        ),
        ("categories", [3], "entry 0 of categories is 3; it must be an object"),
        ("categories", [{"id": "1"}], "the id of a category is '1'; it must be a whole number"),
        (
            "images",
            [{"id": 1, "file_name": "../x.png"}],
            "image 1: file_name is '../x.png'; it must name a file below",
        ),
        (
            "images",
            [{"id": 1, "file_name": "/x.png"}],
            "image 1: file_name is '/x.png'; it must name a file below",
        ),
        ("images", [{"id": 1}], "image 1: file_name is None; it must name a file below"),
        (
            "images",
            [{"id": 1, "file_name": "x"}, {"id": 1, "file_name": "y"}],
            "two images have the id 1; ids must be unique",
        ),
    ],
)
def test_wrong_parts_of_the_annotations_are_named(
    folder: Path, field: str, value: Any, message: str
) -> None:
    change(folder, lambda content: content.update({field: value}))
    with pytest.raises(StageError, match=re.escape(f"coco: {folder / 'boxes.json'}: {message}")):
        dataset(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON: "), ("[]", "not COCO annotations; "), ("", "not JSON: ")]
)
def test_a_file_that_holds_no_annotations_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "boxes.json").write_text(text, encoding="utf-8")
    with pytest.raises(StageError, match=re.escape(f"coco: {folder / 'boxes.json'}: {message}")):
        dataset(folder)


def test_calibrating_on_all_that_is_annotated_is_refused(folder: Path) -> None:
    message = "boxes.json has 4 images and calibration_count is 4, which leaves none for evaluation; set a smaller calibration_count, or give a folder"
    with pytest.raises(StageError, match=re.escape(message)):
        dataset(folder, calibration_count=4)


def official(annotations: Path, detections: list[dict[str, Any]], images: list[int]) -> float:
    """COCO's own mean average precision at an overlap of 0.5."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.params.imgIds, evaluation.params.iouThrs = images, np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def test_scores_are_those_of_pycocotools_on_the_untouched_annotations(folder: Path) -> None:
    """Boxes that are scaled to the input and matched there score as they do in the pixels of the pictures."""
    random = np.random.default_rng(0)
    truths, detections = [], []
    for number in range(1, 61):
        box = np.array([*random.uniform(0, 9, 2), *random.uniform(4, 12, 2)])
        image, category, crowd = (
            random.integers(11, 14),
            random.choice([1, 18, 90]),
            random.random() < 0.2,
        )
        same = {"image_id": int(image), "category_id": int(category)}
        truths.append(
            {**same, "id": number, "bbox": box.tolist(), "iscrowd": int(crowd), "area": 50.0}
        )
        seen = box + random.uniform(0, 2, 4)
        detections.append({**same, "bbox": seen.tolist(), "score": float(random.random())})
    change(folder, lambda content: content.update(annotations=truths))
    metric, contributions = coco_map(), []
    for sample in dataset(folder, fit="letterbox").evaluation:
        number = int(sample.id[0])
        own = [each for each in detections if each["image_id"] == number + 10]
        width, height = SIZES[number]
        scale = min(60 / width, 40 / height)
        inner = np.array([round(width * scale), round(height * scale)])
        boxes = np.array([each["bbox"] for each in own]).reshape(-1, 2, 2)
        boxes[:, 1] += boxes[:, 0]
        boxes = boxes * (inner / SIZES[number]) + ([60, 40] - inner) // 2
        labels = np.array([[1, 18, 90].index(each["category_id"]) for each in own])
        found = {
            "boxes": boxes.reshape(-1, 4),
            "labels": labels,
            "scores": np.array([each["score"] for each in own]),
        }
        contributions.append(metric.contribution(found, sample.target))
    expected = official(folder / "boxes.json", detections, [11, 12, 13])
    assert 0.1 < expected < 0.9
    assert metric.reduce(contributions) == pytest.approx(expected, abs=1e-12)

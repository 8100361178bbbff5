"""Pictures with boxes, annotated as COCO's are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qpipe.errors import StageError
from qpipe.types import Dataset, Sample
from qpipe_plugins.samples import picture_files
from qpipe_plugins.samples.coco_annotations import Annotated, read
from qpipe_plugins.samples.labelled_files import check_disjoint, find, spread

if TYPE_CHECKING:
    from PIL.Image import Image


def coco(
    *,
    images: Path,
    annotations: Path,
    size: int | tuple[int, int],
    mean: float | list[float],
    std: float | list[float],
    calibration: Path | None = None,
    fit: Literal["stretch", "letterbox"] = "stretch",
    layout: picture_files.Layout = "NCHW",
    colours: picture_files.Colours = "RGB",
    dtype: picture_files.Fed = "float32",
    calibrate: int = 256,
    evaluate: int | None = None,
) -> Dataset:
    """Images with boxes as COCO annotates them, scaled to the network's input; labels in the order of category ids.

    `images` is the folder that the file names of `annotations` (instances_val2017.json) are relative to. Calibration
    takes `calibrate` images of the folder `calibration` (train2017: no annotations needed), or where that is not given
    as many of the annotated ones, evenly spread, and these are not evaluated. `evaluate` takes that many of the others.
    `size` is one number or [height, width]; fit letterbox keeps the proportions, with grey (114) around the image, as
    YOLO networks are trained. A target has boxes (x1, y1, x2, y2 in pixels of the input), labels (the place of the
    category's id among all ids in order: 0 for the lowest) and, where there is one, iscrowd; boxes without area count,
    as in pycocotools. EXIF orientation applies unless width and height in the annotations say otherwise.
    """
    everything, classes = read(annotations, images)
    if calibration is None:
        chosen, rest = _split(everything, calibrate, annotations)
    else:
        found = find("coco", "image", picture_files.SUFFIXES, calibration)
        chosen = [
            Annotated(each.file, each.name) for each in spread("coco", "image", found, calibrate)
        ]
        rest = everything
    scored = spread("coco", "image", rest, evaluate)
    files = [[each.file for each in part] for part in (chosen, scored)]
    picture_files.check_readable("coco", [*files[0], *files[1]])
    check_disjoint("coco", *files)
    how = picture_files.preprocessing("coco", mean, std, layout, dtype)
    place = picture_files.letterbox if fit == "letterbox" else picture_files.stretch
    room = (size, size) if isinstance(size, int) else size

    def stream(part: Sequence[Annotated]) -> Iterator[Sample]:
        for each, image in picture_files.decoded("coco", part, _read):
            placed = place(image, room)
            yield Sample(
                each.name,
                {"image": picture_files.pixels(placed.image, colours)},
                _target(each, placed),
            )

    return Dataset(stream(chosen), stream(scored), {"image": how}, classes)


def _split(
    everything: list[Annotated], calibrate: int, annotations: Path
) -> tuple[list[Annotated], list[Annotated]]:
    if calibrate >= len(everything):
        has = f"{annotations} has {len(everything)} images, calibrate takes {calibrate} and leaves none to evaluate"
        raise StageError(f"coco: {has}; set a smaller calibrate, or a folder calibration")
    chosen = spread("coco", "image", everything, calibrate)
    names = {each.name for each in chosen}
    return chosen, [each for each in everything if each.name not in names]


def _read(each: Annotated) -> Image:
    image = picture_files.upright(each.file, each.size)
    if each.size is not None and image.size != each.size:
        said, there = (f"{width} x {height}" for width, height in (each.size, image.size))
        raise StageError(
            f"coco: {each.file} is {there}, its annotations are of {said}; give the picture they belong to"
        )
    return image


def _target(each: Annotated, placed: picture_files.Placed) -> dict[str, list[Any]]:
    boxes = []
    for x, y, width, height in each.boxes:
        left = x * placed.across + placed.left
        top = y * placed.down + placed.top
        boxes.append([left, top, left + width * placed.across, top + height * placed.down])
    crowds = {"iscrowd": each.crowds} if any(each.crowds) else {}
    return {"boxes": boxes, "labels": each.labels, **crowds}

"""Images with boxes, annotated as in COCO."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from qpipe.errors import StageError
from qpipe.samples.selection import take_evenly
from qpipe.types import Dataset, Sample
from qpipe_plugins.samples import picture_files
from qpipe_plugins.samples.coco_annotations import AnnotatedImage, read_annotations
from qpipe_plugins.samples.labelled_files import (
    check_counts,
    check_disjoint,
    find_files,
    split_evenly,
)
from qpipe_plugins.samples.picture_decoding import (
    ColorOrder,
    Orientation,
    Placement,
    decode_picture,
    placement,
    upright_size,
)

KIND = picture_files.image_kind("coco")


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
    color_order: ColorOrder = "RGB",
    dtype: picture_files.InputType = "float32",
    calibration_count: int = 256,
    evaluation_count: int | None = None,
) -> Dataset:
    """Read images with the boxes of COCO annotations, scaled to the size of the network's input.

    `images` is the folder that the file names of `annotations` (instances_val2017.json) are
    relative to. Calibration takes `calibration_count` images of the folder `calibration`
    (train2017; it needs no annotations). Without that folder it takes as many of the annotated
    images, evenly spread, and these are not evaluated. `evaluation_count` limits the others.
    `size` is one number or [height, width]; fit letterbox keeps the proportions, with grey (114)
    around the image, as YOLO networks are trained. A target has boxes (x1, y1, x2, y2 in pixels of
    the input), labels (the place of the category's id among all ids in order: 0 for the lowest)
    and, where there is one, iscrowd; boxes without area count, as in pycocotools. EXIF orientation
    applies unless width and height in the annotations say otherwise.
    """
    check_counts("coco", calibration_count=calibration_count, evaluation_count=evaluation_count)
    annotated, classes = read_annotations(annotations, images)
    if calibration is None:
        _check_some_are_left(annotated, calibration_count, annotations)
        calibration_images, other_images = split_evenly(annotated, calibration_count)
    else:
        calibration_images = _images_without_boxes(calibration, calibration_count)
        other_images = annotated
    evaluation_images = take_evenly(other_images, evaluation_count)
    picture_files.check_readable(KIND, [*calibration_images, *evaluation_images])
    check_disjoint("coco", calibration=calibration_images, evaluation=evaluation_images)
    preprocessing = picture_files.image_preprocessing(
        "coco", mean=mean, std=std, layout=layout, dtype=dtype
    )
    network_size = picture_files.input_size(size)
    decode = partial(decode_picture, size=network_size, fit=fit, color_order=color_order)

    def read_sample(annotated: AnnotatedImage) -> Sample:
        orientation = _orientation(annotated)
        source_size = annotated.size or upright_size(annotated.file, orientation)
        place = placement(source_size, size=network_size, fit=fit)
        inputs = decode(annotated.file, orientation=orientation)
        return Sample(annotated.name, inputs, _target(annotated, source_size, place))

    return Dataset(
        picture_files.picture_samples(KIND, calibration_images, read_sample),
        picture_files.picture_samples(KIND, evaluation_images, read_sample),
        {"image": preprocessing},
        classes,
        decode,
    )


def _check_some_are_left(
    annotated: Sequence[AnnotatedImage], calibration_count: int, annotations: Path
) -> None:
    if calibration_count < len(annotated):
        return
    problem = (
        f"{annotations} has {len(annotated)} images and calibration_count is {calibration_count}, "
        "which leaves none for evaluation"
    )
    raise StageError(
        f"coco: {problem}; set a smaller calibration_count, or give a folder calibration"
    )


def _images_without_boxes(folder: Path, count: int) -> list[AnnotatedImage]:
    files = take_evenly(find_files(KIND, folder), count)
    return [AnnotatedImage(image.file, image.name) for image in files]


def _orientation(annotated: AnnotatedImage) -> Orientation:
    """Return `stored` where the annotations are for the picture as it is stored, not turned.

    Raise StageError where they are for a picture of another size.
    """
    if annotated.size is None:
        return "exif"
    size = upright_size(annotated.file, "exif")
    if size == annotated.size:
        return "exif"
    if upright_size(annotated.file, "stored") == annotated.size:
        return "stored"
    problem = (
        f"{annotated.file} is {_describe_size(size)}, "
        f"but its annotations are for {_describe_size(annotated.size)}"
    )
    raise StageError(f"coco: {problem}; give the image that was annotated")


def _describe_size(size: tuple[int, int]) -> str:
    width, height = size
    return f"{width} x {height}"


def _target(
    annotated: AnnotatedImage, source_size: tuple[int, int], place: Placement
) -> dict[str, list[list[float]] | list[int]]:
    """Return boxes in pixels of the network's input, labels, and iscrowd where there is a crowd."""
    source_width, source_height = source_size
    scale_x = place.width / source_width
    scale_y = place.height / source_height
    boxes = []
    for x, y, width, height in annotated.boxes:
        left = x * scale_x + place.left
        top = y * scale_y + place.top
        right = left + width * scale_x
        bottom = top + height * scale_y
        boxes.append([left, top, right, bottom])
    target: dict[str, list[list[float]] | list[int]] = {"boxes": boxes, "labels": annotated.labels}
    if any(annotated.crowds):
        target["iscrowd"] = annotated.crowds
    return target

"""Images from two folders, labelled by a CSV or by the folders they lie in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qpipe.errors import StageError
from qpipe.types import Dataset, Sample
from qpipe_plugins.samples import picture_files
from qpipe_plugins.samples.labelled_files import (
    Labelled,
    check_disjoint,
    class_names,
    divided,
    find,
    spread,
    target,
)

if TYPE_CHECKING:
    from PIL.Image import Image


def images(
    *,
    evaluation: Path,
    calibration: Path | None = None,
    mean: float | list[float],
    std: float | list[float],
    calibration_labels: Path | None = None,
    evaluation_labels: Path | None = None,
    size: int | tuple[int, int] = 224,
    resize: int | None = None,
    crop: Literal["center", "none"] = "center",
    layout: picture_files.Layout = "NCHW",
    colours: picture_files.Colours = "RGB",
    dtype: picture_files.Fed = "float32",
    calibrate: int | None = None,
    evaluate: int | None = None,
) -> Dataset:
    """Images from folders; labels from a CSV (file,label), from class folders, or none.

    The short side is resized to `resize` (else to `size`, where the image is not of that size already; bilinear), then
    the centre cropped; with crop none the whole image is squeezed into `size`, which may then be [height, width]. The
    network gets (pixel - mean) / std, mean and std in pixels of 0 to 255. `calibrate` and `evaluate` take that many,
    evenly spread; without `calibration`, `calibrate` of the evaluation images serve for it, and are not evaluated.
    Classes that have names are numbered in the order of these, as the whole of `evaluation` has them. Pictures are
    turned as their EXIF orientation says; grey, palette, CMYK and 16 bits become RGB of 8 (of 16 the upper ones),
    transparency is dropped; with colours grey all become one channel.
    """
    room = (size, size) if isinstance(size, int) else size
    if crop == "center" and room[0] != room[1]:
        raise StageError(
            f"images: size is {list(room)}, which is no square to crop; set crop: none"
        )
    if crop == "center" and resize is not None and resize < room[0]:
        raise StageError(
            f"images: resize is {resize}, less than size {room[0]}; make it at least that"
        )
    apart = _find(calibration, calibration_labels) if calibration else None
    everything = rest = _find(evaluation, evaluation_labels)
    if apart is None:
        chosen, rest = divided("images", "image", everything, calibrate)
    else:
        chosen = spread("images", "image", apart, calibrate)
    scored = spread("images", "image", rest, evaluate)
    files = [[each.file for each in part] for part in (chosen, scored)]
    picture_files.check_readable("images", [*files[0], *files[1]])
    check_disjoint("images", *files)
    classes = class_names(
        everything
    )  # of all: a class keeps its number however few images are taken
    how = picture_files.preprocessing("images", mean, std, layout, dtype)

    def stream(part: Sequence[Labelled]) -> Iterator[Sample]:
        for each, image in picture_files.decoded(
            "images", part, lambda item: picture_files.upright(item.file)
        ):
            array = picture_files.pixels(_fitted(image, room, resize, crop), colours)
            yield Sample(each.name, {"image": array}, target(each, classes))

    return Dataset(stream(chosen), stream(scored), {"image": how}, classes)


def _find(folder: Path, labels: Path | None) -> list[Labelled]:
    return find("images", "image", picture_files.SUFFIXES, folder, labels)


def _fitted(image: Image, size: tuple[int, int], resize: int | None, crop: str) -> Image:
    if crop == "none":
        return picture_files.stretch(image, size).image
    if resize is None and image.size == size:
        return image
    return picture_files.crop(image, size[0], resize or size[0])

"""Images from folders, labelled by a CSV or by the folders that they lie in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from qpipe.errors import StageError
from qpipe.types import Dataset, Sample
from qpipe_plugins.samples import picture_files
from qpipe_plugins.samples.labelled_files import (
    ClassOrder,
    LabelledFile,
    check_disjoint,
    class_number,
    select_files,
)
from qpipe_plugins.samples.picture_decoding import ColorOrder, Size, decode_picture

KIND = picture_files.image_kind("images")


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
    color_order: ColorOrder = "RGB",
    dtype: picture_files.InputType = "float32",
    calibration_count: int | None = None,
    evaluation_count: int | None = None,
    class_order: ClassOrder = "number",
) -> Dataset:
    """Read images from folders; labels from a CSV (file,label), from class folders, or none.

    The short side is resized (bilinear) to `resize`, or to `size` where the image does not have
    that size already; then the centre is cropped. With crop none the whole image is stretched to
    `size`, which may then be [height, width]. The network receives (pixel - mean) / std, with mean
    and std in pixels of 0 to 255. `calibration_count` and `evaluation_count` limit the number of
    images, evenly spread; without `calibration`, `calibration_count` of the evaluation images serve
    for it, and these are not evaluated. Classes are those of the whole of `evaluation`, numbered in
    the order of their names; names that are all whole numbers (folders 0 to 11) in the order of
    these, unless class_order is name, which puts 10 before 2. Pictures are turned as their EXIF
    orientation says; grey, palette, CMYK and 16-bit pictures become RGB of 8 bits (of 16 bits the
    upper 8), transparency is dropped; with color_order grey all become one channel.
    """
    network_size = picture_files.input_size(size)
    _check_crop(network_size, resize, crop)
    files = select_files(
        KIND,
        calibration=calibration,
        calibration_labels=calibration_labels,
        calibration_count=calibration_count,
        evaluation=evaluation,
        evaluation_labels=evaluation_labels,
        evaluation_count=evaluation_count,
        class_order=class_order,
    )
    picture_files.check_readable(KIND, [*files.calibration, *files.evaluation])
    check_disjoint("images", calibration=files.calibration, evaluation=files.evaluation)
    preprocessing = picture_files.image_preprocessing(
        "images", mean=mean, std=std, layout=layout, dtype=dtype
    )

    decode = partial(
        decode_picture,
        size=network_size,
        fit="stretch" if crop == "none" else "crop",
        short_side=resize,
        color_order=color_order,
    )

    def read_sample(labelled: LabelledFile) -> Sample:
        inputs = decode(labelled.file)
        return Sample(labelled.name, inputs, class_number(labelled, files.classes))

    return Dataset(
        picture_files.picture_samples(KIND, files.calibration, read_sample),
        picture_files.picture_samples(KIND, files.evaluation, read_sample),
        {"image": preprocessing},
        files.classes,
        decode,
    )


def _check_crop(size: Size, resize: int | None, crop: str) -> None:
    if crop == "none":
        return
    height, width = size
    if height != width:
        raise StageError(
            f"images: size is {list(size)}, but crop center gives a square; set crop: none"
        )
    if resize is not None and resize < height:
        raise StageError(
            f"images: resize is {resize}, less than size; it must be at least {height}"
        )

"""Picture files as samples: the options that stages share, and files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from qpipe.errors import StageError
from qpipe.types import Preprocessing, Sample
from qpipe_plugins.samples.labelled_files import (
    FileItem,
    FileKind,
    FileSamples,
    HasFile,
    failure_reason,
    raise_for_unreadable,
)
from qpipe_plugins.samples.picture_decoding import Size, open_picture

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
Layout = Literal["NCHW", "NHWC"]
InputType = Literal["float32", "float16", "float64", "uint8"]


def image_kind(stage: str) -> FileKind:
    """Return what a stage that reads pictures calls its files."""
    return FileKind(stage, "image", SUFFIXES)


def input_size(size: int | tuple[int, int]) -> Size:
    """Return height and width; one number is both."""
    if isinstance(size, int):
        return size, size
    return size


def image_preprocessing(
    stage: str,
    *,
    mean: float | list[float],
    std: float | list[float],
    layout: Layout,
    dtype: InputType,
) -> Preprocessing:
    """Return how pixels of 0 to 255 are fed: (pixel - mean) / std.

    Mean and std are one number, or one for each of the three channels.
    """
    means = _channel_numbers(mean)
    deviations = _channel_numbers(std)
    hint = "or three, one for each channel"
    if len(means) not in (1, 3):
        raise StageError(f"{stage}: mean is {mean}; give one number, {hint}")
    if len(deviations) not in (1, 3) or 0 in deviations:
        raise StageError(f"{stage}: std is {std}; give one number that is not 0, {hint}")
    return Preprocessing(means, deviations, layout, dtype)


def _channel_numbers(value: float | list[float]) -> tuple[float, ...]:
    if isinstance(value, list):
        return tuple(float(number) for number in value)
    return (float(value),)


# ---- reading


def check_readable(kind: FileKind, items: Sequence[HasFile]) -> None:
    """Raise StageError that names the files that are missing, empty or not pictures.

    This is much cheaper than decoding them all.
    """
    reasons = {}
    for item in items:
        try:
            with open_picture(item.file) as image:
                image.verify()
        except Exception as error:  # noqa: BLE001  (Pillow raises any class on damaged files)
            reasons[item.file] = failure_reason(item.file, error)
    raise_for_unreadable(kind, reasons, len(items))


def picture_samples(
    kind: FileKind, items: Sequence[FileItem], read_sample: Callable[[FileItem], Sample]
) -> FileSamples[FileItem]:
    """Return samples that are pictures; one pass over them tells all files that are damaged."""
    # Pillow raises any class on damaged files
    return FileSamples(kind, items, read_sample, (Exception,))

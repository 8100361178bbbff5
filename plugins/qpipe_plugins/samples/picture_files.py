"""Picture files as arrays: decoding to upright RGB, fitting to the network's input, pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array, Preprocessing, Sample
from qpipe_plugins.samples.labelled_files import (
    FileItem,
    FileKind,
    FileSamples,
    HasFile,
    failure_reason,
    raise_for_unreadable,
)

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
PADDING_LEVEL = 114  # the grey that YOLO networks are trained with around their pictures
Layout = Literal["NCHW", "NHWC"]
ColorOrder = Literal["RGB", "BGR", "grey"]
InputType = Literal["float32", "uint8"]
Size = tuple[int, int]  # height, width, as networks have them


class FittedPicture(NamedTuple):
    """A picture fitted to the network's input.

    The point (x, y) of the source is now at (x * scale_x + left, y * scale_y + top).
    """

    image: Image
    scale_x: float
    scale_y: float
    left: int = 0
    top: int = 0


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
            with _open_picture(item.file) as image:
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


def _open_picture(file: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise ValueError("not an image") from None


def read_upright(file: Path, stored_size: tuple[int, int] | None = None) -> Image:
    """Return a file's picture as RGB, turned as its EXIF orientation says.

    It is not turned where only the picture as it is stored has the size (width, height) given.
    """
    from PIL import ImageOps

    with _open_picture(file) as stored:
        turned = ImageOps.exif_transpose(stored)
        if stored_size == stored.size != turned.size:
            return _convert_to_rgb(stored)
        return _convert_to_rgb(turned)


def _convert_to_rgb(image: Image) -> Image:
    from PIL import Image as pillow  # noqa: N813  (the module and its class have one name)

    # Pillow's own conversion of I;16 clips at 255; of 16-bit RGB it takes the upper byte
    if image.mode.startswith("I;16"):
        upper_bytes = (np.asarray(image) >> 8).astype(np.uint8)
        return pillow.fromarray(upper_bytes).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            "the range of its 32-bit pixels is not known; convert it to 8 bits a channel"
        )
    if "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def pixel_array(image: Image, color_order: ColorOrder) -> Array:
    """Return uint8 [H, W, 3], or [H, W, 1] for grey."""
    if color_order == "grey":
        return np.asarray(image.convert("L"))[:, :, np.newaxis]
    pixels = np.asarray(image)
    if color_order == "BGR":
        return pixels[:, :, ::-1]
    return pixels


# ---- fitting


def crop_center(image: Image, *, side: int, short_side: int) -> Image:
    """Resize the short side to `short_side`; return the square of `side` in the centre."""
    width, height = image.size
    if width > height:
        new_size = (max(short_side, round(width * short_side / height)), short_side)
    else:
        new_size = (short_side, max(short_side, round(height * short_side / width)))
    resized = _resize(image, new_size)
    left = (resized.width - side) // 2
    top = (resized.height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def stretch(image: Image, size: Size) -> FittedPicture:
    """Resize the whole picture to a size, whatever that does to its proportions."""
    height, width = size
    resized = _resize(image, (width, height))
    return FittedPicture(resized, width / image.width, height / image.height)


def letterbox(image: Image, size: Size) -> FittedPicture:
    """Resize to the largest that fits with its proportions kept, centred on grey (114).

    This is how YOLO networks are trained.
    """
    from PIL import Image as pillow  # noqa: N813

    height, width = size
    scale = min(height / image.height, width / image.width)
    inner_width = max(1, round(image.width * scale))
    inner_height = max(1, round(image.height * scale))
    resized = _resize(image, (inner_width, inner_height))
    left = (width - inner_width) // 2
    top = (height - inner_height) // 2
    canvas = pillow.new("RGB", (width, height), (PADDING_LEVEL,) * 3)
    canvas.paste(resized, (left, top))
    scale_x = inner_width / image.width
    scale_y = inner_height / image.height
    return FittedPicture(canvas, scale_x, scale_y, left, top)


def _resize(image: Image, size: tuple[int, int]) -> Image:
    """Return the image at a size (width, height): bilinear, over all pixels that fall on one."""
    from PIL import Image as pillow  # noqa: N813

    if image.size == size:
        return image
    return image.resize(size, pillow.Resampling.BILINEAR)

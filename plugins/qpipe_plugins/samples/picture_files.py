"""What stages that feed pictures share: files to upright RGB pixels, and how those are fitted and fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from qpipe.errors import StageError
from qpipe.types import Array, Preprocessing
from qpipe_plugins.samples.labelled_files import F, check_read, read_each, reason

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
PADDING = 114  # the grey that YOLO networks are trained with around their pictures
Layout = Literal["NCHW", "NHWC"]
Colours = Literal["RGB", "BGR", "grey"]
Fed = Literal["float32", "uint8"]


class Placed(NamedTuple):
    """A picture fitted into the network's input, and where (x, y) of the source went: (x * across + left, ...)."""

    image: Image
    across: float
    down: float
    left: int = 0
    top: int = 0


def preprocessing(
    stage: str, mean: float | list[float], std: float | list[float], layout: Layout, dtype: Fed
) -> Preprocessing:
    """How pixels of 0 to 255 are fed: (pixel - mean) / std, one number or one for each of the three channels."""
    return Preprocessing(
        _channels(stage, mean, "mean"), _channels(stage, std, "std"), layout, dtype
    )


def _channels(stage: str, value: float | list[float], name: str) -> tuple[float, ...]:
    values = (value,) if isinstance(value, int | float) else tuple(value)
    if len(values) not in (1, 3) or (name == "std" and 0 in values):
        raise StageError(
            f"{stage}: {name} is {value}; give one number, or three, one for each channel"
        )
    return tuple(float(v) for v in values)


# ---- reading


def check_readable(stage: str, files: Sequence[Path]) -> None:
    """StageError naming the files that are missing, empty or no pictures; much cheaper than decoding them all."""
    broken = {}
    for file in files:
        try:
            with _opened(file) as image:
                image.verify()
        except Exception as error:  # noqa: BLE001  (Pillow's readers raise of every class on files that are cut or lie)
            broken[file] = reason(file, error)
    check_read(stage, "image", broken, len(files))


def decoded(
    stage: str, items: Sequence[F], read: Callable[[F], Image]
) -> Iterator[tuple[F, Image]]:
    """Each with its picture; StageError at the end, naming all that turned out to be cut or damaged."""
    return read_each(stage, "image", items, read, (Exception,))  # as above


def _opened(file: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise ValueError("no image") from None


def upright(file: Path, size: tuple[int, int] | None = None) -> Image:
    """The file's picture as RGB, turned as its EXIF orientation says; but left as it is stored where that alone has
    this (width, height)."""
    from PIL import ImageOps

    with _opened(file) as stored:
        turned = ImageOps.exif_transpose(stored)
        return _rgb(stored if size == stored.size != turned.size else turned)


def _rgb(image: Image) -> Image:
    from PIL import Image as pillow  # noqa: N813  (the module and its class have one name)

    if image.mode.startswith(
        "I;16"
    ):  # Pillow's own conversion cuts off at 255; of 16-bit RGB it takes the upper byte
        return pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            "pixels of 32 bits have no range that is known; convert it to 8 bits a channel"
        )
    return (
        image.convert("RGBA").convert("RGB")
        if "transparency" in image.info
        else image.convert("RGB")
    )


def pixels(image: Image, colours: Colours) -> Array:
    """uint8 [H, W, 3], or of grey [H, W, 1]."""
    if colours == "grey":
        return np.asarray(image.convert("L"))[:, :, np.newaxis]
    array = np.asarray(image)
    return array[:, :, ::-1] if colours == "BGR" else array


# ---- fitting: sizes are (height, width), as networks have them


def crop(image: Image, size: int, short: int) -> Image:
    """The short side resized to `short`, and of that the square in the centre."""
    width, height = image.size
    wanted = (short, max(short, round(height * short / width)))
    if width > height:
        wanted = (max(short, round(width * short / height)), short)
    image = resized(image, wanted)
    left = (image.width - size) // 2
    top = (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def stretch(image: Image, size: tuple[int, int]) -> Placed:
    """Squeezed into the size, whatever that does to its proportions."""
    height, width = size
    return Placed(resized(image, (width, height)), width / image.width, height / image.height)


def letterbox(image: Image, size: tuple[int, int]) -> Placed:
    """As large as fits with its proportions kept, in the middle, grey (114) around it: as YOLO networks are trained."""
    from PIL import Image as pillow  # noqa: N813

    height, width = size
    scale = min(height / image.height, width / image.width)
    inner = resized(
        image, (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    )
    left = (width - inner.width) // 2
    top = (height - inner.height) // 2
    canvas = pillow.new("RGB", (width, height), (PADDING,) * 3)
    canvas.paste(inner, (left, top))
    return Placed(canvas, inner.width / image.width, inner.height / image.height, left, top)


def resized(image: Image, size: tuple[int, int]) -> Image:
    """Of that (width, height); bilinear, over all pixels that fall on one."""
    from PIL import Image as pillow  # noqa: N813

    return image if image.size == size else image.resize(size, pillow.Resampling.BILINEAR)

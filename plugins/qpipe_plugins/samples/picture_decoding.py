"""Picture files as arrays: decoding to upright RGB, fitting to the network's input, pixels.

`qpipe export` hands this file over: it needs numpy and Pillow, and nothing else.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

PADDING_LEVEL = 114  # the grey that YOLO networks are trained with around their pictures
EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
# whatever a file is called: of the others, Pillow passes PostScript to another program
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
MOST_PIXELS = 89_478_485  # beyond which Pillow suspects a file that is small and unpacks to much
Pixels = NDArray[np.uint8]
Fit = Literal["crop", "stretch", "letterbox"]
ColorOrder = Literal["RGB", "BGR", "grey"]
Orientation = Literal["exif", "stored"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]  # Pillow's
Size = tuple[int, int]  # height, width, as networks have them


class Placement(NamedTuple):
    """Where the whole source lies in the network's input, in its pixels; it may go beyond them."""

    left: int
    top: int
    width: int
    height: int


def decode_picture(
    file: Path,
    *,
    size: Size,
    fit: Fit,
    short_side: int | None = None,
    color_order: ColorOrder = "RGB",
    resampling: Filter = "bilinear",
    padding: int = PADDING_LEVEL,
    orientation: Orientation = "exif",
) -> dict[str, Pixels]:
    """Return a picture file as the input `image`: uint8 [H, W, 3], or [H, W, 1] for grey.

    orientation exif turns it as its EXIF says. Grey, palette, CMYK and 16-bit pictures become RGB
    of 8 bits (of 16 bits the upper 8), transparency is dropped. fit crop resizes the short side to
    `short_side` (by default the height of `size`) and takes the centre, stretch resizes the whole
    picture to `size` [height, width], letterbox to the largest that fits with its proportions kept,
    centred on grey of the level `padding`.
    """
    image = _read_rgb(file, orientation)
    place = placement(image.size, size=size, fit=fit, short_side=short_side)
    resized = _resize(image, (place.width, place.height), resampling)
    return {"image": _pixels(_put(resized, place, size, padding), color_order)}


def placement(
    source_size: tuple[int, int], *, size: Size, fit: Fit, short_side: int | None = None
) -> Placement:
    """Return the place of a source of a size (width, height) in an input of `size`."""
    height, width = size
    if fit == "crop":
        inner_width, inner_height = _size_of_short_side(source_size, short_side or height)
    elif fit == "stretch":
        inner_width, inner_height = width, height
    else:
        inner_width, inner_height = _largest_size(source_size, size)
    # halves are rounded towards zero, whichever of the two is larger
    left = int((width - inner_width) / 2)
    top = int((height - inner_height) / 2)
    return Placement(left, top, inner_width, inner_height)


def _size_of_short_side(source_size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return width and height with the proportions kept."""
    width, height = source_size
    if width > height:
        return max(short_side, round(width * short_side / height)), short_side
    return short_side, max(short_side, round(height * short_side / width))


def _largest_size(source_size: tuple[int, int], size: Size) -> tuple[int, int]:
    """Return the largest width and height that fit, with the proportions kept."""
    source_width, source_height = source_size
    height, width = size
    scale = min(height / source_height, width / source_width)
    return max(1, round(source_width * scale)), max(1, round(source_height * scale))


# ---- reading


def open_picture(file: Path) -> Image:
    """Return a file's picture as it is stored, not decoded yet; it is to be closed."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("not an image") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise ValueError(f"more than {MOST_PIXELS:,} pixels; make it smaller") from None


def upright_size(file: Path, orientation: Orientation) -> tuple[int, int]:
    """Return width and height of a file's picture; its pixels are not decoded for that."""
    with open_picture(file) as stored:
        is_sideways = stored.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
        if orientation == "exif" and is_sideways:
            return stored.height, stored.width
        return stored.size


def _read_rgb(file: Path, orientation: Orientation) -> Image:
    from PIL import ImageOps

    with open_picture(file) as stored:
        if orientation == "stored":
            return _convert_to_rgb(stored)
        return _convert_to_rgb(ImageOps.exif_transpose(stored))


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


# ---- pixels


def _resize(image: Image, size: tuple[int, int], resampling: Filter) -> Image:
    """Return the image at a size (width, height), of all pixels that fall on one."""
    from PIL import Image as pillow  # noqa: N813

    if image.size == size:
        return image
    width, height = size
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels become {width} x {height} before they are "
            "cut; cut it, or use fit: letterbox"
        )
    return image.resize(size, pillow.Resampling[resampling.upper()])


def _put(image: Image, place: Placement, size: Size, padding: int) -> Image:
    """Return a picture of a size with the image at its place, cut at the border."""
    from PIL import Image as pillow  # noqa: N813

    height, width = size
    if image.size == (width, height):
        return image
    canvas = pillow.new("RGB", (width, height), (padding,) * 3)
    canvas.paste(image, (place.left, place.top))
    return canvas


def _pixels(image: Image, color_order: ColorOrder) -> Pixels:
    if color_order == "grey":
        return np.asarray(image.convert("L"))[:, :, np.newaxis]
    pixels = np.asarray(image)
    if color_order == "BGR":
        return pixels[:, :, ::-1]
    return pixels

"""The size that pictures have, and whether a network whose height and width are open takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qpipe.errors import StageError
from qpipe.quant.inference import infer, open_file
from qpipe.samples.selection import TRIAL_COUNT, take_evenly
from qpipe.start.network_family import Size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
ORIENTATION_TAG = 0x0112  # of EXIF; from 5 on the picture lies on its side
FIRST_LYING = 5
LONGEST_SIDE = 1280  # of an input; larger pictures are photographs that are to be made smaller
STRIDE = 32  # that the sides of inputs are multiples of, where networks need any


def common_size(folder: Path) -> Size | None:
    """Return the size of all pictures in a folder, by the headers of some; None where it differs.

    None also for pictures that are larger than inputs usually are.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    sizes = {_picture_size(file) for file in take_evenly(files, TRIAL_COUNT)}
    if len(sizes) != 1:
        return None
    (size,) = sizes
    return size if size is not None and max(size) <= LONGEST_SIDE else None


def _picture_size(file: Path) -> Size | None:
    """Return height and width of an upright picture; None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            width, height = image.size
            is_lying = image.getexif().get(ORIENTATION_TAG, 1) >= FIRST_LYING
    except Exception:  # noqa: BLE001  (Pillow raises any class on damaged files; the stage names them)
        return None
    return (width, height) if is_lying else (height, width)


def accepted_shape(file: Path, name: str, shapes: Sequence[Sequence[int]], dtype: str) -> list[int]:
    """Return the first of these shapes that a network runs on, or else the last."""
    if len(shapes) == 1:
        return list(shapes[0])
    try:
        session = open_file(file, optimize=False)
    except StageError:
        return list(shapes[-1])
    for shape in shapes[:-1]:
        try:
            infer(session, {name: np.zeros(shape, dtype)})
        except StageError:
            continue
        return list(shape)
    return list(shapes[-1])


def rounded_up(size: Size) -> Size:
    """Return the size with sides that networks with strides take."""
    height, width = (STRIDE * math.ceil(side / STRIDE) for side in size)
    return height, width

"""Bounding boxes on a picture: targets in green, predictions in orange with their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

MIN_SIDE = 384  # pixels of the shorter side of a drawing, so that labels are legible
TARGET_COLOR = (0, 160, 60)
PREDICTION_COLOR = (255, 120, 0)
TEXT_COLOR = (255, 255, 255)
TARGET_WIDTH = 3
PREDICTION_WIDTH = 2
PADDING = 2  # pixels around the text of a label

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A labelled box; corners in pixels of the network's input."""

    corners: tuple[float, float, float, float]  # x1, y1, x2, y2
    label: str
    is_target: bool


def draw_boxes(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Return a copy of the picture with the boxes on it, predictions on top of targets.

    A small picture is enlarged by a whole factor.
    """
    factor = max(1, math.ceil(MIN_SIDE / min(image.size)))
    size = (image.width * factor, image.height * factor)
    drawing = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawing)
    targets = [box for box in boxes if box.is_target]
    predictions = [box for box in boxes if not box.is_target]
    for box in [*targets, *predictions]:
        _draw_box(pen, box, factor, size)
    return drawing


def _draw_box(pen: ImageDraw.ImageDraw, box: Box, factor: int, size: tuple[int, int]) -> None:
    """Draw a box with its label: above the top edge of a prediction, at the bottom of a target."""
    x1, y1, x2, y2 = (corner * factor for corner in box.corners)
    left = min(x1, x2)
    right = max(x1, x2)
    top = min(y1, y2)
    bottom = max(y1, y2)
    if box.is_target:
        color = TARGET_COLOR
        width = TARGET_WIDTH
        label_bottom = bottom
    else:
        color = PREDICTION_COLOR
        width = PREDICTION_WIDTH
        label_bottom = top
    pen.rectangle((left, top, right, bottom), outline=color, width=width)
    _draw_label(pen, box.label, position=(left, label_bottom), color=color, size=size)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    text: str,
    *,
    position: tuple[float, float],
    color: Color,
    size: tuple[int, int],
) -> None:
    """Draw a label with its bottom left corner at the position, moved to lie within the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text)
    width = right - left + 2 * PADDING
    height = bottom - top + 2 * PADDING
    x = _clamp(position[0], size[0] - width)
    y = _clamp(position[1] - height, size[1] - height)
    pen.rectangle((x, y, x + width, y + height), fill=color)
    pen.text((x + PADDING - left, y + PADDING - top), text, fill=TEXT_COLOR)


def _clamp(value: float, upper: float) -> float:
    """Return the value clamped to 0 to `upper`, or 0 where `upper` is negative."""
    return min(max(value, 0), max(upper, 0))

"""Boxes on a picture: the target's green, the predicted ones orange with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

LEAST = 384  # pixels of the shorter side of a drawing: labels are legible on it
TARGET = (0, 160, 60)
PREDICTED = (255, 120, 0)


@dataclass(frozen=True)
class Box:
    """Corners in pixels of the network's input."""

    corners: tuple[float, float, float, float]  # x1, y1, x2, y2
    label: str
    is_target: bool


def draw(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """A copy of the picture, enlarged where it is small, with the boxes on it, the predicted ones on top."""
    factor = max(1, -(-LEAST // min(image.size)))
    size = (image.width * factor, image.height * factor)
    drawn = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawn)
    for box in sorted(boxes, key=lambda each: not each.is_target):
        colour = TARGET if box.is_target else PREDICTED
        x1, y1, x2, y2 = (corner * factor for corner in box.corners)
        frame = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        pen.rectangle(frame, outline=colour, width=3 if box.is_target else 2)
        _label(
            pen, (frame[0], frame[3] if box.is_target else frame[1]), box.label, colour, drawn.size
        )
    return drawn


def _label(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Within the picture: what is predicted is named at the top of its box, the target at the bottom."""
    left, top, right, bottom = pen.textbbox((0, 0), text)
    width = right - left + 4
    height = bottom - top + 4
    x = min(max(at[0], 0), max(size[0] - width, 0))
    y = min(max(at[1] - height, 0), max(size[1] - height, 0))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill=(255, 255, 255))

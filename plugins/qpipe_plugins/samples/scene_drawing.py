"""Scenes of simple shapes with boxes, drawn from a seed: a detection data set that needs no download.

Array arithmetic is only + - * / sqrt, which IEEE 754 defines to the last bit, so that machines agree on each pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qpipe_plugins.samples.shape_distances import DISTRACTORS, SHAPES, Floats, magnitude

CLASSES: tuple[str, ...] = tuple(SHAPES)
SPLITS = {"evaluate": 0, "calibrate": 1_000_000, "train": 2_000_000}
SPLIT_SIZE = 1_000_000
VISIBLE = 0.5  # an object of which less than this part can be seen is no ground truth


@dataclass(frozen=True)
class Scene:
    """An RGB image and what is in it: boxes are x1, y1, x2, y2 in pixels, labels index CLASSES."""

    image: NDArray[np.uint8]
    boxes: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The part of the image that a shape can touch, and the shape's own coordinates there; one unit is its radius."""

    rows: slice
    columns: slice
    u: Floats
    v: Floats
    unit: float


def scene_index(split: str, number: int) -> int:
    """The index of a split's scene; the splits' ranges do not overlap."""
    if not 0 <= number < SPLIT_SIZE:
        raise ValueError(f"scene {number} of {split!r}: a split holds 0 to {SPLIT_SIZE - 1}")
    return SPLITS[split] + number


def draw_scene(seed: int, index: int, size: int = 192) -> Scene:
    """The same scene for the same three numbers, on each machine."""
    rng = np.random.default_rng([seed, index])
    canvas = background(rng, size)
    owner = np.zeros((size, size), np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    areas: list[int] = []
    for _ in range(int(rng.integers(0, 6))):
        draw_distractor(rng, canvas, owner, 90)
    for _ in range(int(rng.integers(6, 18))):
        label = int(rng.integers(len(CLASSES)))
        window = place(rng, size, 14, 120)
        distance = SHAPES[CLASSES[label]](window.u, window.v)
        inside = distance <= 0
        extent = bounding_box(inside, window)
        if extent is None or any(overlap(extent, other) > 0.3 for other in boxes):
            continue
        paint(rng, canvas, window, distance)
        boxes.append(extent)
        labels.append(label)
        areas.append(int(np.count_nonzero(inside)))
        owner[window.rows, window.columns][inside] = len(boxes)
    for _ in range(int(rng.integers(0, 4))):
        draw_distractor(rng, canvas, owner, 50)
    kept = visible_items(owner, areas)
    return Scene(
        image=develop(rng, canvas),
        boxes=np.array([boxes[item] for item in kept], np.float32).reshape(-1, 4),
        labels=np.array([labels[item] for item in kept], np.int64),
    )


def visible_items(owner: NDArray[np.uint8], areas: list[int]) -> list[int]:
    """Those that still own enough of their pixels; `owner` holds 1 for the first item, 0 where there is none."""
    visible = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:]
    return [item for item, area in enumerate(areas) if visible[item] >= VISIBLE * area]


def background(rng: np.random.Generator, size: int) -> Floats:
    """Colour noise at several scales, sometimes with stripes; planes first, 0 to 255."""
    canvas = np.empty((3, size, size), np.float32)
    canvas[:] = rng.uniform(20, 235, (3, 1, 1))
    for cells in (2, 5, 12, 40):
        if cells == 40 and rng.uniform() < 0.5:
            continue
        strength = rng.uniform(0, 60) / (1 + cells / 12)
        canvas += smooth_noise(rng, cells, size, strength)
    if rng.uniform() < 0.4:
        angle = rng.uniform(0, math.pi)
        period = rng.uniform(6, 60) * size / 192
        steps = np.arange(size, dtype=np.float32) / np.float32(period)
        phase = steps * np.float32(math.cos(angle)) + (steps * np.float32(math.sin(angle)))[:, None]
        canvas += triangle_wave(phase) * rng.uniform(-40, 40, (3, 1, 1)).astype(np.float32)
    return canvas


def smooth_noise(rng: np.random.Generator, cells: int, size: int, strength: float) -> Floats:
    """Noise in -strength to strength on a coarse grid, interpolated linearly."""
    grid = rng.uniform(-strength, strength, (3, cells + 1, cells + 1)).astype(np.float32)
    position = np.arange(size, dtype=np.float32) * np.float32(cells / size)
    low = position.astype(np.intp)
    part = position - np.floor(position)
    grid = grid[:, :, low] + (grid[:, :, low + 1] - grid[:, :, low]) * part
    noise: Floats = (grid[:, 1:] - grid[:, :-1])[:, low]
    noise *= part[:, None]
    noise += grid[:, low]
    return noise


def triangle_wave(phase: Floats) -> Floats:
    return magnitude(phase - np.floor(phase) - np.float32(0.5)) * 4 - 1


def place(rng: np.random.Generator, size: int, smallest: float, largest: float) -> Window:
    """A place, size, rotation and stretch for one shape; its centre lies in the image, its rim may not."""
    diameter = math.exp(rng.uniform(math.log(smallest), math.log(largest))) * size / 192
    stretch = math.exp(rng.uniform(-0.25, 0.25))
    across = diameter / 2 * stretch
    along = diameter / 2 / stretch
    reach = max(across, along)
    margin = min(0.8 * reach, size / 2)
    x, y = rng.uniform(margin, size - margin, 2)
    angle = rng.uniform(0, 2 * math.pi)
    left, top = (max(0, math.floor(centre - 1.2 * reach - 1)) for centre in (x, y))
    right, bottom = (min(size, math.ceil(centre + 1.2 * reach + 1)) for centre in (x, y))
    columns = np.arange(left, right, dtype=np.float32) - np.float32(x - 0.5)
    rows = (np.arange(top, bottom, dtype=np.float32) - np.float32(y - 0.5))[:, None]
    cosine = math.cos(angle)
    sine = math.sin(angle)
    u = columns * np.float32(cosine / across) + rows * np.float32(sine / across)
    v = rows * np.float32(cosine / along) - columns * np.float32(sine / along)
    return Window(slice(top, bottom), slice(left, right), u, v, unit=math.sqrt(across * along))


def bounding_box(inside: NDArray[np.bool_], window: Window) -> tuple[int, int, int, int] | None:
    rows = np.flatnonzero(inside.any(axis=1))
    columns = np.flatnonzero(inside.any(axis=0))
    if rows.size < 4 or columns.size < 4:
        return None
    left = window.columns.start
    top = window.rows.start
    return (
        left + int(columns[0]),
        top + int(rows[0]),
        left + int(columns[-1]) + 1,
        top + int(rows[-1]) + 1,
    )


def overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The shared area over the smaller box's area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((item[2] - item[0]) * (item[3] - item[1]) for item in (one, other))
    return max(0, width) * max(0, height) / smaller


def draw_distractor(
    rng: np.random.Generator, canvas: Floats, owner: NDArray[np.uint8], largest: float
) -> None:
    window = place(rng, canvas.shape[1], 8, largest)
    distance = DISTRACTORS[int(rng.integers(len(DISTRACTORS)))](window.u, window.v)
    paint(rng, canvas, window, distance)
    owner[window.rows, window.columns][distance <= 0] = 0


def paint(rng: np.random.Generator, canvas: Floats, window: Window, distance: Floats) -> None:
    """Blend a shape into the canvas: a colour apart from what is beneath, perhaps a texture and an outline."""
    region = canvas[:, window.rows, window.columns]
    beneath = region[:, region.shape[1] // 2, region.shape[2] // 2]
    colour = beneath + contrast(rng)
    fill: Floats = colour[:, None, None] + rng.uniform(-35, 35, (3, 1, 1)).astype(
        np.float32
    ) * texture(rng, window)
    pixels = distance * np.float32(window.unit)
    if rng.uniform() < 0.25:
        rim = np.clip(pixels + np.float32(rng.uniform(1.5, 3)), 0, 1)
        fill = fill + rim * (rng.uniform(0, 255, (3, 1, 1)).astype(np.float32) - fill)
    opacity = np.float32(rng.uniform(0.7, 1))
    region += np.clip(np.float32(0.5) - pixels, 0, 1) * opacity * (fill - region)


def contrast(rng: np.random.Generator) -> Floats:
    """A colour difference: mostly plain to see, at times faint."""
    direction = rng.uniform(-1, 1, 3)
    length = rng.uniform(26, 50) if rng.uniform() < 0.2 else rng.uniform(50, 190)
    return (direction * (length / max(0.3, float(np.abs(direction).max())))).astype(np.float32)


def texture(rng: np.random.Generator, window: Window) -> Floats:
    """A pattern in -1 to 1, in the shape's own coordinates."""
    kind = int(rng.integers(5))
    pitch = np.float32(rng.uniform(0.8, 3))
    if kind == 0:
        return np.zeros((1, 1), np.float32)
    if kind == 1:
        return window.u * np.float32(0.8)
    if kind == 2:
        return triangle_wave(window.v * pitch)
    if kind == 3:
        squares: Floats = np.sign(triangle_wave(window.u * pitch) * triangle_wave(window.v * pitch))
        return squares
    return rng.integers(-1, 2, window.u.shape, np.int8).astype(np.float32)


def develop(rng: np.random.Generator, canvas: Floats) -> NDArray[np.uint8]:
    """What a camera would make of it: blur, uneven light, sensor noise, gamma and a colour cast."""
    size = canvas.shape[1]
    np.clip(canvas, 0, 255, out=canvas)
    for _ in range(int(rng.integers(0, 4))):
        blur(canvas)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    across, down = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    canvas *= np.float32(rng.uniform(0.6, 1.1)) + across * ramp + down * ramp[:, None]
    noise = rng.integers(0, 256, canvas.shape, np.uint8).astype(np.float32)
    noise -= np.float32(127.5)
    noise *= np.float32(rng.uniform(0, 0.16))
    canvas += noise
    pixels = np.clip(np.rint(canvas, out=canvas), 0, 255, out=canvas).astype(np.uint8)
    gamma = math.exp(rng.uniform(-0.4, 0.4))
    curve = np.array([255 * math.pow(level / 255, gamma) for level in range(256)])
    image = np.empty((size, size, 3), np.uint8)
    for channel in range(3):
        image[:, :, channel] = np.rint(curve * rng.uniform(0.8, 1)).astype(np.uint8)[
            pixels[channel]
        ]
    return image


def blur(canvas: Floats) -> None:
    """1-2-1 down and across, in place; the outermost pixels stay."""
    for low, middle, high in (
        (canvas[:, :-2], canvas[:, 1:-1], canvas[:, 2:]),
        (canvas[:, :, :-2], canvas[:, :, 1:-1], canvas[:, :, 2:]),
    ):
        around = low + high
        around *= np.float32(0.25)
        middle *= np.float32(0.5)
        middle += around

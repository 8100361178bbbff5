"""Scenes of simple shapes with boxes, drawn from a seed: a detection data set without a download.

Array arithmetic is only + - * / sqrt, which IEEE 754 defines to the last bit, so that all machines
agree on each pixel. The order of the random draws and of the operations is part of the data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qpipe_plugins.samples.shape_distances import DISTRACTORS, SHAPES, Floats, magnitude

CLASSES: tuple[str, ...] = tuple(SHAPES)
SPLITS = {"evaluate": 0, "calibrate": 1_000_000, "train": 2_000_000}
SPLIT_SIZE = 1_000_000
REFERENCE_SIZE = 192  # sizes of shapes and periods of stripes are pixels of a scene of this size
MIN_VISIBLE = 0.5  # an object with a smaller part in view is not ground truth
MAX_OVERLAP = 0.3  # of two boxes, in areas of the smaller one
MIN_BOX_SIDE = 4  # pixels


class Box(NamedTuple):
    """A box in pixels of the image; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True)
class Scene:
    """An RGB image and what is in it: boxes are x1, y1, x2, y2 in pixels, labels index CLASSES."""

    image: NDArray[np.uint8]
    boxes: Floats
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class DrawnObject:
    """An object of a scene, with the number of its pixels before others cover them."""

    box: Box
    label: int
    area: int


@dataclass(frozen=True)
class Window:
    """The part of the image that a shape can touch, and the shape's coordinates u and v there.

    The coordinates count from the shape's centre, in units of its radius; `unit` is that radius
    in pixels.
    """

    rows: slice
    columns: slice
    u: Floats
    v: Floats
    unit: float


def scene_index(split: str, number: int) -> int:
    """Return the index of a split's scene; the ranges of the splits do not overlap."""
    if not 0 <= number < SPLIT_SIZE:
        raise ValueError(
            f"scene {number} of {split!r} does not exist; a split has 0 to {SPLIT_SIZE - 1}"
        )
    return SPLITS[split] + number


def draw_scene(seed: int, index: int, size: int = 192) -> Scene:
    """Draw the scene of these three numbers; it is the same on all machines."""
    rng = np.random.default_rng([seed, index])
    canvas = draw_background(rng, size)
    owner = np.zeros((size, size), np.uint8)
    draw_distractors(rng, canvas, owner, count=int(rng.integers(0, 6)), largest=90)
    objects = draw_objects(rng, canvas, owner, count=int(rng.integers(6, 18)))
    draw_distractors(rng, canvas, owner, count=int(rng.integers(0, 4)), largest=50)
    visible = visible_objects(owner, objects)
    boxes = [drawn.box for drawn in visible]
    labels = [drawn.label for drawn in visible]
    return Scene(
        image=simulate_camera(rng, canvas),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
    )


# ---- shapes


def draw_objects(
    rng: np.random.Generator, canvas: Floats, owner: NDArray[np.uint8], *, count: int
) -> list[DrawnObject]:
    """Draw up to `count` objects; skip those that are tiny or overlap an earlier one too much.

    `owner` receives the number of each object, from 1 on, at the pixels that it covers.
    """
    objects: list[DrawnObject] = []
    for _ in range(count):
        label = int(rng.integers(len(CLASSES)))
        window = place_shape(rng, canvas.shape[1], smallest=14, largest=120)
        distance = SHAPES[CLASSES[label]](window.u, window.v)
        inside = distance <= 0
        box = bounding_box(inside, window)
        if box is None or any(overlap(box, drawn.box) > MAX_OVERLAP for drawn in objects):
            continue
        paint_shape(rng, canvas, window, distance)
        objects.append(DrawnObject(box, label, int(np.count_nonzero(inside))))
        owner[window.rows, window.columns][inside] = len(objects)
    return objects


def draw_distractors(
    rng: np.random.Generator,
    canvas: Floats,
    owner: NDArray[np.uint8],
    *,
    count: int,
    largest: float,
) -> None:
    """Draw shapes that are not ground truth; `largest` is in pixels of a scene of 192."""
    for _ in range(count):
        window = place_shape(rng, canvas.shape[1], smallest=8, largest=largest)
        shape = DISTRACTORS[int(rng.integers(len(DISTRACTORS)))]
        distance = shape(window.u, window.v)
        paint_shape(rng, canvas, window, distance)
        owner[window.rows, window.columns][distance <= 0] = 0


def visible_objects(owner: NDArray[np.uint8], objects: list[DrawnObject]) -> list[DrawnObject]:
    """Return the objects that still own enough of their pixels.

    `owner` holds 1 for the first object, and 0 where there is none.
    """
    owned_pixels = np.bincount(owner.ravel(), minlength=len(objects) + 1)[1:]
    return [
        drawn
        for drawn, owned in zip(objects, owned_pixels, strict=True)
        if owned >= MIN_VISIBLE * drawn.area
    ]


def place_shape(rng: np.random.Generator, size: int, *, smallest: float, largest: float) -> Window:
    """Choose a place, size, rotation and stretch for one shape.

    Its centre lies in the image, its rim may not. The diameter is `smallest` to `largest` pixels
    of a scene of 192.
    """
    exponent = rng.uniform(math.log(smallest), math.log(largest))
    diameter = math.exp(exponent) * size / REFERENCE_SIZE
    stretch = math.exp(rng.uniform(-0.25, 0.25))
    radius_across = diameter / 2 * stretch
    radius_along = diameter / 2 / stretch
    reach = max(radius_across, radius_along)
    margin = min(0.8 * reach, size / 2)
    x, y = rng.uniform(margin, size - margin, 2)
    angle = rng.uniform(0, 2 * math.pi)
    rows = _pixels_in_reach(y, reach, size)
    columns = _pixels_in_reach(x, reach, size)
    right = np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(x - 0.5)
    down = (np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(y - 0.5))[:, None]
    cosine = math.cos(angle)
    sine = math.sin(angle)
    u = right * np.float32(cosine / radius_across) + down * np.float32(sine / radius_across)
    v = down * np.float32(cosine / radius_along) - right * np.float32(sine / radius_along)
    return Window(rows, columns, u, v, unit=math.sqrt(radius_across * radius_along))


def _pixels_in_reach(centre: float, reach: float, size: int) -> slice:
    """Return the pixels along one axis that a shape and its soft rim can touch."""
    start = max(0, math.floor(centre - 1.2 * reach - 1))
    stop = min(size, math.ceil(centre + 1.2 * reach + 1))
    return slice(start, stop)


def bounding_box(inside: NDArray[np.bool_], window: Window) -> Box | None:
    """Return the box around the pixels inside a shape; None where it is too small to count."""
    rows = np.flatnonzero(inside.any(axis=1))
    columns = np.flatnonzero(inside.any(axis=0))
    if rows.size < MIN_BOX_SIDE or columns.size < MIN_BOX_SIDE:
        return None
    left = window.columns.start
    top = window.rows.start
    return Box(
        left=left + int(columns[0]),
        top=top + int(rows[0]),
        right=left + int(columns[-1]) + 1,
        bottom=top + int(rows[-1]) + 1,
    )


def overlap(first: Box, second: Box) -> float:
    """Return the shared area over the smaller box's area."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    shared_area = max(0, width) * max(0, height)
    return shared_area / min(first.area, second.area)


# ---- paint


def paint_shape(rng: np.random.Generator, canvas: Floats, window: Window, distance: Floats) -> None:
    """Blend a shape into the canvas.

    Its colour differs from what is beneath; it may have a texture and an outline.
    """
    region = canvas[:, window.rows, window.columns]
    beneath = region[:, region.shape[1] // 2, region.shape[2] // 2]
    base_color = (beneath + color_difference(rng))[:, None, None]
    texture_color = random_color(rng, -35, 35)
    fill: Floats = base_color + texture_color * texture(rng, window)
    pixels_outside = distance * np.float32(window.unit)
    if rng.uniform() < 0.25:
        rim = np.clip(pixels_outside + np.float32(rng.uniform(1.5, 3)), 0, 1)
        fill = fill + rim * (random_color(rng, 0, 255) - fill)
    opacity = np.float32(rng.uniform(0.7, 1))
    coverage = np.clip(np.float32(0.5) - pixels_outside, 0, 1)
    region += coverage * opacity * (fill - region)


def random_color(rng: np.random.Generator, low: float, high: float) -> Floats:
    """Return three planes of one number each, [3, 1, 1]."""
    return rng.uniform(low, high, (3, 1, 1)).astype(np.float32)


def color_difference(rng: np.random.Generator) -> Floats:
    """Return a difference of colours [3]: mostly plain to see, one in five faint."""
    direction = rng.uniform(-1, 1, 3)
    is_faint = rng.uniform() < 0.2
    length = rng.uniform(26, 50) if is_faint else rng.uniform(50, 190)
    largest = float(np.abs(direction).max())
    return (direction * (length / max(0.3, largest))).astype(np.float32)


def texture(rng: np.random.Generator, window: Window) -> Floats:
    """Return a pattern in -1 to 1, in the shape's own coordinates.

    It is none, a ramp, stripes, a chessboard or noise.
    """
    kind = int(rng.integers(5))
    pitch = np.float32(rng.uniform(0.8, 3))
    if kind == 0:
        return np.zeros((1, 1), np.float32)
    if kind == 1:
        return window.u * np.float32(0.8)
    if kind == 2:
        return triangle_wave(window.v * pitch)
    if kind == 3:
        waves = triangle_wave(window.u * pitch) * triangle_wave(window.v * pitch)
        chessboard: Floats = np.sign(waves)
        return chessboard
    return rng.integers(-1, 2, window.u.shape, np.int8).astype(np.float32)


# ---- background and camera


def draw_background(rng: np.random.Generator, size: int) -> Floats:
    """Return colour noise at several scales, sometimes with stripes: [3, size, size], 0 to 255."""
    canvas = np.empty((3, size, size), np.float32)
    canvas[:] = rng.uniform(20, 235, (3, 1, 1))
    for cells in (2, 5, 12, 40):
        if cells == 40 and rng.uniform() < 0.5:
            continue
        strength = rng.uniform(0, 60) / (1 + cells / 12)
        canvas += smooth_noise(rng, cells=cells, size=size, strength=strength)
    if rng.uniform() < 0.4:
        add_stripes(rng, canvas)
    return canvas


def smooth_noise(rng: np.random.Generator, *, cells: int, size: int, strength: float) -> Floats:
    """Return noise in -strength to strength on a coarse grid, interpolated linearly."""
    grid = rng.uniform(-strength, strength, (3, cells + 1, cells + 1)).astype(np.float32)
    position = np.arange(size, dtype=np.float32) * np.float32(cells / size)
    cell = position.astype(np.intp)
    fraction = position - np.floor(position)
    across = grid[:, :, cell] + (grid[:, :, cell + 1] - grid[:, :, cell]) * fraction
    noise: Floats = (across[:, 1:] - across[:, :-1])[:, cell]
    noise *= fraction[:, None]
    noise += across[:, cell]
    return noise


def add_stripes(rng: np.random.Generator, canvas: Floats) -> None:
    size = canvas.shape[1]
    angle = rng.uniform(0, math.pi)
    period = rng.uniform(6, 60) * size / REFERENCE_SIZE
    steps = np.arange(size, dtype=np.float32) / np.float32(period)
    phase = steps * np.float32(math.cos(angle)) + (steps * np.float32(math.sin(angle)))[:, None]
    canvas += triangle_wave(phase) * random_color(rng, -40, 40)


def triangle_wave(phase: Floats) -> Floats:
    return magnitude(phase - np.floor(phase) - np.float32(0.5)) * 4 - 1


def simulate_camera(rng: np.random.Generator, canvas: Floats) -> NDArray[np.uint8]:
    """Return the picture [size, size, 3] that a camera would take; the canvas changes.

    It adds blur, uneven light, sensor noise, gamma and a colour cast.
    """
    np.clip(canvas, 0, 255, out=canvas)
    for _ in range(int(rng.integers(0, 4))):
        blur(canvas)
    apply_uneven_light(rng, canvas)
    add_sensor_noise(rng, canvas)
    np.rint(canvas, out=canvas)
    np.clip(canvas, 0, 255, out=canvas)
    return apply_gamma(rng, canvas.astype(np.uint8))


def blur(canvas: Floats) -> None:
    """Apply the filter 1-2-1 down and across, in place; the outermost pixels stay."""
    _blur_middle(canvas[:, :-2], canvas[:, 1:-1], canvas[:, 2:])
    _blur_middle(canvas[:, :, :-2], canvas[:, :, 1:-1], canvas[:, :, 2:])


def _blur_middle(before: Floats, middle: Floats, after: Floats) -> None:
    neighbours = before + after
    neighbours *= np.float32(0.25)
    middle *= np.float32(0.5)
    middle += neighbours


def apply_uneven_light(rng: np.random.Generator, canvas: Floats) -> None:
    ramp = np.linspace(-0.5, 0.5, canvas.shape[1], dtype=np.float32)
    slope_across, slope_down = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    brightness = np.float32(rng.uniform(0.6, 1.1))
    canvas *= brightness + slope_across * ramp + slope_down * ramp[:, None]


def add_sensor_noise(rng: np.random.Generator, canvas: Floats) -> None:
    noise = rng.integers(0, 256, canvas.shape, np.uint8).astype(np.float32)
    noise -= np.float32(127.5)
    noise *= np.float32(rng.uniform(0, 0.16))
    canvas += noise


def apply_gamma(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return planes of levels [3, size, size] as a picture with gamma and a colour cast."""
    gamma = math.exp(rng.uniform(-0.4, 0.4))
    curve = np.array([255 * math.pow(level / 255, gamma) for level in range(256)])
    image = np.empty((*pixels.shape[1:], 3), np.uint8)
    for channel in range(3):
        channel_curve = np.rint(curve * rng.uniform(0.8, 1)).astype(np.uint8)
        image[:, :, channel] = channel_curve[pixels[channel]]
    return image

"""A fed tensor as something to look at or listen to: a picture, a sound, a heat map, or its numbers."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qpipe.types import Array, Preprocessing

RATE = 16000  # Hz, where nobody says
SOUND = 1000  # values on one axis that make a sound
MAPS = 8  # of the channels of a feature map
LEAST = 96  # pixels of a shown side: smaller ones are enlarged, without smoothing
COLOURS = np.array(  # from low to high, as viridis
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64
)


@dataclass(frozen=True)
class View:
    """A tensor in the form that suits it."""

    kind: str  # picture, sound, heat map, numbers
    suffix: str
    image: Image.Image | None = None
    sound: tuple[int, Array] | None = None  # rate, 16-bit values
    array: Array | None = None
    note: str = ""  # how to read it
    text: str = ""  # the numbers, where there is no picture

    def save(self, path: Path) -> None:
        """Write the file."""
        if self.image is not None:
            self.image.save(path)
        elif self.sound is not None:
            rate, values = self.sound
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(rate)
                file.writeframes(values.astype("<i2").tobytes())
        elif self.array is not None:
            np.save(path, self.array, allow_pickle=False)


def view(tensor: Array, how: Preprocessing, rate: int | None = None) -> View:
    """What suits a tensor as fed, batch axis of 1 in front."""
    array = tensor[0]
    if how.layout != "none" and array.ndim == 3:
        pixels = source(tensor, how)
        if pixels.shape[2] in (1, 3):
            return View("picture", ".png", picture(pixels))
        return _heat(np.moveaxis(pixels, 2, 0))
    squeezed = np.squeeze(array)
    if squeezed.ndim == 1 and squeezed.size >= SOUND:
        return _sound(source(tensor, how).reshape(-1), rate)
    if array.ndim == 3 and min(array.shape[:2]) > 3 and array.shape[2] == 3:
        return _stretched(array)
    if array.ndim == 3 and min(array.shape[1:]) > 3 and array.shape[0] == 3:
        return _stretched(np.moveaxis(array, 0, -1))
    if squeezed.ndim in (2, 3) and squeezed.dtype.kind in "fiu" and min(squeezed.shape[-2:]) > 1:
        return _heat(squeezed if squeezed.ndim == 3 else squeezed[None])
    return View("numbers", ".npy", array=array, text=_text(array))


def source(tensor: Array, how: Preprocessing) -> Array:
    """Back from what the network is fed to its source: channels last, times std, plus mean. Float64, not rounded."""
    array: Array = tensor[0].astype(np.float64)
    if how.layout == "NCHW":
        array = np.moveaxis(array, 0, -1)
    if how.dtype == "float32":
        array = array * np.asarray(how.std) + np.asarray(how.mean)
    return array


def picture(pixels: Array) -> Image.Image:
    """Values of 0 to 255, [H, W, 1 or 3], as they are: what lies outside is clipped."""
    clipped = np.clip(np.rint(np.nan_to_num(pixels)), 0, 255).astype(np.uint8)
    return Image.fromarray(clipped[:, :, 0] if clipped.shape[2] == 1 else clipped)


def _stretched(pixels: Array) -> View:
    low = float(np.nanmin(pixels))
    high = float(np.nanmax(pixels))
    note = f"no mean, std and layout are declared: shown from its least value, {low:.4g}, to its greatest, {high:.4g}"
    return View("picture", ".png", picture(_unit(pixels) * 255), note=note)


def _heat(maps: Array) -> View:
    """[channels, rows, columns], each channel over its own range."""
    tiles = [_coloured(each) for each in maps[:MAPS]]
    gap = np.full((tiles[0].shape[0], 2, 3), 255, np.uint8)
    joined = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    factor = -(-LEAST // min(tiles[0].shape[:2]))
    image = Image.fromarray(np.repeat(np.repeat(joined, factor, axis=0), factor, axis=1))
    more = f", the first {MAPS} of {len(maps)} channels" if len(maps) > MAPS else ""
    return View(
        "heat map",
        ".png",
        image,
        note=f"rows by columns as in the tensor{more}; {_scales(maps[:MAPS])}",
    )


def _scales(maps: Array) -> str:
    """What the colours of each stand for."""
    ranges = [(values.min(), values.max()) for values in map(np.nan_to_num, maps)]
    if len(ranges) == 1:
        return f"dark is its least value, {ranges[0][0]:.4g}, yellow {ranges[0][1]:.4g}"
    each = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in ranges)
    return f"dark is the least value of each, yellow its greatest: {each}"


def _coloured(values: Array) -> Array:
    unit = _unit(values)
    anchors = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(unit, anchors, COLOURS[:, c]) for c in range(3)], axis=-1).astype(
        np.uint8
    )


def _unit(values: Array) -> Array:
    values = np.nan_to_num(values.astype(np.float64))
    span = float(values.max() - values.min())
    return (values - values.min()) / span if span else np.zeros_like(values)


def _sound(values: Array, rate: int | None) -> View:
    """Floats are -1 to 1, unless they go far beyond: then they are 16-bit values."""
    values = np.nan_to_num(values)
    scaled = values if np.abs(values).max(initial=0) > 2 else values * 32767
    note = "" if rate else f"its rate is not known: written as {RATE} Hz"
    return View(
        "sound", ".wav", sound=(rate or RATE, np.clip(np.rint(scaled), -32768, 32767)), note=note
    )


def _text(array: Array) -> str:
    flat: list[Any] = array.reshape(-1)[:32].tolist()
    shown = ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in flat)
    return shown + (", ..." if array.size > len(flat) else "")
